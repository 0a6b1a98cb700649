"""Tags of music files: planned from predictions, written, verified, undone; killed, changed, odd and damaged."""

import csv
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import mutagen
import numpy as np
import pytest
import soundfile
from media_files import LOSSLESS, LOSSY, Codec, write_media
from mutagen.apev2 import APEv2
from mutagen.flac import FLAC
from mutagen.id3 import APIC, ID3, TCON, TIT2, TYER

from hf_utils import audio
from hf_utils.errors import UserError
from hf_utils.files import ORIGIN_FILE, read_file_state
from hf_utils.launch import lock_file
from hf_utils.tags import tag_rewrite
from hf_utils.tags.tag_commands import main
from hf_utils.tags.tag_fields import TagError, explain_tag_errors, open_tags

ROOT = Path(__file__).resolve().parents[2]
RATE = 16000
FORMATS = {
    "a.wav": ("WAV", "PCM_16"),
    "b.mp3": ("MP3", None),
    "c.flac": ("FLAC", "PCM_24"),
    "d.ogg": ("OGG", "VORBIS"),
    "e.opus": ("OGG", "OPUS"),
    "f.aiff": ("AIFF", "PCM_16"),
    "g.m4a": LOSSY["aac.m4a"],
    "h.m4a": LOSSLESS["alac.m4a"],
}


def write_sound(path, kind=("WAV", "PCM_16"), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).uniform(-0.3, 0.3, (RATE, 2))
    if isinstance(kind, Codec):
        write_media(path, samples, RATE, kind)
    else:
        soundfile.write(path, samples, RATE, format=kind[0], subtype=kind[1])


class Library:
    """A folder of music, and predictions of it: every file is rock with 0.75."""

    def __init__(self, folder, formats=FORMATS):
        self.music, self.out = folder / "music", folder / "out"
        self.out.mkdir()
        self.plan = self.out / "tags.jsonl"
        for seed, (name, kind) in enumerate(formats.items()):
            write_sound(self.music / name, kind, seed)
        self.predict(dict.fromkeys(formats, "rock"))

    def predict(self, genres):
        model = {"name": "me/tagger", "revision": "0123abc", "journal": "predictions_journal.jsonl"}
        (self.out / ORIGIN_FILE).write_text(json.dumps({"predict_path": str(self.music), "models": [model]}))
        with open(self.out / "predictions.csv", "w", newline="", errors="backslashreplace") as file:
            rows = [[name, genre, "0.25", "0.75"] for name, genre in genres.items()]
            csv.writer(file).writerows([["file", "prediction", "jazz", "rock"], *rows])

    def run(self, command, *options):
        return main([command, str(self.out / "predictions.csv" if command == "plan" else self.plan), *options])

    def files(self):
        return sorted(path for path in self.music.iterdir() if not path.name.startswith("."))

    def states(self):
        return {path.name: read_file_state(path) for path in self.files()}

    def genres(self):
        return {path.name: open_tags(str(path)).genres for path in self.files()}

    def sounds(self):
        return {path.name: audio.decode(path)[0].tobytes() for path in self.files()}


@pytest.fixture
def library(tmp_path):
    return Library(tmp_path)


@pytest.fixture
def one(tmp_path):
    """A library of an MP3 file."""
    return Library(tmp_path, {"b.mp3": FORMATS["b.mp3"]})


