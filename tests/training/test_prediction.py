import csv
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from media_files import LOSSLESS, LOSSY, write_media
from tiny_models import save_ast
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    PreTrainedConfig,
    Wav2Vec2FeatureExtractor,
    pipeline,
)

from hf_utils import audio
from hf_utils.data.window_lengths import WindowLengths
from hf_utils.errors import UserError
from hf_utils.tags.tag_commands import main as run_tags
from hf_utils.tags.tag_fields import open_tags
from hf_utils.training.classifier import Classifier
from hf_utils.training.prediction import TaggingOptions, find_audio, predict_files
from hf_utils.training.prediction_journal import digest_model
from hf_utils.training.prediction_table import PredictionTable

RATE = 8000
GENRES = ["quiet, soft", "loud"]


class LoudnessModel(torch.nn.Module):
    """Logit of "loud" = a window's mean magnitude less 0.35, so that windows can be computed by hand."""

    def __init__(self):
        super().__init__()
        self.config = PreTrainedConfig(id2label=dict(enumerate(GENRES)))
        self.weight = torch.nn.Parameter(torch.tensor(1.0))
        self.batches = []

    device, dtype = torch.device("cpu"), torch.float32

    def forward(self, input_values):
        self.batches.append(tuple(input_values.shape))
        assert not self.training and not torch.is_grad_enabled()
        excess = (input_values.abs().mean(dim=1) - 0.35) * self.weight
        return SimpleNamespace(logits=torch.stack([torch.zeros_like(excess), excess], dim=1))


