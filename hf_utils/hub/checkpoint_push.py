"""Trainings that push while they run, and that go on from the Hub when their machine is gone.

The Trainer can push by itself, but uploads its pickled arguments, events with paths of the machine and a card of its
own, and never the best checkpoint, without which a training that goes on elsewhere cannot end as it would have.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy

from hf_utils.errors import UserError
from hf_utils.files import write_atomically
from hf_utils.hub.published_files import find_files, is_replaced, to_public_json
from hf_utils.hub.repository import HUB_ERRORS, Repository, open_repository

logger = logging.getLogger(__name__)
LAST, BEST = "last-checkpoint", "best-checkpoint"
_NUMBERED = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)/{re.escape(TRAINER_STATE_NAME)}")


def open_model_repository(training_args, given: Mapping[str, Any]) -> Repository | None:
    """Return the repository that a run is pushed to, checked; None if it is not pushed.

    `given` has the options that the user gave. Without `hub_model_id` it has the name of the output folder. Raises
    UserError as `open_repository` does, and for options that need a push, or a push that they rule out.
    """
    if given.get("hub_revision"):
        raise UserError("hub_revision is given, but pushes go to the main branch: leave it out")
    if not training_args.push_to_hub:
        for name in ("hub_model_id", "hub_private_repo"):
            if given.get(name) is not None:
                raise UserError(f"{name} is given, but not push_to_hub, which would use it")
        if training_args.resume_from_checkpoint == "hub":
            raise UserError("resume_from_checkpoint is hub, so push_to_hub is needed: it says which repository")
        return None
    if not training_args.do_train:
        raise UserError(
            "push_to_hub pushes the model that was trained, so it needs do_train; a finished run is pushed by "
            "`python -m hf_utils.hub FOLDER NAME`"
        )
    name = training_args.hub_model_id or Path(training_args.output_dir).resolve().name
    with training_args.main_process_first(desc="checking the Hub"):
        return open_repository(name, "model", private=training_args.hub_private_repo, token=training_args.hub_token)


class HubCheckpoints(TrainerCallback):
    """Pushes at every save, as `hub_strategy` says; a push that fails is logged, and the training goes on.

    The training waits for the push: its files may be deleted by the next save.
    """

    def __init__(self, repository: Repository, strategy: HubStrategy):
        self._repository, self._strategy = repository, strategy

    def on_save(self, args, state, control, **kwargs):
        if self._strategy == HubStrategy.END:
            return
        args.distributed_state.wait_for_everyone()  # every process writes its random state
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        contents, places = find_files(folder), ()
        if self._strategy == HubStrategy.CHECKPOINT:
            places = LAST, BEST
            contents |= _list_checkpoint(folder, LAST)
            best = state.best_model_checkpoint
            if best is not None and Path(best).name != folder.name:
                contents |= {f"{BEST}/{name}": path for name, path in find_files(Path(best)).items()}
        elif self._strategy == HubStrategy.ALL_CHECKPOINTS:
            places = (folder.name,)
            contents |= _list_checkpoint(folder, folder.name)

        def mixes(name: str) -> bool:
            """Whether a training would go on from this file of an earlier one beside those of this one."""
            return name.partition("/")[0] in places or is_replaced("model")(name)

        try:
            self._repository.commit(contents, f"Training in progress, step {state.global_step}", replaced=mixes)
        except UserError as error:
            logger.warning("%s\nThe training goes on; the next save is pushed again.", error)


def fetch_checkpoint(repository: Repository, output_dir: str) -> str | None:
    """Download the last checkpoint on the Hub into `output_dir`, and the best one; return its folder, or None.

    Raises:
        UserError: the Hub does not answer, or lacks a file.
    """
    files = repository.list_files()
    numbers = [int(match[1]) for match in map(_NUMBERED.fullmatch, files) if match]
    newest = f"{PREFIX_CHECKPOINT_DIR}-{max(numbers)}" if numbers else None
    place = LAST if f"{LAST}/{TRAINER_STATE_NAME}" in files else newest
    if place is None:
        logger.info("No checkpoint in %s yet: from the start", repository.name)
        return None
    try:
        state = _read_state(_download(repository, place))
        folder = Path(output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state['global_step']}")
        if best := state["best_model_checkpoint"]:
            state["best_model_checkpoint"] = str(Path(output_dir, best))
        is_here = _read_state(folder) == state  # as where another process has copied it
        if best and best != folder.name and not (is_here and Path(output_dir, best).is_dir()):
            _replace(Path(output_dir, best), _download(repository, BEST if place == LAST else best))
        if not is_here:
            _replace(folder, _download(repository, place))
            write_atomically(folder / TRAINER_STATE_NAME, json.dumps(state, indent=2))
    except HUB_ERRORS as error:
        raise UserError(f"cannot download {place} of {repository.name}: {type(error).__name__}: {error}") from error
    logger.info("Continuing from %s of %s, in %s", place, repository.name, folder)
    return str(folder)


def _list_checkpoint(folder: Path, place: str) -> dict[str, Path | bytes]:
    """Return all files of a checkpoint but the pickled arguments, its best one named without the folder it is in."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != TRAINING_ARGS_NAME)
    contents = {path.relative_to(folder).as_posix(): path for path in files} | find_files(folder)
    contents = {f"{place}/{name}": content for name, content in contents.items()}
    state = _read_state(folder)
    if state["best_model_checkpoint"]:
        state["best_model_checkpoint"] = Path(state["best_model_checkpoint"]).name
    return contents | {f"{place}/{TRAINER_STATE_NAME}": to_public_json(state)}


def _download(repository: Repository, place: str) -> Path:
    snapshot = snapshot_download(repository.name, allow_patterns=f"{place}/*", token=repository.token)
    return Path(snapshot, place)


def _read_state(folder: Path) -> dict[str, Any] | None:
    path = folder / TRAINER_STATE_NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _replace(folder: Path, source: Path) -> None:
    """Put the files of a checkpoint, but its state, in the place of another one.

    A kill leaves no state, and so no checkpoint that anything takes for a whole one.
    """
    (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
    if folder.is_dir():
        shutil.rmtree(folder)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(TRAINER_STATE_NAME))