def test_every_format_is_tagged_verified_and_restored(library, capsys):
    os.chmod(library.music / "b.mp3", 0o640)
    states, sounds = library.states(), library.sounds()
    assert library.run("plan") == 0 and library.states() == states  # nothing is written yet
    assert library.run("show") == 0
    assert f"{library.music / 'd.ogg'}\n- (no genre)\n+ rock  (0.750 by me/tagger)\n" in capsys.readouterr().out
    assert library.run("apply") == 0
    assert library.genres() == dict.fromkeys(FORMATS, ["rock"]) and library.sounds() == sounds
    assert all(now[1] > states[name][1] for name, now in library.states().items())
    assert (library.music / "b.mp3").stat().st_mode & 0o777 == 0o640
    provenance = str(mutagen.File(library.music / "b.mp3")["TXXX:GENRE_PROVENANCE"])
    assert mutagen.File(library.music / "e.opus")["genre_provenance"] == [provenance]
    expected = {
        "genre": "rock",
        "confidence": 0.75,
        "model": "me/tagger",
        "revision": "0123abc",
        "by": "hf_utils.tags",
    }
    assert json.loads(provenance) == expected
    states = library.states()
    assert library.run("apply") == 0 and library.states() == states  # and again: nothing is left to do
    assert library.run("verify") == 0
    assert f"{len(FORMATS)} files as planned, sound unchanged" in capsys.readouterr().out
    with pytest.raises(UserError, match="undo it first"):
        library.run("plan")
    assert library.run("undo") == 0
    assert library.genres() == dict.fromkeys(FORMATS, []) and library.sounds() == sounds
    assert all(open_tags(str(library.music / name)).fields == ([], []) for name in FORMATS)
    assert [path.name for path in library.out.iterdir() if "journal" in path.name] == []
    assert library.run("plan") == 0  # undone is as never done
    with pytest.raises(UserError, match="nothing to undo"):
        library.run("undo")


def test_a_genre_of_its_own_is_replaced_only_if_told_and_comes_back_as_it_was(library, capsys):
    comments, frames = FLAC(library.music / "c.flac"), ID3()
    comments["Genre"] = ["Free Jazz", "Live"]
    comments.save()
    frames.add(TCON(encoding=0, text=["(17)", "(8)"]))
    frames.save(library.music / "b.mp3", v2_version=3, v23_sep=None)
    opus = mutagen.File(library.music / "e.opus")
    opus["genre"] = " "
    opus.save()
    m4a = mutagen.File(library.music / "g.m4a")
    m4a["\xa9gen"] = ["Dub", "Ska"]
    m4a.save()
    assert library.genres()["b.mp3"] == ["Rock", "Jazz"]
    library.run("plan")
    assert "3 left out: with a genre of their own" in capsys.readouterr().out
    library.run("plan", "--replace_genres")
    library.run("show")
    assert "- Rock, Jazz\n+ rock" in capsys.readouterr().out
    assert library.run("apply") == 0 and library.genres() == dict.fromkeys(FORMATS, ["rock"])
    assert library.run("undo") == 0
    assert FLAC(library.music / "c.flac")["genre"] == ["Free Jazz", "Live"]
    assert ID3(library.music / "b.mp3", translate=False)["TCON"].text == ["(17)", "(8)"]
    assert mutagen.File(library.music / "e.opus")["genre"] == [" "]
    assert mutagen.File(library.music / "g.m4a")["\xa9gen"] == ["Dub", "Ska"]


def test_all_other_tags_of_an_mp3_file_stay(one):
    path = one.music / "b.mp3"
    frames = ID3()
    frames.add(TIT2(encoding=1, text="Жар"))
    frames.add(TYER(encoding=0, text="1999"))
    frames.add(APIC(encoding=0, mime="image/png", type=3, desc="", data=b"picture" * 999))
    frames.save(path, v2_version=3)
    old = b"TAG" + "Жар".encode("cp1251").ljust(124, b"\0") + b"\xff"  # ID3v1 has no letters but these
    with path.open("ab") as file:
        file.write(old)
    one.run("plan")
    assert one.run("apply") == 0
    found = ID3(path, translate=False, load_v1=False)
    assert found.version == (2, 3, 0) and found["TCON"].text == ["rock"]
    assert (str(found["TIT2"]), str(found["TYER"]), found["APIC:"].data) == ("Жар", "1999", b"picture" * 999)
    assert path.read_bytes()[-128:] == old


