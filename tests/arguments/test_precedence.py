"""Options that silence each other: the later source counts, and what would do nothing is refused."""

import dataclasses

import pytest
import yaml

from hf_utils.arguments.precedence import STOCK_OF_TRAINING
from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.arguments.training_options import TrainingOptions
from hf_utils.errors import UserError
from hf_utils.training.past_runs import expand_stages


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """Parse YAML texts as files a.yaml, b.yaml ... and then flags."""
    monkeypatch.chdir(tmp_path)

    def run(*texts: str, flags: str = "") -> RunArguments:
        for letter, text in zip("ab", texts, strict=False):
            (tmp_path / f"{letter}.yaml").write_text(text)
        files = [f"{letter}.yaml" for letter, _ in zip("ab", texts, strict=False)]
        return RunArguments.parse([*files, "--model_name_or_path", "m", "--use_cpu", *flags.split()])

    return run


@pytest.mark.parametrize(
    ("texts", "flags", "expected"),
    [
        (["max_steps: 5"], "--num_train_epochs 3", (-1, 3)),
        (["max_steps: 5", "num_train_epochs: 3"], "", (-1, 3)),
        (["num_train_epochs: 3"], "--max_steps 5", (5, None)),
        (["num_train_epochs: 3", "max_steps: 5"], "--num_train_epochs 2", (-1, 2)),
        (["max_steps: 5\nlearning_rate: 1.0e-3"], "--learning_rate 1e-2", (5, None)),
        (["num_train_epochs: 3\nmax_steps: -1"], "", (-1, 3)),
    ],
)
def test_the_later_of_epochs_and_steps_says_how_long_to_train(texts, flags, expected, parse, tmp_path):
    arguments = parse(*texts, flags=flags)
    config = arguments.config()
    assert (arguments.training.max_steps, config.get("num_train_epochs")) == expected
    assert config["max_steps"] == expected[0]
    # What is saved says the same when it is read again.
    again = parse(yaml.safe_dump({name: value for name, value in config.items() if value is not None}))
    assert again.config() == config


@pytest.mark.parametrize(
    ("texts", "flags", "where"),
    [
        (["max_steps: 5\nnum_train_epochs: 3"], "", "in a.yaml"),
        ([], "--max_steps 5 --num_train_epochs 3", "on the command line"),
    ],
)
def test_one_source_cannot_say_it_twice(texts, flags, where, parse):
    with pytest.raises(UserError, match=f"num_train_epochs is 3 and max_steps is 5 {where}"):
        parse(*texts, flags=flags)


@pytest.mark.parametrize(
    ("texts", "flags", "words"),
    [
        ([], "--eval_steps 5", "eval_steps is 5.*eval_strategy is epoch"),
        (["save_steps: 5\nsave_strategy: epoch"], "", "save_steps is 5.*save_strategy is epoch"),
        (["eval_strategy: epoch"], "--eval_steps 5", "eval_steps is 5.*eval_strategy: steps"),
        (["logging_strategy: epoch\nlogging_steps: 3"], "", "logging_steps is 3.*logging_strategy is epoch"),
        ([], "--lr_scheduler_type constant --warmup_steps 7", "warmup_steps is 7.*constant_with_warmup"),
        ([], "--freeze backbone --layer_decay 0.7", "layer_decay is 0.7.*freeze is backbone"),
        ([], "--hub_strategy checkpoint", "hub_strategy is checkpoint, but push_to_hub is False"),
        ([], "--freeze backbone --lora_rank 8", "lora_rank is 8, but freeze is backbone"),
    ],
)
def test_an_option_that_does_nothing_is_refused(texts, flags, words, parse):
    with pytest.raises(UserError, match=words):
        parse(*texts, flags=flags)


