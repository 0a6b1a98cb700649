"""The options of a search for hyper-parameters."""

import dataclasses
import importlib.util
import os
from functools import partial
from typing import Literal

from hf_utils.arguments.options import option
from hf_utils.errors import UserError

_search = partial(option, group="search for hyper-parameters")
_NUM_TRIALS = 30
_RAY = "ray[tune]==2.60.0"  # as tested; its OptunaSearch goes with the Optuna of requirements.txt


@dataclasses.dataclass
class SearchArguments:
    """Whether to search instead of training once. Raises UserError on contradictions."""

    search: str | None = _search(
        None,
        "YAML file of options with ranges or choices, such as configs/search/optuna.yaml: train many times, compare "
        "on validation, and write best.yaml. (default: none)",
        metavar="FILE",
    )
    num_trials: int = _search(
        _NUM_TRIALS, "Trials of the search, those of earlier and of other processes included.", at_least=1
    )
    search_backend: Literal["optuna", "ray"] = _search(
        "optuna",
        "What runs the trials. optuna: one after the other, Hyperband; several processes with one --output_dir share "
        f"them. ray: one per GPU at once, ASHA; needs Ray Tune: pip install '{_RAY}'.",
    )

    def __post_init__(self):
        if self.search is None and self.num_trials != _NUM_TRIALS:
            raise UserError(f"num_trials is {self.num_trials}, but no search is given, which would use it")
        if self.search is None and self.search_backend != "optuna":
            raise UserError(f"search_backend is {self.search_backend}, but no search is given, which would use it")
        if self.search_backend == "ray" and importlib.util.find_spec("ray") is None:
            raise UserError(
                f'search_backend is ray, which needs a package that is not installed: pip install "{_RAY}"'
            )
        if self.search is not None and not os.path.isfile(self.search):
            raise UserError(f"search is {self.search}, expected a YAML file of options with ranges or choices")
