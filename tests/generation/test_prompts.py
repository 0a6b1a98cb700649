"""Prompts depend on the clip's seed alone, name the genre as it is spoken, and mistakes in files are named."""

import re

import pytest

from hf_utils.errors import UserError
from hf_utils.generation.prompts import hash_prompts, load_prompts

GTZAN_GENRES = ["blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock"]


@pytest.mark.parametrize("genre", GTZAN_GENRES)
def test_shipped_prompts_name_the_genre_and_vary(genre):
    prompts = load_prompts(None, [genre])[genre]
    drawn = [prompts.draw(seed) for seed in range(100)]
    spoken = "hip hop" if genre == "hiphop" else genre
    assert all(prompt.count(spoken) >= 2 for prompt in drawn)
    assert len(set(drawn)) > 95
    tempos = [int(re.search(r"(\d+) BPM", prompt)[1]) for prompt in drawn]
    low, high = prompts.tempo_bpm
    assert all(low <= tempo <= high for tempo in tempos) and max(tempos) - min(tempos) > (high - low) / 2
    assert "{" not in "".join(drawn) and "vocals" not in re.sub("no vocals", "", "".join(drawn))


def test_a_prompt_depends_on_its_seed_alone():
    alone = load_prompts(None, ["jazz"])["jazz"]
    among = load_prompts(None, GTZAN_GENRES)["jazz"]
    assert [alone.draw(seed) for seed in (5, 1, 5)] == [among.draw(5), among.draw(1), among.draw(5)]
    assert alone.draw(1) != alone.draw(5)


def test_spellings_of_a_genre_find_its_prompts():
    assert "hip hop" in load_prompts(None, ["Hip-Hop"])["Hip-Hop"].draw(0)


def test_an_unknown_genre_gets_the_plain_template_with_a_notice(caplog):
    prompts = load_prompts(None, ["jazz", "drum_and_bass"])
    assert prompts["drum_and_bass"].draw(0) == "drum and bass music, instrumental"
    assert "drum_and_bass" in caplog.text and "'jazz'" not in caplog.text


def test_plain_text_and_csv_hold_finished_prompts(tmp_path):
    text, table, yaml = tmp_path / "p.txt", tmp_path / "p.csv", tmp_path / "p.yaml"
    text.write_text("# mine\nblues: slow {blues}: late\njazz: cool jazz\n\nblues: fast blues\n")
    table.write_text('genre,prompt\nblues,slow {blues}: late\njazz,cool jazz\nblues,"fast blues"\n')
    yaml.write_text("genres:\n  blues: ['slow {{blues}}: late', fast blues]\n  jazz: [cool jazz]\n")
    books = [load_prompts(path, ["blues", "jazz"]) for path in (text, table, yaml)]
    assert books[0] == books[1] == books[2]
    assert {books[0]["blues"].draw(seed) for seed in range(20)} == {"slow {blues}: late", "fast blues"}
    assert len({hash_prompts(book) for book in books}) == 1


def test_the_digest_sees_every_change(tmp_path):
    path = tmp_path / "p.yaml"
    digests = set()
    for tempo in ("[60, 70]", "[60, 71]"):
        path.write_text(f"templates: ['{{genre}} at {{tempo}}']\ngenres: {{blues: {{tempo_bpm: {tempo}}}}}\n")
        digests.add(hash_prompts(load_prompts(path, ["blues"])))
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.yaml", "templates: ['{genre} {mood}']\ngenres: {blues: {era: [old]}}", "mood.*expected only.*era"),
        ("p.yaml", "templates: ['{genre']\ngenres: {blues: {era: [old]}}", "brace"),
        ("p.yaml", "templates: ['{genre}']\ngenres: {blues: {era: [1970]}}", "1970.*quotes"),
        ("p.yaml", "genres: {blues: {tempo_bpm: [90, 60], templates: [x]}}", r"\[90, 60\], expected \[lowest"),
        ("p.yaml", "genres: {blues: slow}", "expected a mapping of lists or a list"),
        ("p.yaml", "blues: [slow]", "no mapping `genres`"),
        ("p.yaml", "genres: {blues: [slow]}\ntemplate: [x]", "template "),
        ("p.txt", "just a line", "line 1: expected `genre: prompt`"),
        ("p.csv", "genre,text\nblues,slow", "columns genre and prompt"),
        ("p.json", "{}", "expected a .yaml, .txt or .csv"),
        ("p.txt", None, "cannot be read"),
    ],
)
def test_mistakes_in_prompt_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_prompts(path, ["blues"])
