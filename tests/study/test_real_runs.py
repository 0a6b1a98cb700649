"""A study with the real script: what the study asks for is what run_classification.py says that it ran."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from tiny_models import save_convnext

from hf_utils.study import cells, processes
from hf_utils.study import study_run as study

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {
    "split_protocol": "stratified",
    "window_seconds": 0.5,
    "max_steps": 1,
    "use_cpu": True,
    "num_proc": 1,
    "dataloader_num_workers": 0,
    "report_to": "none",
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
}


def test_finished_runs_are_left_as_they_are(genre_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    # Two starts less: options are parsed in this process, and the script is started without accelerate.
    monkeypatch.setattr(cells, "ProcessPoolExecutor", lambda **options: ThreadPoolExecutor(1))
    (tmp_path / "launch.py").write_text("import os, sys\nos.execv(sys.executable, [sys.executable, *sys.argv[2:]])\n")
    monkeypatch.setitem(processes._PROGRAMS, "accelerate", [sys.executable, str(tmp_path / "launch.py")])
    model = {"model_name_or_path": str(save_convnext(tmp_path / "cnn"))}
    model |= {"num_mel_bins": 32, "n_fft": 512, "hop_length": 256}
    data = {"dataset_name": str(genre_folder), "waveform_cache_dir": str(tmp_path / "cache")}
    file = tmp_path / "study.yaml"
    contents = {
        "output_dir": str(tmp_path / "runs"),
        "models": {"cnn": {"options": model}},
        "arms": {"half": {"options": {"train_datasets": ["real:0.5"]}}},
        "seeds": [1],
        "options": {**OPTIONS, **data},
    }
    file.write_text(yaml.safe_dump(contents))

    assert study.main([str(file)]) == 0, capsys.readouterr().out
    (results,) = (tmp_path / "runs").rglob("results.json")
    assert results.parent.parent.name == "half"
    assert json.loads(results.read_text())["data"]["train_mix"]["sources"]["real"]["clips"] == 3  # of 6
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}

    assert study.main([str(file)]) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")} == before
    assert "1 finished" in capsys.readouterr().out
