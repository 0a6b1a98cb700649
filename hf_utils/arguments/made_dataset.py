"""The options that every script that makes a dataset has: real clips, a share of the work, a place on the Hub."""

import dataclasses
from functools import partial
from typing import ClassVar

from hf_utils.arguments.data import SourceArguments
from hf_utils.arguments.options import option
from hf_utils.errors import UserError

_job = partial(option, group="several machines, and the Hub")


@dataclasses.dataclass
class MadeDatasetArguments(SourceArguments):
    """As `SourceArguments`, with the share of the work and the place on the Hub."""

    fewest_genres: ClassVar[int] = 1

    num_shards: int = _job(1, "Number of machines that share the work on one folder.", metavar="MACHINES", at_least=1)
    shard_index: int = _job(0, "Which of them this is, counted from 0.", metavar="MACHINE", at_least=0)
    push_to_hub: str | None = _job(None, "Dataset on the Hub to upload to, such as me/gtzan-noisy.", metavar="ID")
    hub_private_repo: bool = _job(False, "Make a new repository private.")
    hub_token: str | None = _job(
        None, "Token with the right to write, saved nowhere. (default: HF_TOKEN or `hf auth login`)"
    )

    def __post_init__(self):
        super().__post_init__()
        if self.shard_index >= self.num_shards:
            raise UserError(f"shard_index is {self.shard_index}, expected less than num_shards, {self.num_shards}")
        if self.hub_private_repo and self.push_to_hub is None:
            raise UserError("hub_private_repo is given, but not push_to_hub, which would use it")