def test_a_later_source_may_silence_an_option(parse):
    steps = "eval_strategy: steps\nsave_strategy: steps\neval_steps: 5\nsave_steps: 5\nwarmup_steps: 7"
    flags = "--eval_strategy epoch --save_strategy epoch --lr_scheduler_type constant"
    config = parse(steps, flags=flags).config()
    assert "eval_steps" not in config and "save_steps" not in config
    assert parse(yaml.safe_dump({k: v for k, v in config.items() if v is not None})).config() == config


@pytest.mark.parametrize(
    ("common", "stage", "words"),
    [
        ("freeze: backbone", "layer_decay: 0.7", r"stages\[0\]: layer_decay is 0.7, but freeze is backbone"),
        ("seed: 1", "{freeze: backbone, layer_decay: 0.7}", r"stages\[0\]: layer_decay is 0.7"),
        ("seed: 1", "{max_steps: 9, eval_steps: 3}", r"stages\[0\]: eval_steps is 3.*eval_strategy is epoch"),
    ],
)
def test_an_option_that_does_nothing_in_its_stage_is_refused(common, stage, words, parse):
    with pytest.raises(UserError, match=words):
        expand_stages(parse(f"{common}\nstages:\n- {stage}\n- {{freeze: none}}"))


def test_a_stage_may_silence_an_option_of_the_whole_run(parse):
    stages = "stages:\n- {freeze: backbone}\n- {learning_rate: 1.0e-3}"
    frozen, whole = expand_stages(parse(f"layer_decay: 0.7\n{stages}"))
    assert (frozen.training.layer_decay, whole.training.layer_decay) == (1.0, 0.7)


def test_options_after_stages_that_a_stage_sets_are_told_of(parse, caplog):
    stages = "stages:\n- {max_steps: 3, learning_rate: 1.0e-3}\n- {learning_rate: 1.0e-3}"
    parse(f"max_steps: 9\n{stages}", flags="--learning_rate 1e-3")
    assert not caplog.messages
    parse(stages, flags="--learning_rate 1e-2")
    assert [message.split(" is not")[0] for message in caplog.messages] == ["learning_rate 0.01"] * 2
    caplog.clear()
    parse(stages, flags="--num_train_epochs 2")
    assert len(caplog.messages) == 1 and "stages[0]" in caplog.text and "max_steps: 3" in caplog.text


@pytest.mark.parametrize(
    ("texts", "flags", "refused"),
    [
        (
            [],
            "--do_eval --mixup_alpha 0.2 --learning_rate 1e-3",
            "mixup_alpha.*learning_rate|learning_rate.*mixup_alpha",
        ),
        ([], "--do_eval --train_datasets real data/noisy", "train_datasets"),
        ([], "--do_eval --feature_stats train", "feature_stats"),
        ([], "--do_predict --predict_path . --max_steps 5", "max_steps"),
        (["do_eval: true"], "--freeze backbone", "freeze"),
        ([], "--do_eval --adam_beta1 0.8", "adam_beta1"),
        ([], "--do_predict --predict_path . --gradient_checkpointing --eval_steps 5", "gradient_check.*eval_steps"),
        (["adam_beta1: 0.8"], "--do_eval --torch_compile", None),
        (["learning_rate: 1.0e-3\nmixup_alpha: 0.2"], "--do_eval", None),  # a recipe that is evaluated
        ([], "--do_eval --seed 3 --precision fp32 --per_device_eval_batch_size 4 --window_seconds 5", None),
        ([], "--do_train --do_eval --mixup_alpha 0.2", None),
        ([], "--mixup_alpha 0.2", None),
    ],
)
def test_a_run_that_trains_nothing_takes_no_option_of_training(texts, flags, refused, parse):
    if refused is None:
        parse(*texts, flags=flags)
        return
    with pytest.raises(UserError, match=refused) as caught:
        parse(*texts, flags=flags)
    assert "nothing is trained" in str(caught.value)


def test_stock_options_of_training_are_those_of_transformers_that_are_not_ours():
    declared = {field.name for field in dataclasses.fields(TrainingOptions)}
    assert STOCK_OF_TRAINING <= TrainingOptions.further_options().keys() - declared
