"""Files and flags become options: order, types, every kind of mistake in one message, help, saved configuration."""

import dataclasses
import json
from typing import Literal

import pytest
import yaml
from transformers.trainer_utils import IntervalStrategy

from hf_utils.arguments.options import collect_options, option
from hf_utils.arguments.parsing import merged_config, parse_arguments
from hf_utils.arguments.replaced_options import REPLACED_OPTIONS
from hf_utils.config_files import read_config, write_config
from hf_utils.disclosure import is_secret
from hf_utils.errors import UserError


@dataclasses.dataclass
class Model:
    name: str = option(dataclasses.MISSING, "Name of the model.", group="model")
    kind: Literal["mel", "stft", "no"] = option("mel", "Kind.", group="model")
    layers: int | None = option(None, "Layers, at most 50 % of all.", group="model", at_least=1)


@dataclasses.dataclass
class Training:
    learning_rate: float = option(5e-5, "Learning rate.", group="training", above=0)
    steps: int = option(10, "Steps.", group="training")
    sources: list[str] = option(["real"], "Sources.", group="training")
    best: bool = option(True, "Keep the best.", group="training")
    fast: bool = option(False, "Hurry.", group="training")
    private: bool | None = option(None, "Private.", group="training")
    eval_strategy: IntervalStrategy | str = option("epoch", "When.", group="training")
    scheduler_kwargs: dict | str | None = dataclasses.field(default=None, metadata={"help": "By 20%% or so."})
    hub_token: str | None = option(None, "Secret.", group="training")
    folder: str | None = option(None, "Folder.", group="training", derive=lambda options: f"runs/{options['name']}")
    stages: list[dict] | None = option(None, "Stages.", group="training", yaml_only=True)

    def __post_init__(self):
        if self.fast and self.steps > 100:
            raise UserError(f"fast is on, but steps is {self.steps}")
        if self.steps == 13:
            raise ValueError("13 is an unlucky number of steps")


CLASSES = (Model, Training)


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """Parse YAML texts as files a.yaml, b.yaml ... and then flags."""
    monkeypatch.chdir(tmp_path)

    def run(*texts: str, flags: str = "", required: bool = True):
        names = []
        for letter, text in zip("abc", texts, strict=False):
            (tmp_path / f"{letter}.yaml").write_text(text, encoding="utf-8")
            names.append(f"{letter}.yaml")
        argv = [*names, *flags.split()]
        if required and not any("name:" in text for text in texts) and "--name" not in flags:
            argv += ["--name", "m"]
        return parse_arguments(CLASSES, argv)

    return run


