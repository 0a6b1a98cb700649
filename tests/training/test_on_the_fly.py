"""Transforms of training windows on the fly: through the script's own preparation, with real workers."""

import numpy as np
import pytest
import tiny_models
import torch

import run_classification
from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.augmentation.pipeline import read_augmentation
from hf_utils.errors import UserError
from hf_utils.training.experiment import prepare_experiment

TRANSFORMS = """
transforms:
  - OneOf:
      p: 1.0
      transforms:
        - Gain: {min_gain_db: -12.0, max_gain_db: -1.0, p: 1.0}
        - LowPassFilter: {min_cutoff_freq: 500.0, max_cutoff_freq: 3000.0, p: 1.0}
  - AddGaussianSNR: {min_snr_db: 5.0, max_snr_db: 15.0, p: 1.0}
"""


@pytest.fixture
def transforms(tmp_path):
    path = tmp_path / "transforms.yaml"
    path.write_text(TRANSFORMS)
    return path


def prepare(model, music, folder, *more):
    arguments = ["--model_name_or_path", model, "--dataset_name", music, "--output_dir", folder / "run"]
    arguments += ["--window_seconds", "0.5", "--num_proc", "1", "--use_cpu", "--waveform_cache_dir", folder / "cache"]
    arguments += ["--split_protocol", "stratified", *more]
    return prepare_experiment(RunArguments.parse(list(map(str, arguments))))


def draw_epoch(windows, epoch: int, num_workers: int) -> list[np.ndarray]:
    windows.set_epoch(epoch)
    loader = torch.utils.data.DataLoader(windows, batch_size=2, num_workers=num_workers, collate_fn=list)
    return [window["samples"] for batch in loader for window in batch]


def test_training_windows_alone_change_and_the_same_under_any_number_of_workers(
    genre_folder, transforms, tmp_path, tmp_path_factory
):
    model = tiny_models.saved("ast", tmp_path_factory)
    plain = prepare(model, genre_folder, tmp_path, "--feature_memory_gb", "0")
    changed = prepare(model, genre_folder, tmp_path, "--augmentation", transforms)
    assert changed.augmentation.config["transforms"][1]["AddGaussianSNR"]["max_snr_db"] == 15.0
    windows = changed.trainer.train_dataset
    alone, workers = draw_epoch(windows, 3, 0), draw_epoch(windows, 3, 2)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(alone, workers, strict=True))
    # What they are, from the windows without transforms: same starts, same seeds.
    transform = read_augmentation(transforms).for_windows(16000)
    before = plain.trainer.train_dataset
    before.set_epoch(3)
    expected = [transform(before[i]["samples"], before[i]["seed"]) for i in range(len(before))]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(alone, expected, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(alone, draw_epoch(before, 3, 0), strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(alone, draw_epoch(windows, 4, 0), strict=True))
    for name in ("validation", "test"):
        one, other = (e.windows[name] for e in (plain, changed))
        assert all(np.array_equal(one[i]["samples"], other[i]["samples"]) for i in range(len(one)))


def test_mistake_is_found_before_data_and_model(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("transforms: [{Gian: {p: 1.0}}]")
    arguments = ["--model_name_or_path", "nowhere/model", "--dataset_name", "./nowhere", "--use_cpu"]
    with pytest.raises(UserError, match="Gian"):
        run_classification.main([*arguments, "--output_dir", str(tmp_path / "run"), "--augmentation", str(path)])


def test_mistake_of_the_last_stage_is_found_before_the_first(tmp_path):
    stages = tmp_path / "stages.yaml"
    stages.write_text("stages: [{learning_rate: 1.0e-3}, {augmentation: missing.yaml}]")
    arguments = [str(stages), "--model_name_or_path", "nowhere/model", "--output_dir", str(tmp_path / "run")]
    with pytest.raises(UserError, match="missing.yaml"):
        run_classification.main([*arguments, "--use_cpu"])
