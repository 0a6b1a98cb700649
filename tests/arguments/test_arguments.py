"""Options of run_classification.py: defaults for this job, contradictions, precision, a token that leaks nowhere."""

import io
import json
import typing
from pathlib import Path

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from hf_utils.arguments.data import SourceArguments
from hf_utils.arguments.options import collect_options, complete_classes, default_of
from hf_utils.arguments.run_arguments import RUN_CLASSES, RunArguments
from hf_utils.arguments.training import count_free_cores, has_bf16_hardware
from hf_utils.arguments.training_options import TrainingOptions
from hf_utils.config_files import write_config
from hf_utils.errors import UserError
from hf_utils.hub.checkpoint_push import open_model_repository

TOKEN = "hf_ThisMustNotBeSeen"


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)


def parse(flags: str = ""):
    return RunArguments.parse(["--model_name_or_path", "some/model", "--use_cpu", *flags.split()])


def test_a_model_is_all_that_must_be_given():
    arguments = parse()
    data, training = arguments.data, arguments.training
    assert (data.dataset_name, data.split_protocol, data.train_datasets) == ("sanchit-gandhi/gtzan", "auto", ["real"])
    assert (training.do_train, training.do_eval, training.do_predict) == (True, True, False)
    # A checkpoint's own run is not written over by what is only found out about it.
    assert parse("--do_eval").training.output_dir == "runs/model-eval"
    assert parse("--do_eval --do_train").training.output_dir == "runs/model"
    assert training.output_dir == "runs/model" and training.report_to == ["tensorboard"]
    assert training.eval_strategy == training.save_strategy == "epoch" and training.load_best_model_at_end
    assert training.metric_for_best_model == "accuracy" and training.greater_is_better
    assert training.save_total_limit == 2 and not training.remove_unused_columns
    assert training.get_warmup_steps(560) == 56
    with pytest.raises(UserError, match="--model_name_or_path .* required"):
        RunArguments.parse([])


@pytest.mark.parametrize(
    ("flags", "job"),
    [
        ("", (True, True, False)),
        ("--do_train", (True, False, False)),
        ("--do_eval", (False, True, False)),
        ("--do_predict --predict_path .", (False, False, True)),
        ("--do_train --do_predict --predict_path .", (True, False, True)),
    ],
)
def test_only_what_is_asked_for_is_done(flags, job):
    training = parse(flags).training
    assert (training.do_train, training.do_eval, training.do_predict) == job
    # Without training, the Trainer may not demand an evaluation set.
    assert (training.eval_strategy == "no") == (not training.do_train)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--unfrozen_layers 2", "unfrozen_layers is 2, but only freeze: all_but_last uses it, and freeze is none"),
        ("--head_hidden_size 64", "head_hidden_size is 64, but only head: mlp uses it, and head is not given"),
        ("--head_dropout 1", "head_dropout on the command line is 1.0, expected less than 1"),
        (
            "--min_frequency_hz 400 --max_frequency_hz 300",
            "min_frequency_hz is 400.0, expected less than max_frequency_hz, 300.0",
        ),
        (
            "--sampling_rate 8000 --max_frequency_hz 5000",
            "max_frequency_hz is 5000.0, expected at most half of sampling_rate, 8000",
        ),
        ("--fold 3", "fold is 3, but only split_protocol: artist_folds has folds, and split_protocol is auto"),
        (
            "--split_protocol artist_folds --num_folds 5 --fold 5",
            "fold is 5, expected less than num_folds, 5: folds count from 0",
        ),
        ("--num_folds 2", "num_folds on the command line is 2, expected at least 3"),
        (
            "--genres jazz jazz",
            "genres is ['jazz', 'jazz'], expected 2 or more, each once",
        ),
        ("--genres jazz", "genres is ['jazz'], expected 2 or more, each once"),
        (
            "--window_seconds 4 --eval_hop_seconds 5",
            "eval_hop_seconds is 5.0, longer than window_seconds, 4.0: some audio is never heard",
        ),
        ("--do_predict", "do_predict needs predict_path: the file or folder to tag"),
        ("--do_predict --predict_path none", "predict_path is none, which does not exist"),
        ("--predict_path .", "predict_path is given, but not do_predict, which would use it"),
        ("--per_window", "per_window is given, but not do_predict, which would use it"),
        ("--unknown_below 0.5", "unknown_below is given, but not do_predict, which would use it"),
        ("--unknown_below 1", "unknown_below on the command line is 1.0, expected less than 1"),
        (
            "--eval_strategy no",
            "load_best_model_at_end needs evaluations and checkpoints together, but eval_strategy is no and "
            "save_strategy is epoch: set them equal, or load_best_model_at_end: false",
        ),
        (
            "--early_stopping_patience 3 --no_load_best_model_at_end",
            "early_stopping_patience needs eval_strategy: epoch or steps, and load_best_model_at_end: true",
        ),
        ("--precision fp32 --bf16", "precision is fp32, but bf16 was asked for: give one"),
        ("--bf16 --fp16", "precision is auto, but bf16 and fp16 was asked for: give one"),
        ("--precision fp16", "precision fp16 needs a GPU: use bf16 or fp32 on the processor"),
        # a check of transformers' own
        (
            "--lr_scheduler_type reduce_lr_on_plateau --eval_strategy no --no_load_best_model_at_end",
            "lr_scheduler_type reduce_lr_on_plateau requires an eval strategy",
        ),
    ],
)
def test_contradictions_are_refused(flags, message):
    with pytest.raises(UserError) as caught:
        parse(flags)
    assert str(caught.value).splitlines()[0] == message