def test_a_genre_in_an_old_tag_counts(one, capsys):
    path = one.music / "b.mp3"
    with path.open("ab") as file:
        file.write(b"TAG" + b"Song".ljust(124, b"\0") + b"\x08")
    assert one.run("plan") == 0 and "0 files planned" in capsys.readouterr().out
    one.run("plan", "--replace_genres")
    assert one.run("apply") == 0
    assert ID3(path)["TIT2"].text == ["Song"] and one.genres() == {"b.mp3": ["rock"]}  # a new tag hides the old one
    assert one.run("undo") == 0 and one.genres() == {"b.mp3": ["Jazz"]}


def test_a_genre_in_a_place_that_is_not_written_is_no_missing_genre(library, capsys):
    with soundfile.SoundFile(library.music / "a.wav", "w", RATE, 2) as sound:
        sound.genre = "Polka"
        sound.write(np.zeros((RATE, 2)))
    tags = APEv2()
    tags["Genre"] = "Ska"
    tags.save(library.music / "b.mp3")
    assert library.run("plan", "--replace_genres") == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in errors] == ["a.wav", "b.mp3"]
    assert "Polka in a RIFF INFO" in errors[0] and "Ska in an APE tag" in errors[1]


def test_what_cannot_be_tagged_gets_one_line_and_the_rest_goes_on(library, tmp_path, capsys):
    music = library.music
    (music / "link.mp3").symlink_to(tmp_path / "elsewhere.mp3")
    write_sound(tmp_path / "elsewhere.mp3", FORMATS["b.mp3"])
    (music / "linked.flac").symlink_to("c.flac")
    os.link(music / "d.ogg", music / "hard.ogg")
    os.chmod(music / "a.wav", 0o444)
    (music / "broken.mp3").write_bytes(b"no music at all" * 999)
    bad = os.fsdecode(b"caf\xe9\n.aiff")
    (music / "f.aiff").rename(music / bad)
    names = [*FORMATS, bad, "link.mp3", "linked.flac", "broken.mp3", "gone.wav"]
    library.predict(dict.fromkeys(names, "rock"))
    assert library.run("plan") == 1
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().err.splitlines())
    expected = {
        "a.wav": "read-only",
        "d.ogg": "hard links",
        "link.mp3": str(tmp_path / "elsewhere.mp3"),
        "linked.flac": "same file as c.flac",
        "broken.mp3": "no format",
        "gone.wav": "missing",
        "f.aiff": "missing",
    }
    assert lines.keys() == expected.keys() and all(word in lines[name] for name, word in expected.items())
    (music / "c.flac").unlink()
    shutil.copy(tmp_path / "elsewhere.mp3", music / "b.mp3")
    assert library.run("apply") == 1
    captured = capsys.readouterr()
    assert captured.out == "5 files tagged, 2 files left out\n"
    assert "c.flac: is missing" in captured.err and "b.mp3: has changed since it was planned" in captured.err
    assert (music / "link.mp3").is_symlink() and open_tags(str(tmp_path / "elsewhere.mp3")).genres == ["rock"]
    assert open_tags(f"{music}/{bad}").genres == ["rock"]


def test_bytes_that_look_like_a_frame_make_no_mp3_file(tmp_path):
    frame = bytes.fromhex("fffb9064").ljust(417, b"\0")  # 128 kbit/s, 44.1 kHz
    path = tmp_path / "a.wv"
    path.write_bytes(b"wvpk" + bytes(300) + 2 * frame + bytes(5000))
    assert mutagen.mp3.MP3(path).info.layer == 3
    with pytest.raises(TagError, match="no format whose tags are written here"):
        open_tags(str(path))


def test_unknown_and_unlikely_genres_are_not_planned(library, capsys):
    library.predict({"a.wav": "unknown", "b.mp3": "jazz", "c.flac": "rock"})
    assert library.run("plan", "--min_confidence", "0.5") == 0
    captured = capsys.readouterr().out
    assert "1 left out: predicted as unknown" in captured and "1 left out: below a confidence of 0.5" in captured
    assert [json.loads(line)["file"] for line in library.plan.read_text().splitlines()] == [
        str(library.music / "c.flac")
    ]


