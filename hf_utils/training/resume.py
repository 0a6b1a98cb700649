"""The checkpoint that a run continues from, and the earlier run that it must not write over."""

import logging
import shutil
from pathlib import Path

from hf_utils.errors import UserError

logger = logging.getLogger(__name__)


def check_checkpoints(output_dir: str, resume_from_checkpoint: str | None, *, overwrite: bool) -> None:
    """Raise UserError if there is an earlier run of which nothing is said, or nothing to resume from."""
    if resume_from_checkpoint in ("auto", "hub"):
        return
    if resume_from_checkpoint is not None:
        if not Path(resume_from_checkpoint, "trainer_state.json").is_file():
            raise UserError(
                f"--resume_from_checkpoint {resume_from_checkpoint} holds no trainer_state.json, so no training can "
                "continue from it. Name a checkpoint-N folder of a run, or `auto` for the newest one in --output_dir."
            )
    elif _find_newest(output_dir) and not overwrite:
        raise UserError(
            f"--output_dir {output_dir} holds the checkpoints of an earlier run. Continue it by "
            "--resume_from_checkpoint auto, replace it by --overwrite, or choose another folder."
        )


def _find_newest(output_dir: str) -> str | None:
    from transformers.trainer_utils import get_last_checkpoint  # here, because it imports PyTorch

    return get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None


def find_checkpoint(output_dir: str, resume_from_checkpoint: str | None, *, overwrite: bool) -> str | None:
    """Return the checkpoint to continue from: the one named, the newest of `output_dir` for "auto", or None.

    Without one, the checkpoints and curves of an earlier run in `output_dir` are removed.

    Raises:
        UserError: as `check_checkpoints`.
    """
    check_checkpoints(output_dir, resume_from_checkpoint, overwrite=overwrite)
    if resume_from_checkpoint == "auto":
        newest = _find_newest(output_dir)
        logger.info("Continuing from %s", newest) if newest else logger.info("No checkpoint yet: from the start")
        return newest
    if resume_from_checkpoint is not None:
        return resume_from_checkpoint
    for old in (*Path(output_dir).glob("checkpoint-*"), Path(output_dir, "tensorboard")):
        shutil.rmtree(old, ignore_errors=True)
    return None
