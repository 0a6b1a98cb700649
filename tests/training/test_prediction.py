import csv
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from transformers import Wav2Vec2FeatureExtractor

from hf_utils.errors import UserError
from hf_utils.training.prediction import find_audio, predict_files

RATE = 8000
GENRES = ["quiet, soft", "loud"]


class LoudnessModel(torch.nn.Module):
    """Probability of "loud" = sigmoid of a window's mean sample, so that windows can be computed by hand."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(id2label=dict(enumerate(GENRES)), num_labels=2)
        self.weight = torch.nn.Parameter(torch.tensor(1.0))
        self.batches = []

    device, dtype = torch.device("cpu"), torch.float32

    def forward(self, input_values):
        self.batches.append(tuple(input_values.shape))
        assert not self.training and not torch.is_grad_enabled()
        mean = input_values.mean(dim=1)
        return SimpleNamespace(logits=torch.stack([torch.zeros_like(mean), mean * self.weight], dim=1))


def write_levels(path, levels, seconds=1.0, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.repeat(np.float32(levels), round(seconds * rate)), rate)


def predict(path, output_dir, **changes):
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=False)
    model = LoudnessModel()
    options = {"window_samples": 2 * RATE, "hop_samples": RATE, "batch_size": 2} | changes
    return model, predict_files(model, extractor, path, output_dir=output_dir, **options)


def read_rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_a_file_is_the_mean_of_its_windows(tmp_path):
    write_levels(tmp_path / "a.wav", [0.8, 0.4, 0.2, -0.6])
    model, (done, failures) = predict(tmp_path / "a.wav", tmp_path / "out", per_window=True)
    windows = sigmoid(np.array([0.6, 0.3, -0.2]))
    assert (done, failures) == (1, []) and model.batches == [(2, 2 * RATE), (1, 2 * RATE)]
    (row,) = read_rows(tmp_path / "out/predictions.csv")
    assert list(row) == ["file", "prediction", *GENRES]
    assert (row["file"], row["prediction"]) == ("a.wav", "loud")
    assert float(row["loud"]) == pytest.approx(windows.mean(), abs=1e-4)
    timeline = read_rows(tmp_path / "out/timeline/a.wav.csv")
    assert [(float(r["start_seconds"]), float(r["end_seconds"])) for r in timeline] == [(0, 2), (1, 3), (2, 4)]
    assert [r["prediction"] for r in timeline] == ["loud", "loud", GENRES[0]]
    assert [float(r["loud"]) for r in timeline] == pytest.approx(windows, abs=1e-4)


def test_tables_have_no_more_digits_than_say_something(tmp_path):
    write_levels(tmp_path / "a.wav", [0.8, 0.4, 0.2, -0.6], seconds=1 / 3)
    predict(tmp_path / "a.wav", tmp_path / "out", per_window=True, window_samples=2999, hop_samples=1000)
    for path, digits in (("predictions.csv", [6, 6]), ("timeline/a.wav.csv", [3, 3, 6, 6])):
        for row in read_rows(tmp_path / "out" / path):
            numbers = [value for name, value in row.items() if name not in ("file", "prediction")]
            assert [len(number.partition(".")[2]) for number in numbers] == digits


def test_a_short_clip_is_repeated_and_another_rate_resampled(tmp_path):
    write_levels(tmp_path / "short.flac", [0.5], seconds=0.75, rate=16000)
    model, _ = predict(tmp_path, tmp_path / "out", per_window=True)
    assert model.batches == [(1, 2 * RATE)]
    (row,) = read_rows(tmp_path / "out/timeline/short.flac.csv")
    assert float(row["end_seconds"]) == 0.75
    assert float(row["loud"]) == pytest.approx(sigmoid(0.5), abs=1e-2)  # zeros as padding would give sigmoid(0.19)


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


def test_an_interrupted_job_keeps_what_was_done(tmp_path, monkeypatch):
    for name in ("a.wav", "b.wav"):
        write_levels(tmp_path / "in" / name, [0.5, 0.5])
    calls = []

    def interrupt(self, input_values):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, input_values)

    original = LoudnessModel.forward
    monkeypatch.setattr(LoudnessModel, "forward", interrupt)
    with pytest.raises(KeyboardInterrupt):
        predict(tmp_path / "in", tmp_path / "out")
    assert [row["file"] for row in read_rows(tmp_path / "out/predictions.csv")] == ["a.wav"]


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
