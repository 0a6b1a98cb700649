"""CSV and JSON lines as people's programs write them: read as meant with a notice, or refused by row."""

from pathlib import Path

import pytest

from hf_utils.data.clips import genre_names, load_clips
from hf_utils.data.text_tables import read_csv, read_json_lines
from hf_utils.errors import UserError

ROWS = [("a.wav", "jazz", "Bo"), ("b.wav", "rock", ""), ("c, d.wav", "soul", "Känd")]
COLUMNS = {"path": ["a.wav", "b.wav", "c, d.wav"], "label": ["jazz", "rock", "soul"], "artist": ["Bo", None, "Känd"]}


def join(separator, rows=ROWS, header=("path", "label", "artist")):
    return [separator.join(f'"{field}"' if "," in field else field for field in row) for row in [header, *rows]]


def read(tmp_path, content):
    path = tmp_path / "clips.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_csv(path).to_dict()


@pytest.mark.parametrize(
    ("content", "notice"),
    [
        ("\n".join(join(",")), ""),
        ("\r\n".join(join(",")) + "\r\n\r\n", ""),
        ("\r".join(join(",")), ""),
        ("\n".join(join(", ")), ""),
        ("\n".join(join(";")), "semicolons"),
        ("\n".join(join("\t")), "tabs"),
        ("\n".join(join("|")), "vertical bars"),
        ("\n".join(["sep=;", *join(";")]), "semicolons"),
        ("\r\n".join(["", "", *join(";")]), "semicolons"),
        ("\n".join(["sep=,", *join(",")]), ""),
        ("\n".join([*join(","), ",,", ",,", ",,"]), "3 rows without any value"),
        ("\n".join([*join(";"), ";;", " ; ;"]), "2 rows without any value"),
        ("\n".join([join(",")[0], ",,", *join(",")[1:]]), "1 rows without any value"),
        ("\n".join(line + ",," for line in join(",")), ""),
        ("\n".join([join(",")[0], *(line + ",,," for line in join(",")[1:])]), ""),
        ("\n".join(f"{n},{line}" for n, line in zip(["", 0, 1, 2], join(","), strict=True)), "column 1 has no name"),
        ("\n".join(f"{line},{line.split(',')[0]}" for line in join(",", [ROWS[0]])), "read once: path"),
        ("\n".join(join(",")).encode("utf-8-sig"), ""),
        ("\n".join(join(";")).encode("utf-8-sig"), "semicolons"),
        ("\n".join(join(",")).encode("utf-16"), "UTF-16"),
        (b"\xfe\xff" + "\n".join(join(",")).encode("utf-16-be"), "UTF-16"),
        ("\n".join(join("\t")).encode("utf-16-le"), "UTF-16"),
        ("\r\n".join(join(";")).encode("utf-16-be"), "UTF-16"),
    ],
)
def test_what_spreadsheets_write(tmp_path, content, notice, caplog):
    found = read(tmp_path, content)
    rows = len(found["path"])
    assert found == {name: values[:rows] for name, values in COLUMNS.items()} and rows in (1, 3)
    assert notice in caplog.text and bool(caplog.text) == bool(notice)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("path,label\na.wav,jazz\nb.wav\nc.wav,rock\n", ["commas", "row 3 (1)", "2 fields"]),
        ("path;label;artist\na.wav;jazz;Bo\nb.wav;rock\n", ["semicolons", "row 3 (2)", "3 fields"]),
        ("path\tlabel\na.wav\tjazz\n\nb.wav rock\n", ["tabs", "row 4 (1)"]),
        ("path,label\na.wav,jazz\nb.wav;rock\nc.wav;soul\n", ["commas", "row 3 (1), row 4 (1)"]),
        ("path,label\nc, d.wav,soul\n", ["commas", "row 2 (3)", "Quote"]),
        ('path,label\na.wav,"jazz\nb.wav,rock\nc.wav,soul\n', ["row 2", "quotes"]),
        ('path,label\n"Heroes".wav,rock\n', ["row 2", "quotes"]),
        ("path,label,label\na.wav,jazz,Blue Note\n", ["columns 2 and 3", "'label'"]),
        ("path,label,artist,label\na.wav,jazz,Bo,\n", ["columns 2 and 4", "'label'"]),
        ("path,label\nKönig.wav,rock\n".encode("latin-1"), ["UTF-8", "byte 12"]),
        ("path;label\nKönig.wav;rock\n".encode("cp1252"), ["UTF-8"]),
        (b"\xff\xfep\0a\0t", ["UTF-16"]),
    ],
)
def test_what_is_not_clear_is_refused(tmp_path, content, words):
    with pytest.raises(UserError) as refused:
        read(tmp_path, content)
    assert all(word in str(refused.value) for word in ["clips.csv", *words]), refused.value


def test_an_empty_file_has_no_rows(tmp_path):
    for content in ("", "\n\n", "path,label\n", "\ufeff"):
        with pytest.raises(UserError, match="holds no clips"):
            Path(tmp_path, "x.csv").write_text(content, encoding="utf-8")
            load_clips(str(tmp_path / "x.csv"))


def make_files(tmp_path):
    for name in ("jazz/a.wav", "rock/b.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")


@pytest.mark.parametrize("name", ["clips.csv", "clips.tsv", "CLIPS.CSV"])
def test_paths_with_backslashes_are_read_where_that_is_what_exists(tmp_path, name, caplog):
    make_files(tmp_path)
    (tmp_path / name).write_text("path;label\njazz\\a.wav;jazz\n.\\rock\\b.wav;rock\n")
    clips = load_clips(str(tmp_path / name))
    assert clips["track_id"][:] == ["a", "b"] and genre_names(clips) == ["jazz", "rock"]
    assert "2 paths" in caplog.text and "backslashes" in caplog.text


def test_a_file_whose_name_holds_a_backslash_is_itself(tmp_path, caplog):
    make_files(tmp_path)
    (tmp_path / "jazz\\a.wav").write_bytes(b"other")
    (tmp_path / "clips.csv").write_text("path,label\njazz\\a.wav,jazz\n")
    clips = load_clips(str(tmp_path / "clips.csv"))
    assert clips[0]["audio"]["path"] == str(tmp_path / "jazz\\a.wav") and not caplog.text


def test_paths_of_another_computer_are_listed(tmp_path):
    (tmp_path / "clips.csv").write_text("path,label\nC:\\music\\jazz\\a.wav,jazz\n")
    with pytest.raises(UserError, match=r"1 of 1 audio files are missing.*\n.*C:.music"):
        load_clips(str(tmp_path / "clips.csv"))


def test_json_lines(tmp_path, caplog):
    path = tmp_path / "metadata.jsonl"
    path.write_text('{"a": "x\u2028y", "n": 3, "deep": [1]}\n\n{"a": null, "b": " z ", "n": 0.5}\n', encoding="utf-8")
    assert read_json_lines(path).to_dict() == {"a": ["x\u2028y", None], "n": ["3", "0.5"], "b": [None, "z"]}
    assert "deep" in caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}\n{"a": \n', ["line 2"]),
        ("[1, 2]\n", ["line 1"]),
        ('{"a": 1, "label": "x", "label": "y"}\n', ["line 1", "label"]),
    ],
)
def test_json_lines_that_are_none(tmp_path, text, words):
    (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(UserError) as refused:
        read_json_lines(tmp_path / "metadata.jsonl")
    assert all(word in str(refused.value) for word in ["metadata.jsonl", *words]), refused.value