def error_of(parse, *args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        parse(*args, **kwargs)
    return str(caught.value)


def test_later_files_win_and_flags_win_over_files_wherever_they_stand(parse):
    model, training, _ = parse(
        "name: a\nsteps: 1\nlearning_rate: 1.0e-3", "steps: 2\nsources: [x, y]", flags="--steps 3"
    )
    assert (model.name, training.steps, training.learning_rate) == ("a", 3, 1e-3)
    assert training.sources == ["x", "y"]
    _, training, _ = parse_arguments(CLASSES, ["--steps", "3", "a.yaml", "--best", "false", "b.yaml"])
    assert (training.steps, training.sources, training.best) == (3, ["x", "y"], False)


def test_flags_alone_and_their_spellings(parse):
    model, training, _ = parse(
        flags="--layers 4 --learning-rate=3e-5 --sources a b --no_best --fast --private --kind no"
    )
    assert (model.kind, model.layers) == ("no", 4)
    assert (training.learning_rate, training.sources, training.best, training.fast) == (3e-5, ["a", "b"], False, True)
    assert training.private is True
    _, training, _ = parse(flags="--fast false")
    assert training.fast is False


def test_values_of_yaml_become_the_option_s_type(parse):
    model, training, _ = parse(
        "layers: null\nlearning_rate: 1\nbest: off\nkind: 'no'\neval_strategy: 'no'\nscheduler_kwargs: {factor: 0.5}"
    )
    assert model.layers is None and model.kind == "no"
    assert training.learning_rate == 1.0 and type(training.learning_rate) is float
    assert training.best is False and training.eval_strategy == "no" and training.scheduler_kwargs == {"factor": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "learning_rate: 3e-5",
            "learning_rate in a.yaml is the text '3e-5', expected a float; YAML reads 3e-5 as text: write 3.0e-5",
        ),
        (
            "learning_rate: 1.5e4",
            "learning_rate in a.yaml is the text '1.5e4', expected a float; YAML reads 1.5e4 as text: write 1.5e+4",
        ),
        ("learning_rate: fast", "learning_rate in a.yaml is the text 'fast', expected a float"),
        ("learning_rate: .nan", "learning_rate in a.yaml is nan, expected a finite number"),
        ("learning_rate: 0", "learning_rate in a.yaml is 0.0, expected more than 0"),
        ("learning_rate: true", "learning_rate in a.yaml is true, expected a float"),
        ("layers: 0", "layers in a.yaml is 0, expected at least 1"),
        ("steps: 2.5", "steps in a.yaml is the number 2.5, expected a whole number"),
        ("steps: '3'", "steps in a.yaml is the text '3', expected a whole number; remove the quotes"),
        ("steps: true", "steps in a.yaml is true, expected a whole number"),
        ("steps:", "steps in a.yaml is empty, expected a whole number"),
        (
            "best: 'yes'",
            "best in a.yaml is the text 'yes', expected true or false; write true or false without quotes",
        ),
        ("best: 1", "best in a.yaml is the number 1, expected true or false"),
        ("sources: real", "sources in a.yaml is the text 'real', expected a list: write [real]"),
        ("sources: [1]", "sources in a.yaml is the number 1, expected text; write it in quotes"),
        ("folder: [x]", "folder in a.yaml is the list ['x'], expected text"),
        ("folder: 2024-01-01", "folder in a.yaml is the date 2024-01-01, expected text; write it in quotes"),
        ("kind: cqt", "kind in a.yaml is the text 'cqt', expected one of mel, stft, no"),
        (
            "eval_strategy: no",
            "eval_strategy in a.yaml is false, expected one of no, steps, epoch; YAML reads a bare no or off as false "
            'and yes or on as true: write it in quotes, "no"',
        ),
        ("eval_strategy: epochs", "eval_strategy in a.yaml is the text 'epochs', expected one of no, steps, epoch"),
        ("learning_rat: 1.0", "learning_rat in a.yaml is not an option: the nearest is learning_rate"),
        ("learning-rate: 1.0", "learning-rate in a.yaml is not an option: the nearest is learning_rate"),
        ("zzz: 1", "zzz in a.yaml is not an option: --help_all lists all"),
        ("no: 1", "False in a.yaml is not an option: --help_all lists all"),
        ("evaluation_strategy: epoch", "evaluation_strategy in a.yaml is not an option here: use eval_strategy"),
        (
            "warmup_ratio: 0.1",
            "warmup_ratio in a.yaml is not an option here: use warmup_steps: below 1 it is a fraction of all steps",
        ),
        ("steps: 1\nname: m\nsteps: 2", "a.yaml: steps is given twice, in lines 1 and 3: keep one"),
        ("steps: [1", "a.yaml, line 1: not valid YAML (expected ',' or ']', but got '<stream end>')"),
        ("", "a.yaml: the file is empty, expected lines of the form `option: value`"),
        ("- steps", "a.yaml: found a list, expected lines of the form `option: value`"),
        ("steps", "a.yaml: found the str 'steps', expected lines of the form `option: value`"),
        (
            "hub_token: hf_secret",
            "hub_token in a.yaml is a secret in a file: use HF_TOKEN, `hf auth login` or --hub_token",
        ),
    ],
)
def test_mistakes_in_a_file(parse, text, message):
    assert error_of(parse, text) == message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--learning_rat 1", "--learning_rat on the command line is not an option: the nearest is learning_rate"),
        ("--learn 1", "--learn on the command line is not an option: --help_all lists all"),
        (
            "--evaluation-strategy no",
            "--evaluation_strategy on the command line is not an option here: use eval_strategy",
        ),
        ("--steps x", "--steps on the command line: invalid int value: 'x'"),
        ("--learning_rate nan", "learning_rate on the command line is nan, expected a finite number"),
        ("--layers 0", "layers on the command line is 0, expected at least 1"),
        ("--stages 1", "--stages on the command line has no flag: write it into a YAML file"),
        ("stray", "'stray' on the command line is neither a flag nor a YAML file (*.yaml, *.yml)"),
        ("none.yaml", "none.yaml: cannot be read (No such file or directory), expected a YAML file"),
        ("--sources real a.yml", "sources on the command line takes a.yml for one of its values: name files first"),
    ],
)
def test_mistakes_on_the_command_line(parse, flags, message):
    assert error_of(parse, flags=f"--name m {flags}") == message


