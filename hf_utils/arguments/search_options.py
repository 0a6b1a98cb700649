"""The options of a search for hyper-parameters."""

import dataclasses
import os
from functools import partial

from hf_utils.arguments.options import option
from hf_utils.errors import UserError

_search = partial(option, group="search for hyper-parameters")
_NUM_TRIALS = 30


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
    search_storage: str | None = _search(
        None,
        "Database that keeps the trials, for machines that share a search, such as postgresql://user@host/database; "
        "the search has the name of --output_dir. Saved and shown nowhere. (default: a file in --output_dir)",
        metavar="URL",
    )

    def __post_init__(self):
        if self.search is None:
            if self.num_trials != _NUM_TRIALS:
                raise UserError(f"num_trials is {self.num_trials}, but no search is given, which would use it")
            if self.search_storage is not None:
                raise UserError("search_storage is given, but no search, which would use it")
        elif not os.path.isfile(self.search):
            raise UserError(f"search is {self.search}, expected a YAML file of options with ranges or choices")
