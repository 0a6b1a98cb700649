"""`--mistakes`: the missed tracks of an evaluated run, from the option to the page."""

import csv
import re

import numpy as np
import pytest
import soundfile
import tiny_models
from safetensors.torch import load_file, save_file
from tones import write_tone

import run_classification
from hf_utils.errors import UserError

OPTIONS = "--dataloader_num_workers 0 --num_proc 1 --use_cpu --precision fp32".split()
TONES_HZ = {"Hip-Hop": 220.0, "rock": 440.0, "blues": 880.0, "jazz": 1320.0}


def start(*options) -> int:
    return run_classification.main([*map(str, (*OPTIONS, *options))])


def prefer(model, genre):
    """Make a model choose `genre` for whatever it hears."""
    weights = load_file(model / "model.safetensors")
    weights["classifier.dense.bias"][list(TONES_HZ).index(genre)] += 10
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def test_the_surest_mistakes_are_on_the_page(tmp_path):
    model = tiny_models.save_run(tmp_path / "model")
    prefer(model, "rock")
    for genre, hz in TONES_HZ.items():
        for track in range(10):
            write_tone(tmp_path / "music" / genre / f"{genre}-{track}.wav", hz * (1 + 0.02 * track), 1.5, seed=track)
    run = tmp_path / "eval"
    options = "--dataset_name", tmp_path / "music", "--output_dir", run, "--mistakes", 2
    assert start("--model_name_or_path", model, "--do_eval", *options) == 0
    with open(run / "predictions_test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    missed = [row for row in rows if row["prediction"] != row["label"]]
    missed.sort(key=lambda row: -float(row[row["prediction"]]))
    assert len(missed) == 3
    page = (run / "mistakes.html").read_text()
    headings = re.findall("<h4>(.*?)</h4>", page)
    assert headings == [f"{row['track_id']}: {row['label']}, taken for {row['prediction']}" for row in missed[:2]]
    assert f"{len(missed)} of {len(rows)} test tracks were missed" in page
    assert page.count("<audio") == page.count('alt="Spectrogram of') == 2
    assert str(tmp_path) not in page and "rights" in page and "without temperature" in page
    for row in missed[:2]:
        heard, rate = soundfile.read(run / "audio" / f"{row['track_id']}.ogg")
        assert rate == 16000 and heard.size == pytest.approx(16000, abs=800)  # a window of 1 s
        hz = np.abs(np.fft.rfft(heard)).argmax() * rate / heard.size
        assert hz == pytest.approx(TONES_HZ[row["label"]] * (1 + 0.02 * int(row["track_id"].split("-")[-1])), rel=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--do_predict", "--predict_path", "."], "mistakes.*do_eval"),
        (["--do_train"], "mistakes.*do_eval"),
        (["--do_eval", "--ensemble_with", "other"], "mistakes.*one checkpoint"),
        (["--do_eval", "--fsdp", "full_shard"], "mistakes.*fsdp"),
    ],
)
def test_where_there_are_no_mistakes_of_one_model_they_are_refused(options, words, tmp_path):
    with pytest.raises(UserError, match=words):
        start("--model_name_or_path", tmp_path, "--output_dir", tmp_path / "run", "--mistakes", 2, *options)