def write_levels(path, levels, seconds=1.0, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.repeat(np.float32(levels), round(seconds * rate))
    samples[np.arange(len(samples)) // 32 % 2 == 1] *= -1  # a square wave, whose magnitude is its level
    soundfile.write(path, samples, rate)


def predict(path, output_dir, *, model=None, window_samples=2 * RATE, hop_samples=RATE, **options):
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=False)
    classifier = Classifier(model or LoudnessModel(), extractor, WindowLengths(RATE, window_samples, hop_samples))
    return classifier.model, predict_files(classifier, path, output_dir, TaggingOptions(**{"batch_size": 2} | options))


def read_rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_a_file_is_the_mean_of_its_windows(tmp_path):
    write_levels(tmp_path / "a.wav", [0.8, 0.4, 0.2, 0.6])
    model, (done, failures) = predict(tmp_path / "a.wav", tmp_path / "out", per_window=True)
    windows = sigmoid(np.array([0.6, 0.3, 0.4]) - 0.35)
    assert (done, failures) == (1, []) and model.batches == [(2, 2 * RATE), (1, 2 * RATE)]
    (row,) = read_rows(tmp_path / "out/predictions.csv")
    assert list(row) == ["file", "prediction", "confidence", "margin", "calibrated", *GENRES]
    assert (row["file"], row["prediction"], row["calibrated"]) == ("a.wav", "loud", "no")
    assert float(row["loud"]) == pytest.approx(windows.mean(), abs=1e-4)
    timeline = read_rows(tmp_path / "out/timeline/a.wav.csv")
    assert [(float(r["start_seconds"]), float(r["end_seconds"])) for r in timeline] == [(0, 2), (1, 3), (2, 4)]
    assert [r["prediction"] for r in timeline] == ["loud", GENRES[0], "loud"]
    assert [float(r["loud"]) for r in timeline] == pytest.approx(windows, abs=1e-4)


def test_tables_have_no_more_digits_than_say_something(tmp_path):
    write_levels(tmp_path / "a.wav", [0.8, 0.4, 0.2, 0.6], seconds=1 / 3)
    predict(tmp_path / "a.wav", tmp_path / "out", per_window=True, window_samples=2999, hop_samples=1000)
    for path, digits in (("predictions.csv", [6, 6, 6, 6]), ("timeline/a.wav.csv", [3, 3, 6, 6])):
        for row in read_rows(tmp_path / "out" / path):
            numbers = [value for name, value in row.items() if name not in ("file", "prediction", "calibrated")]
            assert [len(number.partition(".")[2]) for number in numbers] == digits


def test_a_table_says_how_sure_it_is_and_what_is_unknown(tmp_path, caplog):
    for name, level in (("quiet.wav", 0.1), ("middle.wav", 0.5), ("loud.wav", 1.0)):
        write_levels(tmp_path / "music" / name, [level, level])
    model = LoudnessModel()
    model.config.calibration_temperature = 0.1
    loud = sigmoid((np.array([1.0, 0.5, 0.1]) - 0.35) / 0.1)  # in the order of the names
    top = np.maximum(loud, 1 - loud)
    for unknown_below, expected in (
        (None, ["loud", "loud", GENRES[0]]),
        (0.9, ["loud", "unknown", GENRES[0]]),
        (0.93, ["loud", "unknown", "unknown"]),
    ):
        predict(tmp_path / "music", tmp_path / "out", model=model, unknown_below=unknown_below)
        rows = read_rows(tmp_path / "out/predictions.csv")
        assert [row["file"] for row in rows] == ["loud.wav", "middle.wav", "quiet.wav"]
        assert [row["prediction"] for row in rows] == expected
        assert [float(row["confidence"]) for row in rows] == pytest.approx(top, abs=1e-3)
        assert [float(row["margin"]) for row in rows] == pytest.approx(2 * top - 1, abs=1e-3)
        assert [row["calibrated"] for row in rows] == ["yes"] * 3
        assert [float(row["loud"]) for row in rows] == pytest.approx(loud, abs=1e-3)
    assert len(model.batches) == 3  # another threshold computes nothing
    origin = json.loads((tmp_path / "out/predictions_origin.json").read_text())
    assert origin["models"][0]["temperature"] == 0.1
    model.config.calibration_temperature = 0.2
    with pytest.raises(UserError, match="--overwrite"):
        predict(tmp_path / "music", tmp_path / "out", model=model)


def test_as_sure_as_asked_for_is_not_unknown(tmp_path):
    for probability, expected in ((0.5, "loud"), (0.500001, "unknown")):
        PredictionTable(["loud"], False, probability).write(tmp_path / "table.csv", {"a.wav": ["loud", "0.500000"]})
        (row,) = read_rows(tmp_path / "table.csv")
        assert (row["prediction"], row["confidence"], row["margin"]) == (expected, "0.500000", "0.500000")


def test_a_genre_called_unknown_and_files_that_are_unknown_are_not_mixed(tmp_path):
    write_levels(tmp_path / "a.wav", [0.8, 0.4])
    model = LoudnessModel()
    model.config.id2label = {0: "Unknown", 1: "loud"}
    predict(tmp_path / "a.wav", tmp_path / "out", model=model)
    with pytest.raises(UserError, match="unknown_below is given, but a genre of the model is called 'Unknown'"):
        predict(tmp_path / "a.wav", tmp_path / "out", model=model, unknown_below=0.5)


def test_a_short_clip_is_repeated_and_another_rate_resampled(tmp_path):
    write_levels(tmp_path / "short.flac", [0.8], seconds=0.75, rate=16000)
    model, _ = predict(tmp_path, tmp_path / "out", per_window=True)
    assert model.batches == [(1, 2 * RATE)]
    (row,) = read_rows(tmp_path / "out/timeline/short.flac.csv")
    assert float(row["end_seconds"]) == 0.75
    assert float(row["loud"]) == pytest.approx(sigmoid(0.8 - 0.35), abs=1e-2)  # with zeros as padding, sigmoid(-0.05)


def test_folders_formats_and_unreadable_files(tmp_path, caplog):
    music = tmp_path / "music"
    for name in ("one/song.wav", "two/song.wav", "two/song.FLAC", 'odd, "name"\n.ogg'):
        write_levels(music / name, [0.5, 0.5])
    (music / "two/broken.mp3").write_bytes(b"no music at all")
    (music / "empty.wav").touch()
    (music / "tagged.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    (music / "cover.jpg").write_bytes(b"not looked at")
    shutil.copy(music / "one/song.wav", music / "._song.wav")
    _, (done, failures) = predict(music, tmp_path / "out", per_window=True)
    assert done == 4
    assert [name for name, _ in failures] == ["empty.wav", "tagged.m4a", "two/broken.mp3"]
    assert dict(failures)["empty.wav"] == "empty" and "undecodable" in dict(failures)["two/broken.mp3"]
    assert all(name in caplog.text for name, _ in failures)
    names = ['odd, "name"\n.ogg', "one/song.wav", "two/song.FLAC", "two/song.wav"]
    assert [row["file"] for row in read_rows(tmp_path / "out/predictions.csv")] == names
    assert len(list((tmp_path / "out/timeline").rglob("*.csv"))) == 4
    assert all((tmp_path / "out/timeline" / f"{name}.csv").is_file() for name in names)


def test_every_format_of_a_library_is_tagged_and_the_rest_is_counted(tmp_path, caplog):
    music, tone = tmp_path / "music", 0.8 * np.sin(2 * np.pi * 750 * np.arange(28800) / 48000)
    music.mkdir()
    for name, codec in (LOSSLESS | LOSSY).items():
        write_media(music / name, tone[:, None], 48000, codec)
    for name in ("cover.jpg", "back.JPG", "list.m3u", "film.mkv"):
        (music / name).write_bytes(b"not looked at")
    _, (done, failures) = predict(music, tmp_path / "out")
    assert (done, failures) == (18, [])
    rows = read_rows(tmp_path / "out/predictions.csv")
    assert len({Path(row["file"]).suffix for row in rows}) == 17
    magnitude = 0.8 * 2 / np.pi  # of a sine, on average
    assert [float(row["loud"]) for row in rows] == pytest.approx([sigmoid(magnitude - 0.35)] * 18, abs=0.01)
    assert f"{music}: 4 files that are no audio are ignored: .jpg (2), .m3u (1), .mkv (1)." in caplog.text


class StoppingModel(LoudnessModel):
    """Raises at its batch number `stop_at`."""

    def __init__(self, stop_at):
        super().__init__()
        self.stop_at = stop_at

    def forward(self, input_values):
        if len(self.batches) + 1 == self.stop_at:
            raise KeyboardInterrupt
        return super().forward(input_values)


def read_tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def music(tmp_path):
    """Five files in two folders, of a batch each."""
    for number, name in enumerate(("a.wav", "b.flac", "deep/c.ogg", "deep/d.wav", "deep/e.wav")):
        write_levels(tmp_path / "music" / name, [0.1 * number, 0.3, 0.5])
    return tmp_path / "music"


def test_an_interrupted_job_keeps_what_was_done_and_continues(tmp_path, music, caplog):
    predict(music, tmp_path / "whole", per_window=True)
    with pytest.raises(KeyboardInterrupt):
        predict(music, tmp_path / "out", per_window=True, model=StoppingModel(3))
    assert [row["file"] for row in read_rows(tmp_path / "out/predictions.csv")] == ["a.wav", "b.flac"]
    (tmp_path / "out/timeline/deep").mkdir()
    (tmp_path / "out/timeline/deep/.aside-killed").touch()
    with caplog.at_level("INFO"):
        model, (done, failures) = predict(music, tmp_path / "out", per_window=True)
    assert (len(model.batches), done, failures) == (3, 5, [])
    assert "2 of 5" in caplog.text
    assert read_tree(tmp_path / "out") == read_tree(tmp_path / "whole")


@pytest.mark.parametrize(("cut", "again"), [(1, 0), (20, 1), (200, 2)])
def test_a_line_that_was_not_finished_is_done_again(tmp_path, music, cut, again):
    predict(music, tmp_path / "whole", per_window=True)
    predict(music, tmp_path / "out", per_window=True)
    journal = tmp_path / "out/predictions_journal.jsonl"
    os.truncate(journal, journal.stat().st_size - cut)
    (tmp_path / "out/predictions.csv").unlink()
    model, _ = predict(music, tmp_path / "out", per_window=True)
    assert len(model.batches) == again
    assert read_tree(tmp_path / "out") == read_tree(tmp_path / "whole")


def test_new_and_changed_files_are_tagged_and_vanished_ones_left_out(tmp_path, music):
    predict(music, tmp_path / "out", per_window=True)
    write_levels(music / "a.wav", [0.9, 0.7])
    write_levels(music / "b2.wav", [0.9, 0.9])
    (music / "deep/c.ogg").unlink()
    model, _ = predict(music, tmp_path / "out", per_window=True)
    assert len(model.batches) == 2
    predict(music, tmp_path / "fresh", per_window=True)
    assert sorted(read_tree(tmp_path / "out")) == sorted(read_tree(tmp_path / "fresh"))
    for name in ("predictions.csv", "timeline/a.wav.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


def test_predictions_say_of_which_files_and_by_which_model_they_are(tmp_path, music):
    model = LoudnessModel()
    model.config.name_or_path = "runs/loud"
    predict(music, tmp_path / "out", model=model)
    origin = json.loads((tmp_path / "out/predictions_origin.json").read_text())
    made_by, *entries = map(json.loads, (tmp_path / "out/predictions_journal.jsonl").read_text().splitlines())
    assert len(entries) == 5
    assert origin == {
        "predict_path": str(music),
        "models": [
            {
                "name": "runs/loud",
                "revision": made_by["model"],
                "temperature": None,
                "journal": "predictions_journal.jsonl",
            }
        ],
    }
    model.config._commit_hash = "0123abc"
    predict(music, tmp_path / "hub", model=model)
    assert json.loads((tmp_path / "hub/predictions_origin.json").read_text())["models"][0]["revision"] == "0123abc"


def test_predictions_become_tags(tmp_path, music, capsys):
    predict(music, tmp_path / "out")
    assert run_tags(["plan", str(tmp_path / "out/predictions.csv")]) == 0
    assert "5 files planned" in capsys.readouterr().out
    plan = str(tmp_path / "out/tags.jsonl")
    assert run_tags(["apply", plan]) == 0 and run_tags(["verify", plan]) == 0
    genres = {row["file"]: row["prediction"] for row in read_rows(tmp_path / "out/predictions.csv")}
    assert {name: open_tags(str(music / name)).genres for name in genres} == {n: [g] for n, g in genres.items()}
    assert run_tags(["plan", str(tmp_path / "out/predictions.csv"), "--output", str(tmp_path / "new")]) == 0
    assert "5 left out: with that genre already" in capsys.readouterr().out
    predict(music, tmp_path / "unsure", unknown_below=0.999)
    assert run_tags(["plan", str(tmp_path / "unsure/predictions.csv"), "--replace_genres"]) == 0
    assert "5 left out: predicted as unknown" in capsys.readouterr().out


def test_timelines_that_are_missing_are_made(tmp_path, music):
    predict(music, tmp_path / "out")
    model, _ = predict(music, tmp_path / "out", per_window=True)
    assert len(model.batches) == 5
    (tmp_path / "out/timeline/b.flac.csv").unlink()
    model, _ = predict(music, tmp_path / "out", per_window=True)
    assert len(model.batches) == 1 and (tmp_path / "out/timeline/b.flac.csv").is_file()
    model, _ = predict(music, tmp_path / "out")
    assert model.batches == []


def changed_model():
    model = LoudnessModel()
    model.weight.data.fill_(-1.0)
    return {"model": model}


def renamed_genre():
    model = LoudnessModel()
    model.config.id2label[0] = "soft"
    return {"model": model}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        (changed_model, "model"),
        (renamed_genre, "model"),
        (lambda: {"hop_samples": RATE // 2}, "hop_samples 8000, not 4000"),
        (lambda: {"window_samples": RATE}, "window_samples 16000, not 8000"),
    ],
)
def test_what_another_model_or_window_made_is_not_continued(tmp_path, music, changes, word):
    predict(music, tmp_path / "out", per_window=True)
    before = read_tree(tmp_path / "out")
    with pytest.raises(UserError, match=word) as error:
        predict(music, tmp_path / "out", **changes())
    assert "--overwrite" in str(error.value) and "--output_dir" in str(error.value)
    assert read_tree(tmp_path / "out") == before
    predict(music, tmp_path / "out", overwrite=True, **changes())
    predict(music, tmp_path / "fresh", **changes())
    assert read_tree(tmp_path / "out") == read_tree(tmp_path / "fresh")  # no timeline of the other model is left


def test_predictions_of_other_files_are_not_replaced_unasked(tmp_path, music):
    predict(music / "a.wav", tmp_path / "out")
    with pytest.raises(UserError, match=r"other files, such as a\.wav.*--overwrite"):
        predict(music / "b.flac", tmp_path / "out")
    predict(music / "b.flac", tmp_path / "out", overwrite=True)
    assert [row["file"] for row in read_rows(tmp_path / "out/predictions.csv")] == ["b.flac"]


def test_overwrite_continues_what_the_same_command_began(tmp_path, music):
    with pytest.raises(KeyboardInterrupt):
        predict(music, tmp_path / "out", model=StoppingModel(4), overwrite=True)
    model, _ = predict(music, tmp_path / "out", overwrite=True)
    assert len(model.batches) == 2


def test_a_model_is_known_by_its_content_wherever_it_is(tmp_path):
    ast = save_ast(tmp_path / "ast")
    shutil.copytree(ast, tmp_path / "copy")
    digests = []
    for folder in (ast, tmp_path / "copy"):
        model = AutoModelForAudioClassification.from_pretrained(folder)
        digests.append(digest_model(model, AutoFeatureExtractor.from_pretrained(folder)))
    assert digests[0] == digests[1]
    assert digest_model(model, AutoFeatureExtractor.from_pretrained(ast, mean=1.0)) != digests[0]
    model.config.num_hidden_layers = 2
    assert digest_model(model, AutoFeatureExtractor.from_pretrained(ast)) != digests[0]


def test_a_tagger_is_read_as_transformers_reads_it(tmp_path, caplog):
    """Its labels do not exclude each other: sigmoids, whose sum says nothing."""
    folder = save_ast(tmp_path / "ast")
    model = AutoModelForAudioClassification.from_pretrained(folder)
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    samples = (0.1 * np.random.default_rng(0).standard_normal(16240)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    classifier = Classifier(model, extractor, WindowLengths(16000, 16240, 8000))
    with caplog.at_level("INFO"):
        predict_files(classifier, tmp_path / "a.wav", tmp_path / "out", TaggingOptions(batch_size=2))
    (row,) = read_rows(tmp_path / "out/predictions.csv")
    heard = audio.load(tmp_path / "a.wav", 16000)
    expected = pipeline("audio-classification", model=model, feature_extractor=extractor)(heard, top_k=527)
    assert row["prediction"] == expected[0]["label"]
    assert {e["label"]: pytest.approx(e["score"], abs=2e-6) for e in expected} == {
        label: float(row[label]) for label in model.config.id2label.values()
    }
    assert sum(e["score"] for e in expected) > 100 and "do not sum to 1" in caplog.text


def test_any_name_gets_a_row_and_a_timeline(tmp_path):
    names = [
        "-x.wav",
        "2 x.WAV",
        "2 X.wav",
        "2 X.wav.csv/y.wav",
        "a,b;c.wav",
        f"{'t' * 246}.wav",
        f"{'t' * 247}.wav",
        f"{'t' * 247}.mp3",
        f"{'音' * 83}.wav",
        f"{'n' * 200}/{'n' * 250}.wav",
        "line\nbreak.wav",
        os.fsdecode(b"latin-\xe9.wav"),
    ]
    write_levels(tmp_path / "source.wav", [0.5, 0.5])
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "source.wav", tmp_path / "in" / name)
    _, (done, failures) = predict(tmp_path / "in", tmp_path / "out", per_window=True)
    assert (done, failures) == (len(names), [])
    timelines = [p for p in (tmp_path / "out/timeline").rglob("*") if p.is_file()]
    assert len({p.as_posix().casefold() for p in timelines}) == len(names)
    assert all(len(os.fsencode(p.name)) <= 255 for p in timelines)
    shown = {name.encode("utf-8", "backslashreplace").decode() for name in names}
    assert {row["file"] for row in read_rows(tmp_path / "out/predictions.csv")} == shown
    model, _ = predict(tmp_path / "in", tmp_path / "out", per_window=True)
    assert model.batches == []


def test_names_in_messages_stay_on_their_line(tmp_path, caplog):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / os.fsdecode(b"a\n12:00:00 all is well\x1b[2J\xe9.wav")).touch()
    predict(tmp_path / "in", tmp_path / "out")
    assert r"a\n12:00:00 all is well\x1b[2J\udce9.wav: empty" in caplog.text


def test_outputs_that_are_not_finite_are_a_failure(tmp_path, monkeypatch):
    write_levels(tmp_path / "a.wav", [0.5, 0.5])
    monkeypatch.setattr(
        LoudnessModel, "forward", lambda self, input_values: SimpleNamespace(logits=torch.full((1, 2), float("nan")))
    )
    assert predict(tmp_path / "a.wav", tmp_path / "out")[1] == (0, [("a.wav", "the model's outputs are not finite")])


def test_nothing_to_predict_is_the_users_to_mend(tmp_path):
    with pytest.raises(UserError, match="neither a file nor a folder"):
        find_audio(tmp_path / "missing")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"holds no music: expected files ending in .*\.flac"):
        find_audio(tmp_path)
