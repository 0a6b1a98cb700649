"""What a search chooses from: a YAML file of options, each with a range or a list of choices.

learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}
num_mel_bins: {low: 64, high: 128, step: 32}
spectrogram: [mel, stft]
"""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from hf_utils.arguments.options import check_value
from hf_utils.arguments.parsing import explain_unknown
from hf_utils.config_files import read_config
from hf_utils.errors import UserError

# With any of these, trials would be scored on other tracks or in other ways, or would not be trials.
_FIXED = frozenset(
    """
    dataset_name dataset_config_name dataset_revision audio_column_name label_column_name genres on_bad_audio
    split_protocol split_seed num_folds fold eval_datasets metric_for_best_model greater_is_better
    eval_strategy eval_steps output_dir overwrite resume_from_checkpoint stages
    do_train do_eval do_predict predict_path push_to_hub hub_token
    """.split()
)
_RANGE_KEYS = {"low", "high", "log", "step"}


def read_space(path: str, options: Mapping) -> dict[str, BaseDistribution]:
    """Return {option: distribution} of a YAML file; `options` is from `collect_options`.

    Raises:
        UserError: all mistakes at once, each with what to write instead.
    """
    space, problems = {}, []
    for name, given in read_config(path).items():
        try:
            if name not in options:
                raise ValueError(explain_unknown(name, options, name))
            if name in _FIXED:
                raise ValueError(
                    f"{name} cannot be searched: trials must differ in nothing else than what is compared"
                )
            space[name] = _read_distribution(given, options[name], name)
        except ValueError as error:
            problems.append(f"{path}: {error}")
    if problems:
        raise UserError("\n".join(problems))
    return space


def _read_distribution(given: Any, field, name: str) -> BaseDistribution:
    if isinstance(given, list) and given:
        if any(isinstance(choice, (list, dict)) for choice in given):
            raise ValueError(f"{name} has a list among its choices, expected texts, numbers, true, false or null")
        return CategoricalDistribution([_check(field, choice, name) for choice in given])
    if not isinstance(given, dict) or not {"low", "high"} <= given.keys() <= _RANGE_KEYS:
        raise ValueError(f"{name} is {given!r}, expected a list of choices or {{low: ..., high: ..., log: true}}")
    low, high = (_check(field, given[key], name) for key in ("low", "high"))
    numbers = [type(bound) for bound in (low, high)]
    if numbers not in ([int, int], [float, float]):
        raise ValueError(f"{name} has a range, but is no number: give a list of choices")
    if numbers[0] is int:
        return IntDistribution(low, high, log=given.get("log", False), step=given.get("step", 1))
    return FloatDistribution(low, high, log=given.get("log", False), step=given.get("step"))


def _check(field, value: Any, name: str) -> Any:
    try:
        return check_value(field, value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def suggest_options(trial: Trial, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Return the options of a trial."""
    chosen = {}
    for name, part in space.items():
        if isinstance(part, CategoricalDistribution):
            chosen[name] = trial.suggest_categorical(name, part.choices)
        elif isinstance(part, IntDistribution):
            chosen[name] = trial.suggest_int(name, part.low, part.high, log=part.log, step=part.step)
        else:
            chosen[name] = trial.suggest_float(name, part.low, part.high, log=part.log, step=part.step)
    return chosen