def test_predictions_of_moved_and_of_changed_files(one, tmp_path, capsys):
    name, state = "b.mp3", read_file_state(one.music / "b.mp3")
    journal = one.out / "predictions_journal.jsonl"
    journal.write_text(f'{{"model": 1}}\n{json.dumps({"file": name, "state": state, "result": {}})}\n{{"file": "b')
    one.music.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="not in .*music any more: say by --music"):
        one.run("plan")
    assert one.run("plan", "--music", str(tmp_path / "moved")) == 0
    assert "changed" not in capsys.readouterr().out
    os.utime(tmp_path / "moved" / name)
    assert one.run("plan", "--music", str(tmp_path / "moved")) == 0
    assert "1 changed since they were predicted" in capsys.readouterr().out


# Where a process is killed at its third file: which call of what, and whether before or after it.
KILLS = {
    "copying": (shutil, "copyfileobj", 3, False),
    "before the tags": (tag_rewrite, "_put_fields", 3, False),
    "after the tags": (tag_rewrite, "_put_fields", 3, True),
    "before the journal": (tag_rewrite, "read_file_state", 5, False),
    "after the journal": (os, "replace", 3, False),
    "replaced": (os, "replace", 3, True),
}


def run_and_die(library, command, kill):
    """Call a command in a process that is killed where `kill` says."""
    module, name, call, afterwards = KILLS[kill]
    real, calls = getattr(module, name), []

    def deadly(*args, **options):
        calls.append(args)
        result = real(*args, **options) if afterwards or len(calls) < call else None
        if len(calls) == call:
            if name == "copyfileobj":
                args[1].write(args[0].read(1000))
                args[1].flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(module, name, deadly)
    library.run(command)


@pytest.mark.parametrize("kill", KILLS)
def test_a_killed_command_leaves_whole_files_and_is_continued(tmp_path, kill):
    formats = dict([*FORMATS.items()][:4])
    library = Library(tmp_path, formats)
    sounds = library.sounds()
    library.run("plan")
    for command, before, after in (("apply", [], ["rock"]), ("undo", ["rock"], [])):
        process = multiprocessing.get_context("fork").Process(target=run_and_die, args=(library, command, kill))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        num_done = 3 if kill == "replaced" else 2
        assert [path.name[:7] for path in library.music.glob(".*")] == [".aside-"] * (kill != "replaced")
        assert [*library.genres().values()] == [after] * num_done + [before] * (len(formats) - num_done)
        assert library.sounds() == sounds
        assert library.run(command) == 0
        assert library.genres() == dict.fromkeys(formats, after) and library.sounds() == sounds
        assert [*library.music.glob(".*")] == []


def test_damaged_tags_are_one_line(library, capsys):
    path = library.music / "d.ogg"
    content = bytearray(path.read_bytes())
    content[content.index(b"\x03vorbis") + 7] = 255  # the length of the first comment
    path.write_bytes(content)
    assert library.run("plan") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("d.ogg: its tags cannot be read")
    with pytest.raises(TagError, match="IndexError"), explain_tag_errors():  # which other damage has raised
        raise IndexError


def test_a_line_cut_short_does_not_spoil_the_next(library):
    library.run("plan")
    run_limited = library.plan.read_text().splitlines(keepends=True)
    library.plan.write_text("".join(run_limited[:2]))
    library.run("apply")
    journal = library.out / "tags.jsonl.journal"
    with journal.open("ab") as file:
        file.write(b'{"file": "/music/c.fl')
    library.plan.write_text("".join(run_limited))
    assert library.run("apply") == 0 and library.run("verify") == 0
    assert library.run("undo") == 0 and library.genres() == dict.fromkeys(FORMATS, [])


@pytest.mark.parametrize(("old", "new"), [(b".{40}$", b""), (b'"old"', b'"o1d"'), (b".*", b"0")])
def test_a_damaged_line_in_the_middle_stops_everything_and_the_journal_stays(library, old, new):
    library.run("plan")
    library.run("apply")
    journal = library.out / "tags.jsonl.journal"
    lines = journal.read_bytes().split(b"\n")
    lines[1] = re.sub(old, new, lines[1], count=1)
    journal.write_bytes(b"\n".join(lines))
    before = journal.read_bytes(), library.genres()
    for command in ("undo", "verify", "apply"):
        with pytest.raises(UserError, match=f"{journal.name}, line 2 is damaged"):
            library.run(command)
    assert (journal.read_bytes(), library.genres()) == before


