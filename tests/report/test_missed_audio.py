"""Players of a report: missed tracks are found by name, and heard by the weights of runs that missed them."""

import shutil

import numpy as np
import pytest
import scipy.special
import soundfile
import tiny_models
import torch
from made_runs import write_run
from page_reader import PageReader
from tones import write_tone

from hf_utils import audio
from hf_utils.errors import UserError
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.families import window_samples_for
from hf_utils.models.features import clip_windows, run_windows
from hf_utils.models.loading import load_classifier
from hf_utils.report.report_files import main, write_report

GENRES = ["blues", "jazz", "rock"]
TRACKS = [f"{genre}.{number:05d}" for genre in GENRES for number in range(2)]
LABELS = np.repeat(range(3), 2)


@pytest.fixture
def music(tmp_path):
    """Two tones of 8 s for each genre."""
    for number, track in enumerate(TRACKS):
        write_tone(tmp_path / "music" / track.split(".")[0] / f"{track}.wav", 200.0 * (number + 1), 8, seed=number)
    return tmp_path / "music"


def choose_all(genre: int) -> np.ndarray:
    return np.tile(np.where(np.arange(3) == genre, 0.8, 0.1), (len(TRACKS), 1))


def write_small_run(folder, music, probabilities, **config):
    facts = {"tracks": TRACKS, "genres": GENRES, "labels": LABELS, "probabilities": probabilities}
    return write_run(folder, **facts, dataset_name=str(music), **config)


def report(runs, output, music=""):
    write_report([runs], output, num_resamples=20, music=music)
    return PageReader((output / "report.html").read_text())


def test_without_weights_the_middle_of_missed_tracks_is_heard(music, tmp_path):
    write_small_run(tmp_path / "runs" / "1", music, choose_all(2))
    (music / "jazz" / "jazz.00001.wav").unlink()
    page = report(tmp_path / "runs", tmp_path / "report")
    heard = {attributes["src"] for tag, attributes in page.tags if tag == "audio"}
    assert heard == {f"audio/1-{track}.ogg" for track in ("blues.00000", "blues.00001", "jazz.00000")}
    samples, rate = soundfile.read(tmp_path / "report" / "audio" / "1-blues.00001.ogg")
    assert (samples.size, rate) == (5 * 22050, 22050)
    assert np.abs(np.fft.rfft(samples)).argmax() == 400 * 5
    text = " ".join(page.words)
    assert "1.5 to 6.5 s" in text  # the middle of 8 s
    assert "not in music, by this name" in text and "jazz.00001: jazz" in text
    assert text.count("No picture") == 3 and "rights" in text
    assert str(tmp_path) not in (tmp_path / "report" / "report.html").read_text()
    # A folder that was moved is named by --music, also for the tables of a report.
    shutil.move(music, tmp_path / "elsewhere")
    again = report(tmp_path / "report" / "results.csv", tmp_path / "again", str(tmp_path / "elsewhere"))
    assert {attributes["src"] for tag, attributes in again.tags if tag == "audio"} == heard


def hear(folder, music) -> np.ndarray:
    """Return the probabilities (N, K) that a model gives the tracks, of windows that overlap by half."""
    model, extractor = load_classifier(Checkpoint(str(folder)), GENRES)
    window_samples = window_samples_for(model.config, extractor, None)
    found = []
    for track in TRACKS:
        samples = audio.load(music / track.split(".")[0] / f"{track}.wav", 16000)
        logits = run_windows(model, extractor, clip_windows(extractor, samples, 16000, window_samples))
        found.append(scipy.special.softmax(logits.numpy(), axis=1).mean(axis=0))
    return np.array(found)


def test_weights_explain_what_they_missed_and_other_recordings_are_not_played(music, tmp_path):
    weights = tiny_models.save_ast(tmp_path / "weights")
    model, _ = tiny_models.load(weights, GENRES)
    with torch.no_grad():
        model.classifier.dense.bias[2] += 10  # rock, whatever it hears
    model.save_pretrained(weights)
    given = hear(weights, music)
    given[0] = 0.2, 0.2, 0.6  # as if blues.00000 had been another recording
    folder = write_small_run(tmp_path / "runs" / "ast", music, given, run_name="ast/clean")
    shutil.copytree(weights, folder, dirs_exist_ok=True)
    write_small_run(tmp_path / "runs" / "none", music, choose_all(1), run_name="cnn/clean")
    page = report(tmp_path / "runs", tmp_path / "report")
    explained = TRACKS[1:4]  # two of jazz, which the run without weights did not miss, and one of blues
    seen = [
        attributes["alt"] for tag, attributes in page.tags if tag == "img" and "Red, for rock" in attributes["alt"]
    ]
    assert sorted(alt.split(",")[0] for alt in seen) == [f"Spectrogram of {track}" for track in explained]
    pictures = sorted(path.name for path in (tmp_path / "report").glob("mistake-*.png"))
    assert pictures == [f"mistake-1-{track}.png" for track in explained]
    text = " ".join(page.words)
    assert text.count("ast, clean, seed 1: rock 100 %") == 3 and text.count("It is not played") == 1
    assert text.count("No picture") == 2  # of rock.*, which only the run without weights missed
    heard = sorted(path.name for path in (tmp_path / "report" / "audio").iterdir())
    assert heard == [f"1-{track}.ogg" for track in TRACKS[1:]]
    sound, rate = soundfile.read(tmp_path / "report" / "audio" / "1-jazz.00000.ogg")
    assert rate == 16000 and sound.size < 1.1 * rate  # a window


def test_music_that_is_not_there_is_one_message(music, tmp_path, capsys):
    write_small_run(tmp_path / "runs" / "1", tmp_path / "gone", choose_all(2))
    with pytest.raises(UserError, match="(?s)--audio.*gone.*--music"):
        write_report([tmp_path / "runs"], tmp_path / "report", music="")
    for track in TRACKS:
        path = music / track.split(".")[0] / f"{track}.wav"
        path.rename(path.with_name(f"other-{path.name}"))
    with pytest.raises(UserError, match="--audio.*none of the 4 tracks.*blues.00000.*--music"):
        write_report([tmp_path / "runs"], tmp_path / "report", music=str(music))
    assert not (tmp_path / "report").exists()
    with pytest.raises(SystemExit):
        main([str(tmp_path / "runs"), "--music", str(music)])
    assert "--audio" in capsys.readouterr().err