def test_all_mistakes_come_in_one_message_with_their_sources(parse):
    message = error_of(parse, "steps: x\nbests: true", "kind: cqt", flags="--name m --warmup_ratio 0.1")
    assert [line.split(" is ")[0] for line in message.splitlines()] == [
        "--warmup_ratio on the command line",
        "steps in a.yaml",
        "bests in a.yaml",
        "kind in b.yaml",
    ]


def test_a_contradiction_names_the_files_of_the_options_involved(parse):
    assert error_of(parse, "steps: 200", flags="--name m --fast") == (
        "fast is on, but steps is 200\n  steps comes from a.yaml\n  fast comes from the command line"
    )
    assert error_of(parse, "steps: 13").startswith("13 is an unlucky number of steps")


def test_a_required_option_is_asked_for(parse):
    message = error_of(parse, required=False)
    assert message.startswith("--name ") and "required" in message and "Name of the model" not in message


def test_stages_are_checked_like_the_file_around_them(parse):
    _, training, _ = parse("stages:\n- {steps: 5}\n- {learning_rate: 1, steps: 7}")
    assert training.stages == [{"steps": 5}, {"learning_rate": 1.0, "steps": 7}]
    assert error_of(parse, "stages: [{steps: 5}, {stepps: 5, best: 1}]") == (
        "stages[1].stepps in a.yaml is not an option: the nearest is steps\n"
        "stages[1].best in a.yaml is the number 1, expected true or false"
    )


def test_a_saved_configuration_parses_to_itself_and_holds_no_secret(parse, tmp_path):
    model, training, given = parse(
        "name: 'no'\nscheduler_kwargs: {factor: 0.5}\nstages: [{steps: 5}]", flags="--hub_token hf_secret --kind no"
    )
    assert training.hub_token == "hf_secret"
    config = merged_config(CLASSES, given)
    assert config["folder"] == "runs/no" and config["learning_rate"] == 5e-5 and config["kind"] == "no"
    assert "hf_secret" not in json.dumps(config) and "hub_token" not in config
    path = tmp_path / "config.yaml"
    write_config(path, config)
    assert read_config(path) == config == yaml.safe_load(path.read_text(encoding="utf-8"))
    model_again, training_again, given_again = parse_arguments(CLASSES, [str(path)])
    assert merged_config(CLASSES, given_again) == config
    assert model_again == model and training_again == dataclasses.replace(training, hub_token=None)


def test_stock_options_stay_out_of_the_configuration_unless_given(parse):
    *_, given = parse()
    assert "scheduler_kwargs" not in merged_config(CLASSES, given)


def test_both_spellings_of_a_token_s_flag_are_secret():
    assert is_secret("hub_token") and is_secret("hub-token") and not is_secret("include_num_input_tokens_seen")


def test_a_value_of_a_misspelt_flag_is_never_shown(parse):
    assert "hf_secret" not in error_of(parse, flags="--hub_tokn hf_secret")