def test_a_loss_or_calibration_error_is_minimised():
    assert not parse("--metric_for_best_model log_loss").training.greater_is_better
    assert not parse("--metric_for_best_model eval_ece").training.greater_is_better
    assert parse("--metric_for_best_model roc_auc").training.greater_is_better


@pytest.mark.parametrize(
    ("units", "expected"), [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({}, False)]
)
def test_precision_auto_is_bf16_exactly_where_the_hardware_has_it(monkeypatch, units, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, **units})
    assert has_bf16_hardware(use_cpu=True) == expected
    arguments = parse()
    assert arguments.training.bf16 == expected and not arguments.training.fp16
    # What the machine decided is no part of the configuration.
    config = arguments.config()
    assert config["precision"] == "auto" and "bf16" not in config and config["dataloader_num_workers"] is None


def test_emulated_bf16_of_an_old_gpu_does_not_count(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not has_bf16_hardware(use_cpu=False)


def test_precision_given_wins_over_the_hardware(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert not parse("--precision fp32").training.bf16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {})
    assert parse("--precision bf16").training.bf16 and parse("--bf16").training.bf16
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert parse().training.bf16
    with pytest.raises(UserError, match="precision is fp32, but bf16 was asked for"):
        parse("--precision fp32")


def test_a_machine_without_a_gpu_uses_its_cpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert RunArguments.parse(["--model_name_or_path", "m"]).training.use_cpu


def test_a_finished_run_is_not_written_over():
    Path("runs/model").mkdir(parents=True)
    Path("runs/model/results.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="^output_dir runs/model holds the results of a run: choose another"):
        parse()
    for flags in (
        "--overwrite",
        "--resume_from_checkpoint auto",
        "--output_dir runs/b",
        "--do_predict --predict_path .",
    ):
        parse(flags)


def test_the_saved_configuration_makes_the_same_run():
    arguments = parse("--learning_rate 3e-5 --max_grad_norm 0.5 --genres blues jazz --eval_datasets n=data/n")
    write_config("config.yaml", arguments.config())
    again = RunArguments.parse(["config.yaml"])
    assert again.config() == arguments.config()
    assert (again.model, again.data) == (arguments.model, arguments.data)
    assert again.training.to_dict() == arguments.training.to_dict()
    assert again.config()["max_grad_norm"] == 0.5
    assert open_model_repository(again.training, again.given) is None


def test_the_token_reaches_no_file():
    arguments = parse(f"--push_to_hub --hub_token {TOKEN}")
    training = arguments.training
    assert training.hub_token == TOKEN
    write_config("config.yaml", arguments.config())
    pickled = io.BytesIO()
    torch.save(training, pickled)  # as the Trainer does, to training_args.bin
    callback = TensorBoardCallback()
    callback.logging_dir = "events"
    callback.on_train_begin(training, TrainerState(is_world_process_zero=True), TrainerControl())
    callback.on_train_end(training, TrainerState(), TrainerControl())
    events = b"".join(path.read_bytes() for path in Path("events").rglob("*events*"))
    assert b"learning_rate" in events
    written = {
        "config.yaml": Path("config.yaml").read_bytes(),
        "training_args.bin": pickled.getvalue(),
        "TensorBoard": events,
        "printed": f"{training} {training!r}".encode(),
        "to_dict": json.dumps(training.to_dict()).encode(),
        "hyper-parameters": json.dumps(training.to_sanitized_dict()).encode(),
    }
    assert [name for name, text in written.items() if TOKEN.encode() in text] == []


def test_the_options_of_the_stock_class_are_known_without_importing_it():
    known, stock = TrainingOptions.further_options(), collect_options([TrainingArguments])
    assert known.keys() == stock.keys()
    known = {name: field for name, field in known.items() if field is not None}
    assert len(known) > 80 and {"adam_beta1", "bf16", "seed", "warmup_steps"} <= known.keys()
    for name, field in known.items():
        for part in ("name", "type", "default", "default_factory", "metadata"):
            assert getattr(field, part) == getattr(stock[name], part), (name, part)


@pytest.mark.parametrize("name", ["eval_strategy", "save_strategy", "hub_strategy", "lr_scheduler_type"])
def test_choices_are_those_of_the_stock_class(name):
    stock, _ = typing.get_args(typing.get_type_hints(TrainingArguments)[name])
    choices = typing.get_args(typing.get_type_hints(TrainingOptions)[name])
    assert choices == tuple(member.value for member in stock)


def test_every_documented_option_has_help_and_the_shared_ones_are_the_same_everywhere():
    options = collect_options(complete_classes(RUN_CLASSES))
    documented = {name: field for name, field in options.items() if "group" in field.metadata}
    assert len(documented) > 60 and all(len(field.metadata["help"]) > 10 for field in documented.values())
    shared = collect_options([SourceArguments])
    assert all(default_of(field) == default_of(options[name]) for name, field in shared.items())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--metric_for_best_model recall", ["metric_for_best_model", "recall", "accuracy", "log_loss"]),
        ("--metric_for_best_model eval_test_f1", ["metric_for_best_model", "f1"]),
        ("--greater_is_better false", ["greater_is_better", "accuracy", "higher"]),
        ("--metric_for_best_model log_loss --greater_is_better true", ["greater_is_better", "log_loss", "lower"]),
        ("--dataloader_drop_last true", ["dataloader_drop_last", "evaluated windows"]),
        ("--dataloader_persistent_workers true", ["dataloader_persistent_workers", "dataloader_num_workers is 0"]),
        ("--remove_unused_columns true", ["remove_unused_columns", "collator"]),
        ("--prediction_loss_only true", ["prediction_loss_only"]),
        ("--batch_eval_metrics true", ["batch_eval_metrics", "whole tracks"]),
        ("--eval_do_concat_batches false", ["eval_do_concat_batches", "whole tracks"]),
        ("--enable_jit_checkpoint", ["enable_jit_checkpoint", "count as finished", "save_steps"]),
        ("--auto_find_batch_size", ["auto_find_batch_size", "another batch", "gradient_accumulation_steps"]),
        ("--neftune_noise_alpha 5", ["neftune_noise_alpha", "embeddings"]),
        ("--ignore_data_skip", ["ignore_data_skip", "other windows"]),
        ("--train_sampling_strategy group_by_length", ["train_sampling_strategy", "random or sequential"]),
        ("--train_sampling_strategy batch_rebalance", ["train_sampling_strategy", "random or sequential"]),
        ("--max_steps 0", ["max_steps", "0"]),
        ("--num_train_epochs 0", ["num_train_epochs", "more than 0"]),
        ("--per_device_train_batch_size 0", ["per_device_train_batch_size", "at least 1"]),
        ("--balanced_sampling --class_weights balanced", ["balanced_sampling", "class_weights"]),
        ("--average_weights swa --early_stopping_patience 2", ["early_stopping_patience", "swa"]),
        ("--average_weights ema --fsdp", ["average_weights", "fsdp"]),
        ("--layer_decay 1.5", ["layer_decay", "at most 1"]),
        ("--head_learning_rate 0", ["head_learning_rate", "more than 0"]),
        ("--layer_decay 0.7 --fsdp", ["layer_decay", "fsdp"]),
        ("--head_learning_rate 0.1 --deepspeed x.json", ["head_learning_rate", "deepspeed"]),
        ("--lora_rank 0", ["lora_rank", "at least 1"]),
        ("--lora_rank 8 --fsdp", ["lora_rank", "fsdp"]),
        (
            '--lora_rank 8 --activation_checkpointing_kwargs {"use_reentrant":true}',
            ["use_reentrant", "adapters of lora_rank would not learn"],
        ),
        ("--lr_scheduler_type cosine_with_min_lr", ["lr_scheduler_type", "min_lr"]),
        ("--lr_scheduler_type warmup_stable_decay", ["lr_scheduler_type", "num_decay_steps"]),
        ("--report_to wandbb", ["report_to", "wandbb", "tensorboard"]),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(flags, words):
    with pytest.raises(UserError) as error:
        parse(flags)
    assert [word for word in words if word not in str(error.value)] == []


def test_a_package_for_curves_that_is_missing_is_told_at_once(monkeypatch):
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    with pytest.raises(UserError, match="report_to is wandb.*pip install wandb"):
        parse("--report_to wandb")


@pytest.mark.parametrize("scheduler", ["reduce_lr_on_plateau", "greedy"])
@pytest.mark.parametrize(
    ("metric", "mode"),
    [("accuracy", "max"), ("eval_roc_auc", "max"), ("loss", "min"), ("eval_log_loss", "min"), ("ece", "min")],
)
def test_a_scheduler_that_watches_the_score_knows_which_way_it_goes(scheduler, metric, mode):
    flags = f"--lr_scheduler_type {scheduler} --metric_for_best_model {metric}"
    arguments = parse(flags)
    assert arguments.training.lr_scheduler_kwargs == {"mode": mode}
    assert arguments.training.greater_is_better == (mode == "max")
    assert "lr_scheduler_kwargs" not in arguments.config()
    other = {"min": "max", "max": "min"}[mode]
    with pytest.raises(UserError, match="lr_scheduler_kwargs"):
        parse(flags + f' --lr_scheduler_kwargs {{"mode":"{other}"}}')
    kept = parse(flags + f' --lr_scheduler_kwargs {{"mode":"{mode}","patience":3}}')
    assert kept.training.lr_scheduler_kwargs == {"mode": mode, "patience": 3}
    with pytest.raises(UserError, match="requires an eval strategy"):
        parse(flags + " --eval_strategy no --save_strategy no --load_best_model_at_end false")


def test_workers_are_for_gpus_and_live_over_epochs(monkeypatch):
    """A model on the CPU uses all cores itself."""
    for flags, workers in (("", 0), ("--dataloader_num_workers 2", 2)):
        training = parse(flags).training
        assert (training.dataloader_num_workers, training.dataloader_persistent_workers) == (workers, workers > 0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for cores, workers in ((1, 0), (2, 0), (8, 3), (64, 12)):
        monkeypatch.setattr("hf_utils.arguments.training.count_cores", lambda cores=cores: cores)
        assert count_free_cores() == workers


def test_evaluation_batches_are_large_where_a_try_can_find_what_fits(monkeypatch):
    """On a GPU, which is acted, of a process that has the whole model."""
    assert parse("").training.per_device_eval_batch_size == 16
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    for flags, windows in (("", 128), ("--fsdp", 16), ("--per_device_eval_batch_size 5", 5)):
        arguments = parse(f"--use_cpu false {flags}")
        assert arguments.training.per_device_eval_batch_size == windows
        assert arguments.config()["per_device_eval_batch_size"] == (5 if windows == 5 else None)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert parse("--use_cpu false").training.per_device_eval_batch_size == 16
