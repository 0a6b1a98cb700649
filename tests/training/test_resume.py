"""What two trainings must have in common for one to go on where the other was interrupted."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.errors import UserError
from hf_utils.models.spectrogram_cnn import SpectrogramCNNFeatureExtractor
from hf_utils.training.resume import (
    OPTIONS_FILE,
    check_checkpoints,
    check_evaluations,
    check_features,
    check_options,
    check_state,
    describe_options,
    find_checkpoint,
)


def describe(flags: str) -> dict:
    words = ["--model_name_or_path", "some/model", "--use_cpu", "--output_dir", "run", *flags.split()]
    return describe_options(RunArguments.parse(words))


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("--per_device_train_batch_size 8", "--per_device_train_batch_size 2 --gradient_accumulation_steps 4"),
        ("--dataset_name music", "--dataset_name /elsewhere/music/"),
        ("--dataloader_num_workers 0", "--dataloader_num_workers 2 --num_proc 1 --logging_steps 3"),
        ("--do_train", "--do_train --do_eval --corruptions configs/corruptions.yaml --eval_datasets live=x"),
        ("--lr_scheduler_type constant", "--lr_scheduler_type constant --num_train_epochs 20"),
        (
            "--lr_scheduler_type constant_with_warmup --warmup_steps 5 --max_steps 10",
            "--lr_scheduler_type constant_with_warmup --warmup_steps 5 --max_steps 20",
        ),
        (
            "--lr_scheduler_type reduce_lr_on_plateau --num_train_epochs 5",
            "--lr_scheduler_type reduce_lr_on_plateau --num_train_epochs 50",
        ),
    ],
)
def test_what_leaves_the_training_as_it_is_may_change(before, now, tmp_path):
    (tmp_path / OPTIONS_FILE).write_text(json.dumps(describe(before)))
    check_options(str(tmp_path), describe(now))


@pytest.mark.parametrize(
    ("before", "now", "name"),
    [
        ("", "--num_train_epochs 20", "num_train_epochs"),
        (
            "--lr_scheduler_type constant_with_warmup --warmup_steps 0.1 --max_steps 10",
            "--lr_scheduler_type constant_with_warmup --warmup_steps 0.1 --max_steps 20",
            "max_steps",
        ),
        (
            "--lr_scheduler_type constant --max_steps 10 --average_weights swa",
            "--lr_scheduler_type constant --max_steps 20 --average_weights swa",
            "max_steps",
        ),
        ("--per_device_train_batch_size 4", "--per_device_train_batch_size 5", "windows_per_step"),
        ("--num_mel_bins 64", "--num_mel_bins 128", "num_mel_bins"),
        ("", "--train_windows grid", "train_windows"),
        ("", "--adam_beta2 0.9", "adam_beta2"),
        ("", "--model_name_or_path other/model", "model_name_or_path"),
        ("", "--model_revision v2", "model_revision"),
        ("", "--early_stopping_patience 3", "early_stopping_patience"),
        (
            "--eval_strategy steps --save_strategy steps --logging_steps 5",
            "--eval_strategy steps --save_strategy steps --logging_steps 50",
            "eval_steps",
        ),
        (
            "--lr_scheduler_type constant --eval_strategy steps --eval_steps 0.5 --save_strategy epoch --max_steps 10 "
            "--load_best_model_at_end false",
            "--lr_scheduler_type constant --eval_strategy steps --eval_steps 0.5 --save_strategy epoch --max_steps 20 "
            "--load_best_model_at_end false",
            "max_steps",
        ),
        (
            "--lr_scheduler_type constant --save_strategy steps --save_steps 0.5 --eval_strategy epoch --max_steps 10 "
            "--load_best_model_at_end false",
            "--lr_scheduler_type constant --save_strategy steps --save_steps 0.5 --eval_strategy epoch --max_steps 20 "
            "--load_best_model_at_end false",
            "max_steps",
        ),
    ],
)
def test_what_changes_the_training_is_named(before, now, name, tmp_path):
    (tmp_path / OPTIONS_FILE).write_text(json.dumps(describe(before)))
    with pytest.raises(UserError, match=rf"{name}: .* before, .* now"):
        check_options(str(tmp_path), describe(now))


def test_the_precision_that_a_machine_chose_is_compared(tmp_path, monkeypatch):
    """An earlier version wrote "auto", which tells nothing."""
    found = []
    for has_hardware in (True, False):
        monkeypatch.setattr("hf_utils.arguments.training.has_bf16_hardware", lambda use_cpu, has=has_hardware: has)
        found.append(describe("--precision auto"))
    assert found[1] == describe("--precision fp32")
    (tmp_path / OPTIONS_FILE).write_text(json.dumps(found[0]))
    with pytest.raises(UserError, match="precision: bf16 before, fp32 now"):
        check_options(str(tmp_path), found[1])
    (tmp_path / OPTIONS_FILE).write_text(json.dumps({**found[0], "precision": "auto"}))
    check_options(str(tmp_path), found[1])


def test_a_checkpoint_that_tells_nothing_is_warned_of(tmp_path, caplog):
    check_options(str(tmp_path), describe(""))
    (message,) = caplog.messages
    assert OPTIONS_FILE in message and str(tmp_path) in message


def test_a_spectrogram_whose_default_is_another_now_is_named(tmp_path):
    """A checkpoint of before knows nothing of levels; nobody gave the option, neither then nor now."""
    SpectrogramCNNFeatureExtractor(num_mel_bins=64, mean=0.0, std=1.0).save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({name: x for name, x in json.loads(path.read_text()).items() if name[:5] != "level"}))
    check_features(str(tmp_path), SpectrogramCNNFeatureExtractor(num_mel_bins=64, mean=2.0, std=3.0))
    with pytest.raises(UserError, match="cannot go on.*\n  level_normalization: False before, True now\nGive"):
        check_features(str(tmp_path), SpectrogramCNNFeatureExtractor(num_mel_bins=64, level_normalization=True))


def test_no_secret_and_no_path_is_kept():
    flags = "--dataset_name /home/anna/music --waveform_cache_dir /home/anna/cache --output_dir /home/anna/run"
    kept = json.dumps(describe(f"{flags} --push_to_hub --hub_token hf_secret"))
    assert "anna" not in kept and "hf_secret" not in kept


def test_a_model_in_a_folder_is_compared_by_its_weights(tmp_path):
    for name, weights in (("a", b"1"), ("moved", b"1"), ("b/a", b"2")):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    first, moved, other = (describe(f"--model_name_or_path {tmp_path / name}") for name in ("a", "moved", "b/a"))
    assert first == moved and str(tmp_path) not in json.dumps(first)
    assert {name for name in first if first[name] != other[name]} == {"model_name_or_path"}


def test_another_noise_folder_is_another_training(tmp_path):
    (tmp_path / "noise.yaml").write_text("transforms: [AddBackgroundNoise: {min_snr_db: 10, max_snr_db: 10, p: 1.0}]")
    flags = []
    for folder, seed in (("one", 1), ("moved", 1), ("two", 2)):
        noise = 0.1 * np.random.default_rng(seed).standard_normal(16_000)
        (tmp_path / folder / "noise").mkdir(parents=True)
        soundfile.write(tmp_path / folder / "noise" / "hum.wav", noise, 16_000)
        flags.append(f"--augmentation {tmp_path / 'noise.yaml'} --noise_folder {tmp_path / folder / 'noise'}")
    first, moved, other = map(describe, flags)
    assert first == moved
    assert {name for name in first if first[name] != other[name]} == {"transforms"}


def save_checkpoints(run: Path, *steps: int, weights_alone: bool = False) -> None:
    """As the Trainer writes them in a training of 10 steps."""
    for step in steps:
        folder = run / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 10}))
        for name in () if weights_alone else ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            (folder / name).touch()


def test_a_run_tested_under_another_version_of_a_benchmark_was_evaluated_otherwise(tmp_path):
    asked = [SimpleNamespace(kind="level", severity="low", benchmark="genre-c 2")]
    arguments = SimpleNamespace(data=SimpleNamespace(eval_datasets=None))
    results = {"config": {}, "robustness": [{"kind": "level", "severity": "low"}]}
    (tmp_path / "results.json").write_text(json.dumps({**results, "robustness_benchmark": "genre-c 2"}))
    check_evaluations(tmp_path, arguments, asked)
    (tmp_path / "results.json").write_text(json.dumps({**results, "robustness_benchmark": "genre-c 1"}))
    before, now = r"1 \(level\) of genre-c 1 before", r"1 \(level\) of genre-c 2 now"
    with pytest.raises(UserError, match=f"corruptions: {before}, {now}"):
        check_evaluations(tmp_path, arguments, asked)


@pytest.mark.parametrize("written", [None, "", '{"global_step": 10', "[1]", "1"])
def test_a_checkpoint_whose_saving_was_killed_is_passed_over(written, tmp_path):
    save_checkpoints(tmp_path, 2, 9, 10)
    state = tmp_path / "checkpoint-10" / "trainer_state.json"
    state.unlink() if written is None else state.write_text(written)
    assert find_checkpoint(str(tmp_path), "auto", overwrite=False) == str(tmp_path / "checkpoint-9")
    with pytest.raises(UserError, match="trainer_state.json"):
        find_checkpoint(str(tmp_path), str(tmp_path / "checkpoint-10"), overwrite=False)


def test_half_a_checkpoint_is_no_start_and_is_not_removed_unasked(tmp_path):
    (tmp_path / "checkpoint-10").mkdir()
    assert find_checkpoint(str(tmp_path), "auto", overwrite=False) is None
    with pytest.raises(UserError, match="--overwrite"):
        find_checkpoint(str(tmp_path), None, overwrite=False)
    assert (tmp_path / "checkpoint-10").is_dir()


def test_weights_alone_are_not_gone_on_from(tmp_path, caplog):
    """The Trainer would, with a new optimiser and the learning rate from its beginning, and say nothing."""
    save_checkpoints(tmp_path, 2, 9, weights_alone=True)
    last = str(tmp_path / "checkpoint-9")
    for resume in ("auto", last):
        with pytest.raises(UserError, match=r"checkpoint-9 lacks the state of the optimiser"):
            find_checkpoint(str(tmp_path), resume, overwrite=False)
    assert len(list(tmp_path.iterdir())) == 2
    assert find_checkpoint(str(tmp_path), "auto", overwrite=True) is None
    assert [message for message in caplog.messages if "can be continued" in message]
    assert not list(tmp_path.iterdir())  # or those would be taken for later ones of the new run


@pytest.mark.parametrize("lost", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_checkpoint_that_lost_part_of_its_state_is_passed_over(lost, overwrite, tmp_path):
    """Such as one whose largest file was deleted to save disk."""
    save_checkpoints(tmp_path, 2, 9)
    (tmp_path / "checkpoint-9" / lost).unlink()
    assert find_checkpoint(str(tmp_path), "auto", overwrite=overwrite) == str(tmp_path / "checkpoint-2")
    with pytest.raises(UserError, match="checkpoint-9 lacks the state of the optimiser"):
        find_checkpoint(str(tmp_path), str(tmp_path / "checkpoint-9"), overwrite=overwrite)


@pytest.mark.parametrize(
    ("files", "scales_loss", "is_enough"),
    [
        ("optimizer.pt scheduler.pt rng_state.pth", False, True),
        ("optimizer.pt scheduler.pt rng_state.pth", True, False),
        ("optimizer.pt scheduler.pt rng_state.pth scaler.pt", True, True),
        ("optimizer_0/ scheduler.pt rng_state_0.pth rng_state_1.pth", False, True),  # FSDP
        ("optimizer_0/ rng_state_0.pth", False, False),
        ("global_step9/ rng_state_0.pth", False, True),  # DeepSpeed
        ("global_step9/", False, False),
    ],
)
def test_what_a_training_goes_on_with(files, scales_loss, is_enough, tmp_path):
    for name in files.split():
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    if is_enough:
        return check_state(str(tmp_path), scales_loss=scales_loss)
    with pytest.raises(UserError, match="lacks the state of the optimiser"):
        check_state(str(tmp_path), scales_loss=scales_loss)


def test_a_training_continued_in_another_folder_meets_no_checkpoints_there(tmp_path):
    """The Trainer would take those for its own, and one of them perhaps for its best."""
    save_checkpoints(tmp_path / "one", 9)
    save_checkpoints(tmp_path / "other", 2, 9)
    named, other = str(tmp_path / "one" / "checkpoint-9"), str(tmp_path / "other")
    with pytest.raises(UserError, match="other holds the checkpoints of .* --overwrite"):
        find_checkpoint(other, named, overwrite=False)
    assert len(list((tmp_path / "other").iterdir())) == 2
    assert find_checkpoint(other, named, overwrite=True) == named
    assert not list((tmp_path / "other").iterdir())
    for overwrite in (False, True):
        assert find_checkpoint(str(tmp_path / "one"), named, overwrite=overwrite) == named
        assert find_checkpoint(other, named, overwrite=overwrite) == named


def test_a_finished_run_is_not_trained_anew_with_other_options(tmp_path):
    """As a cell of a study asks for, whose best checkpoint alone was kept, and without the optimiser's state."""
    save_checkpoints(tmp_path, 9, weights_alone=True)
    words = ["--model_name_or_path", "some/model", "--use_cpu", "--output_dir", str(tmp_path), "--overwrite"]
    same, other = ([*words, "--resume_from_checkpoint", "auto", "--seed", seed] for seed in ("5", "6"))
    (tmp_path / OPTIONS_FILE).write_text(json.dumps(describe("--seed 5")))
    check_checkpoints(RunArguments.parse(other))
    (tmp_path / "results.json").write_text(json.dumps({"complete": True}))
    check_checkpoints(RunArguments.parse(same))
    with pytest.raises(UserError, match="seed: 5 before, 6 now"):
        check_checkpoints(RunArguments.parse(other))


