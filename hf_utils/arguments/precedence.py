"""Options that silence each other: which one counts, and which would do nothing.

transformers lets `max_steps` win over `num_train_epochs`, whichever was given later, and never looks at `eval_steps`
where evaluation goes by epochs. Here the later source of options wins for the pair, and an option that would do
nothing is refused.
"""

import logging
from collections.abc import Collection, Mapping
from typing import Any

from hf_utils.errors import UserError

logger = logging.getLogger(__name__)

# {option: (the option that decides whether it counts, that one's default, the values with which it does nothing, what
# to do)}.
_SILENCED = {
    "eval_steps": ("eval_strategy", "epoch", ("epoch", "no"), "give eval_strategy: steps"),
    "save_steps": ("save_strategy", "epoch", ("epoch", "best", "no"), "give save_strategy: steps"),
    "logging_steps": ("logging_strategy", "steps", ("epoch", "no"), "give logging_strategy: steps"),
    "warmup_steps": (
        "lr_scheduler_type",
        "linear",
        ("constant", "reduce_lr_on_plateau", "greedy"),
        "choose a schedule with a warm-up, such as constant_with_warmup",
    ),
    "layer_decay": ("freeze", "none", ("backbone",), "choose another freeze, under which blocks learn"),
    "hub_strategy": ("push_to_hub", False, (False,), "give push_to_hub"),
    "lora_rank": ("freeze", "none", ("backbone",), "choose another freeze, whose blocks get the adapters"),
}
# Options of transformers that this project does not declare, and that do nothing in a run that trains nothing.
STOCK_OF_TRAINING = frozenset(
    """
    optim optim_args optim_target_modules adam_beta1 adam_beta2 adam_epsilon lr_scheduler_kwargs max_grad_norm
    average_tokens_across_devices torch_empty_cache_steps
    activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs
    logging_strategy logging_first_step logging_nan_inf_filter include_num_input_tokens_seen
    eval_steps eval_delay eval_on_start greater_is_better
    save_steps save_only_model save_on_each_node
    restore_callback_states_from_checkpoint data_seed train_sampling_strategy
    ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph
    """.split()
)


def override(values: Mapping[str, Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return `values` with the options of a later source, `given`, in their place.

    Of `num_train_epochs` and `max_steps` the one of the later source counts.

    Args:
        where: what to call the source in messages, such as "in a.yaml".

    Raises:
        UserError: `given` has both.
    """
    counts_steps = (given.get("max_steps") or -1) > 0
    merged = {**values, **given}
    if counts_steps and "num_train_epochs" in given:
        raise UserError(
            f"num_train_epochs is {given['num_train_epochs']:g} and max_steps is {given['max_steps']} {where}: both "
            "say how long to train. Give one of them."
        )
    if counts_steps:
        merged.pop("num_train_epochs", None)
    elif "num_train_epochs" in given and "max_steps" in merged:
        merged["max_steps"] = -1
    return merged


def without_unused_length(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without `num_train_epochs`, where steps are counted instead."""
    unused = {"num_train_epochs"} if (config.get("max_steps") or -1) > 0 else ()
    return {name: value for name, value in config.items() if name not in unused}


def drop_silenced(values: Mapping[str, Any], ranks: Mapping[str, int], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` without the options that do nothing, since a later source chose otherwise.

    Args:
        values: the options of all sources.
        ranks: {option: number of the source that gave it}.
        defaults: of all options. One that is given with its default, as in a saved configuration, may do nothing.

    Raises:
        UserError: an option does nothing, and was not given before the one that silences it.
    """
    kept, problems = dict(values), []
    for name, (switch, default, silencing, advice) in _SILENCED.items():
        found = values.get(switch, default)
        if name not in values or found not in silencing:
            continue
        del kept[name]
        if ranks[name] >= ranks.get(switch, -1) and values[name] not in (0, defaults[name]):
            problems.append(f"{name} is {values[name]}, but {switch} is {found}: {advice}, or leave {name} out")
    if problems:
        raise UserError("\n".join(problems))
    return kept


def refuse_idle(values: Mapping[str, Any], of_training: Collection[str]) -> None:
    """Raise UserError if a run that trains nothing was given options of training.

    Args:
        values: all options, checked.
        of_training: those of training that were given on the command line. In a file they may be: a recipe can be
            evaluated.
    """
    jobs = [job for job in ("do_eval", "do_predict") if values.get(job)]
    if of_training and jobs and not values.get("do_train"):
        raise UserError(
            f"{', '.join(of_training)}: for training, but with {' and '.join(jobs)} alone nothing is trained. Leave "
            "it out, or add do_train"
        )


def warn_of_stages(values: Mapping[str, Any], ranks: Mapping[str, int]) -> None:
    """Log the options that were given after `stages`, and that a stage has another value for: the stage's counts."""
    for index, changes in enumerate(values.get("stages") or []):
        own = {name: {"num_train_epochs": "max_steps", "max_steps": "num_train_epochs"}.get(name) for name in changes}
        for name, partner in own.items():
            for later in (name, partner):
                if later in values and ranks[later] > ranks["stages"] and values[later] != changes.get(later):
                    logger.warning(
                        "%s %s is not used in stages[%d], which sets %s: %s.",
                        *(later, values[later], index, name, changes[name]),
                    )
