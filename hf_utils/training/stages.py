"""A run in stages, such as training on generated music first and on real music afterwards.

`stages` in a YAML file is a list of options that differ. Every stage but the first starts from the model of the one
before; every stage but the last lies in a folder of its own inside the run's, and sees neither test set nor Hub.
"""

import json
import logging
from pathlib import Path

from hf_utils.arguments.data import DataArguments
from hf_utils.arguments.model import ModelArguments
from hf_utils.arguments.parsing import build_arguments
from hf_utils.arguments.training import ClassificationTrainingArguments
from hf_utils.errors import UserError

logger = logging.getLogger(__name__)

_CLASSES = (ModelArguments, DataArguments, ClassificationTrainingArguments)
_FIXED = ("model_name_or_path", "output_dir", "do_train", "do_eval", "do_predict", "push_to_hub", "stages", "seed")


def expand_stages(arguments: tuple) -> list[tuple]:
    """Return the arguments of each stage that is still to be run: `arguments` alone where there are no stages.

    Raises:
        UserError: a stage sets what belongs to the whole run, or contradicts it.
    """
    training_args = arguments[-1]
    if not training_args.stages or not training_args.do_train:
        return [arguments]
    given = {name: value for part in arguments for name, value in part.given_options.items() if name != "stages"}
    given["hub_token"] = training_args.hub_token
    expanded, before = [], given["model_name_or_path"]
    for number, changes in enumerate(training_args.stages, start=1):
        if fixed := [name for name in changes if name in _FIXED]:
            raise UserError(
                f"stages[{number - 1}] sets {', '.join(fixed)}, which belongs to the whole run: move it up."
            )
        options = {**given, **changes, "model_name_or_path": before}
        if number < len(training_args.stages):
            before = str(Path(training_args.output_dir, f"stage-{number}"))
            options |= {"output_dir": before, "do_train": True, "do_eval": False, "push_to_hub": False}
        if _is_finished(options) and training_args.resume_from_checkpoint:
            logger.info("Stage %d is finished: %s", number, before)
        else:
            expanded.append(build_arguments(_CLASSES, options))
    return expanded


def _is_finished(options: dict) -> bool:
    results = Path(options.get("output_dir") or "", "results.json")
    return results.is_file() and json.loads(results.read_text(encoding="utf-8"))["complete"]
