"""The temperature on its way from the validation tracks to the checkpoint, and from there to whoever uses it."""

import json
from pathlib import Path

import pytest
import tiny_models
from tones import GENRE_TONES_HZ, write_tone

import run_classification

OPTIONS = "--window_seconds 0.5 --dataloader_num_workers 0 --num_proc 1 --use_cpu --precision fp32".split()


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("music")
    for genre, hz in GENRE_TONES_HZ.items():
        for track in range(10):
            write_tone(folder / genre / f"{genre}-{track}.wav", hz * (1 + 0.02 * track), 0.9, seed=track)
    return folder


def start(*options) -> int:
    return run_classification.main([*map(str, (*OPTIONS, *options))])


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def test_every_stage_has_its_own_temperature_and_the_last_one_is_used(music, tmp_path, monkeypatch):
    fitted = iter([1.7, 2.5])
    monkeypatch.setattr("hf_utils.training.run.fit_temperature", lambda *arrays: next(fitted))
    checkpoint = tiny_models.save_ast(tmp_path / "ast")
    (tmp_path / "stages.yaml").write_text(
        "{save_strategy: 'no', eval_strategy: 'no', load_best_model_at_end: false, max_steps: 1, train_windows: grid,"
        " stages: [{freeze: none}, {freeze: backbone}]}"  # the second one on cached embeddings
    )
    run = tmp_path / "run"
    start(tmp_path / "stages.yaml", "--model_name_or_path", checkpoint, "--dataset_name", music, "--output_dir", run)
    monkeypatch.undo()
    configs = [read_json(folder / "config.json") for folder in (run / "stage-1", run)]
    assert [config["calibration_temperature"] for config in configs] == [1.7, 2.5]
    trained = read_json(run / "results.json")
    assert trained["model"]["temperature"] == 2.5
    assert start("--model_name_or_path", run, "--do_eval", "--output_dir", tmp_path / "eval") == 0
    evaluated = read_json(tmp_path / "eval" / "results.json")
    assert evaluated["model"]["temperature"] == 2.5
    for name in ("validation", "test"):
        before, now = trained["evaluations"][name], evaluated["evaluations"][name]
        assert now["track_calibrated"] == pytest.approx(before["track_calibrated"], abs=1e-4)
        assert now["track"] == pytest.approx(before["track"], abs=1e-4)
        assert now["track_calibrated"]["log_loss"] != pytest.approx(now["track"]["log_loss"], abs=1e-4)