def test_weights_alone_at_the_end_of_the_training_are_enough(tmp_path):
    save_checkpoints(tmp_path, 9, 10, weights_alone=True)
    last = str(tmp_path / "checkpoint-10")
    assert find_checkpoint(str(tmp_path), "auto", overwrite=False) == last
    assert find_checkpoint(str(tmp_path), "auto", overwrite=True) == last


def test_a_training_that_kept_weights_alone_cannot_be_lengthened(tmp_path):
    flags = "--lr_scheduler_type constant --save_only_model --max_steps"
    (tmp_path / OPTIONS_FILE).write_text(json.dumps(describe(f"{flags} 10")))
    check_options(str(tmp_path), describe(f"{flags} 10"))
    with pytest.raises(UserError, match="max_steps: 10 before, 20 now"):
        check_options(str(tmp_path), describe(f"{flags} 20"))


@pytest.mark.parametrize("resume", [None, "auto"])
def test_results_of_weights_that_are_replaced_are_complete_no_more(resume, tmp_path):
    save_checkpoints(tmp_path, 9, weights_alone=True)
    (tmp_path / "results.json").write_text('{"complete": true, "seed": 1}')
    assert find_checkpoint(str(tmp_path), resume, overwrite=True) is None
    assert json.loads((tmp_path / "results.json").read_text()) == {"complete": False, "seed": 1}


def test_results_of_a_run_that_goes_on_stay_complete(tmp_path):
    save_checkpoints(tmp_path, 10)
    (tmp_path / "results.json").write_text('{"complete": true}')
    assert find_checkpoint(str(tmp_path), "auto", overwrite=True)
    assert json.loads((tmp_path / "results.json").read_text())["complete"] is True