def test_undo_leaves_what_was_changed_since_and_says_so(library, capsys):
    library.run("plan")
    library.run("apply")
    for name, key, value in (("c.flac", "genre", "Dub"), ("d.ogg", "title", "Song")):
        file = mutagen.File(library.music / name)
        file[key] = value
        file.save()
    capsys.readouterr()
    assert library.run("verify") == 1
    assert f"{library.music / 'c.flac'}: has the genre Dub, not rock\n" == capsys.readouterr().err
    assert library.run("undo") == 1
    captured = capsys.readouterr()
    assert captured.out == "7 files restored, 1 file left out\n" and "c.flac: has the genre Dub now" in captured.err
    assert library.genres() == {**dict.fromkeys(FORMATS, []), "c.flac": ["Dub"]}
    assert mutagen.File(library.music / "d.ogg")["title"] == ["Song"]
    file = mutagen.File(library.music / "c.flac")
    file["genre"] = "rock"
    file.save()
    assert library.run("undo") == 0
    assert capsys.readouterr().out == "7 files restored before, 1 file restored\n"


def test_other_sound_is_noticed(one, monkeypatch, capsys):
    before = (one.music / "b.mp3").read_bytes()
    one.run("plan")
    sounds = iter("ab")
    with monkeypatch.context() as patch:
        patch.setattr(tag_rewrite, "hash_sound", lambda path: next(sounds))
        assert one.run("apply") == 1
    assert "would not sound the same" in capsys.readouterr().err
    assert (one.music / "b.mp3").read_bytes() == before and len([*one.music.iterdir()]) == 1
    assert one.run("apply") == 0
    frames = ID3(one.music / "b.mp3")
    write_sound(one.music / "b.mp3", FORMATS["b.mp3"], seed=9)
    frames.save(one.music / "b.mp3")
    assert one.run("verify") == 1 and "sounds different" in capsys.readouterr().err


def test_two_at_once(one, capsys):
    one.run("plan")
    with lock_file(one.out / "tags.jsonl.journal"), pytest.raises(UserError, match="another process"):
        one.run("apply")
    aside = tag_rewrite._aside_path(str(one.music / "b.mp3"))
    with lock_file(aside):
        assert one.run("apply") == 1 and aside.exists()
    assert "is being written by another process" in capsys.readouterr().err
    assert one.run("apply") == 0 and not aside.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,prediction,rock\na.wav,polka,1\n", "column of its genre"),
        ("track_id,label\n1,2\n", "no table of predictions"),
        ("file,prediction,rock\na.wav,rock,much\n", "much"),
    ],
)
def test_other_tables_are_refused(library, content, message):
    (library.out / "predictions.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        library.run("plan")


def test_other_plans_are_refused(library):
    library.run("plan")
    line = library.plan.read_text().splitlines()[0]
    for content, message in (
        (f"{line}\n{line}\n", "line 2 has a file of an earlier line"),
        (line.replace('"rock"', "7"), "line 1 is no planned tag.*new is 7"),
        ("file,prediction", "line 1"),
    ):
        library.plan.write_text(content)
        with pytest.raises(UserError, match=message):
            library.run("apply")
    with pytest.raises(UserError, match="prediction.csv cannot be read"):
        main(["plan", str(library.out / "prediction.csv")])
    (library.out / ORIGIN_FILE).unlink()
    with pytest.raises(UserError, match="same --do_predict once more"):
        library.run("plan")


def test_a_missing_package_is_one_message():
    code = "import sys, runpy; sys.modules['mutagen'] = None; runpy.run_module('hf_utils.tags', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "GPL" in done.stderr and "pip install -r requirements-tags.txt" in done.stderr
