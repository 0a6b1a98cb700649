"""The options of one run, together: what its parts are handed instead of a list of options each."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from hf_utils.arguments.data import DataArguments
from hf_utils.arguments.model import ModelArguments
from hf_utils.arguments.parsing import build_arguments, merged_config, parse_arguments
from hf_utils.arguments.training_options import TrainingOptions

if TYPE_CHECKING:
    from hf_utils.arguments.training import ClassificationTrainingArguments

# The last is incomplete: `options.complete_classes` makes it ClassificationTrainingArguments.
RUN_CLASSES = ModelArguments, DataArguments, TrainingOptions


@dataclasses.dataclass(frozen=True)
class RunArguments:
    """Everything that one run is told.

    Attributes:
        given: the options that were given, on the command line or in YAML files, by name and as they were written
            (`auto` stays `auto`), with the folder that `output_dir` became, and without secrets.
    """

    model: ModelArguments
    data: DataArguments
    training: "ClassificationTrainingArguments"
    given: Mapping[str, Any]

    @classmethod
    def parse(cls, words: Sequence[str]) -> Self:
        """Return the arguments of YAML files and flags. Raises UserError as `parse_arguments`."""
        return cls(*parse_arguments(RUN_CLASSES, words))

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Return the arguments of a run with these checked options. Raises UserError as `build_arguments`."""
        return cls(*build_arguments(RUN_CLASSES, options))

    def config(self) -> dict[str, Any]:
        """Return the merged configuration, as `merged_config`."""
        return merged_config(RUN_CLASSES, self.given)