def test_help_is_grouped_and_says_defaults(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        parse_arguments(CLASSES, ["--help"], description="What it does.", examples="examples:\n  go")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.index("What it does.") < text.index("model:") < text.index("training:") < text.index("examples:\n  go")
    assert "--layers N                  Layers, at most 50 % of all. (default: none)" in text
    assert "--name TEXT                 Name of the model. (required)" in text
    assert "--kind {mel,stft,no}        Kind. (default: mel)" in text
    assert "--best                      Keep the best. (default: on; --no_best switches it off)" in text
    assert "scheduler_kwargs" not in text and "learning-rate" not in text
    with pytest.raises(SystemExit):
        parse_arguments(CLASSES, ["--help_all"])
    assert "--scheduler_kwargs JSON     By 20% or so. (default: none)" in capsys.readouterr().out


@dataclasses.dataclass
class Partial:
    steps: int = option(10, "Steps.", group="training", at_least=1)
    stages: list[dict] | None = option(None, "Stages.", group="training", yaml_only=True)

    @staticmethod
    def complete_class():
        Partial.completed += 1
        return Whole

    @staticmethod
    def further_options():
        return {"steps": None, "momentum": None, "nesterov": None, "damping": collect_options([Whole])["damping"]}


@dataclasses.dataclass
class Whole(Partial):
    momentum: float = dataclasses.field(default=0.9, metadata={"help": "Momentum."})
    nesterov: bool = dataclasses.field(default=True, metadata={"help": "Nesterov's."})
    damping: float = dataclasses.field(default=0.1, metadata={"help": "Damping."})


@pytest.fixture
def completed(monkeypatch):
    """Return a function that tells how often the complete class was asked for."""
    monkeypatch.setattr(Partial, "completed", 0, raising=False)
    return lambda: Partial.completed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "0"], "steps on the command line is 0, expected at least 1"),
        (["--step", "1"], "--step on the command line is not an option: the nearest is steps"),
        (["--momentun", "1"], "--momentun on the command line is not an option: the nearest is momentum"),
        (["--damping", "x"], "--damping on the command line: invalid float value: 'x'"),
    ],
)
def test_a_mistake_does_not_wait_for_the_complete_class(completed, words, message):
    with pytest.raises(UserError) as caught:
        parse_arguments((Partial,), words)
    assert str(caught.value) == message and completed() == 0


def test_help_does_not_wait_for_the_complete_class_and_names_its_options_last(completed, capsys):
    with pytest.raises(SystemExit):
        parse_arguments((Partial,), ["--help"])
    text = capsys.readouterr().out
    assert "--steps" in text and "momentum" not in text and "--help_all lists them" in text and completed() == 0
    with pytest.raises(SystemExit):
        parse_arguments((Partial,), ["--help_all"])
    assert "--momentum" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--steps", "3"], Whole(steps=3)),
        (["--momentum", "0.5"], Whole(momentum=0.5)),
        (["--damping", "0.5"], Whole(damping=0.5)),
        (["--no_nesterov"], Whole(nesterov=False)),
        (["a.yaml"], Whole(steps=3, stages=[{"momentum": 1.0}])),
    ],
)
def test_an_incomplete_class_gives_its_complete_one(completed, tmp_path, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("steps: 3\nstages: [{momentum: 1}]")
    made, given = parse_arguments((Partial,), words)
    assert made == expected and type(made) is Whole
    assert given.items() <= merged_config((Partial,), given).items()


def test_mistakes_beside_a_further_option_come_in_one_message(completed):
    with pytest.raises(UserError) as caught:
        parse_arguments((Partial,), ["--momentum", "nan", "--steps", "0", "--stepss", "1"])
    assert [line.split(" is ")[0] for line in str(caught.value).splitlines()] == [
        "--stepss on the command line",
        "momentum on the command line",
        "steps on the command line",
    ]


def test_replaced_names_are_no_options_themselves():
    from hf_utils.arguments.options import complete_classes
    from hf_utils.arguments.run_arguments import RUN_CLASSES

    options = collect_options(complete_classes(RUN_CLASSES))
    assert REPLACED_OPTIONS.keys().isdisjoint(options)
    used = {
        advice.split("use ")[1].split(":")[0].split(",")[0].split()[0]
        for advice in REPLACED_OPTIONS.values()
        if "use " in advice
    }
    assert used <= options.keys()
