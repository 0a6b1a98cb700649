"""How a trained model fares on corrupted test tracks. N tracks.

Every track is corrupted whole, at its own sampling rate, and then resampled: every model hears the same noise. So it
is in the dataset that augment_dataset.py writes from the same file.
"""

import contextlib
import dataclasses
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from hf_utils.arguments.data import DataArguments
from hf_utils.arguments.training import ClassificationTrainingArguments
from hf_utils.augmentation.corruptions import Corruption
from hf_utils.data.waveforms import BUILDING_PREFIX, decode_clips, estimate_bytes, find_cache, select_files
from hf_utils.data.windows import EvaluationWindows
from hf_utils.errors import UserError
from hf_utils.results.run_results import EvaluatedSet
from hf_utils.training.experiment import Experiment
from hf_utils.training.trainer import ProgressBars

logger = logging.getLogger(__name__)

# Processes cost a second to start: fewer clips than this are not worth one.
_CLIPS_PER_PROCESS = 16
# What a cache of all corruptions may take of the free disk.
_DISK_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class CorruptedSet:
    """The scores of the test tracks under one corruption; `evaluated` has them in the order of the clean ones."""

    corruption: Corruption
    evaluated: EvaluatedSet


def check_transforms(data_args: DataArguments, training_args: ClassificationTrainingArguments) -> list[Corruption]:
    """Return the corruptions to evaluate, after reading every file of transforms, also those of later stages.

    Raises:
        UserError: there is a mistake in one of them, or there are corruptions under which nothing is evaluated.
    """
    for changes in training_args.stages or [{}]:
        files = {name: changes[name] for name in ("augmentation", "corruptions", "noise_folder") if name in changes}
        last = dataclasses.replace(data_args, **files)
        last.load_augmentation()
    if last.corruptions is not None and not training_args.do_eval:
        raise UserError("corruptions is given, but not do_eval, which would use it")
    return last.load_corruptions()


def evaluate_corruptions(
    experiment: Experiment, corruptions: Sequence[Corruption], args: DataArguments
) -> list[CorruptedSet]:
    """Return the scores of the test tracks under each corruption; under several processes, on every one.

    The corrupted tracks stay in the waveform cache, where the next checkpoint finds them, unless
    `args.cache_corruptions` is false or the disk has no room; then each corruption's are removed after its turn.

    Raises:
        UserError: a transform cannot work on a track, or the cache folder cannot be written.
    """
    if not corruptions:
        return []
    trainer, model = experiment.trainer, experiment.facts["model"]
    track_ids = set(experiment.windows["test"].track_ids)
    rows = enumerate(zip(experiment.clips["split"], experiment.clips["track_id"], strict=True))
    clips = experiment.clips.select([row for row, (split, name) in rows if split == "test" and name in track_ids])
    num_bytes = estimate_bytes(select_files(clips), model["sample_rate"], num_proc=1) * len(corruptions)
    num_proc = max(1, min(args.num_proc, len(clips) // _CLIPS_PER_PROCESS))
    bars = trainer.pop_callback(ProgressBars)  # a bar for every corruption is too many
    measured = []
    with _cache_folder(trainer, args, num_bytes) as (folder, temporary), _no_bars_of_datasets():
        bar = tqdm(corruptions, desc="Corruptions", disable=None if trainer.is_world_process_zero() else True)
        for corruption in bar:
            bar.set_postfix_str(corruption.name)
            with trainer.args.main_process_first(desc="corrupting"):
                tracks = decode_clips(
                    clips, model["sample_rate"], cache_dir=folder, num_proc=num_proc, corruption=corruption
                )
            windows = EvaluationWindows(tracks, model["window_samples"], model["hop_samples"])
            measured.append(CorruptedSet(corruption, trainer.evaluate_set(windows, corruption.name)))
            if temporary:
                _empty(trainer, folder)
    if bars is not None:
        trainer.add_callback(bars)
    return measured


@contextlib.contextmanager
def _cache_folder(trainer, args: DataArguments, num_bytes: int) -> Iterator[tuple[Path, bool]]:
    """Give the folder for corrupted tracks, the same in every process, and whether it is there for this run alone."""
    cache_dir = find_cache(args.waveform_cache_dir)
    made: list[str | None] = [None]
    if trainer.is_world_process_zero():
        cache_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache_dir).free
        if args.cache_corruptions and num_bytes > _DISK_SHARE * free:
            logger.warning(
                "The corrupted tracks are not kept: %.1f GB of them, where %.1f GB are free.",
                num_bytes / 1e9,
                free / 1e9,
            )
        if not args.cache_corruptions or num_bytes > _DISK_SHARE * free:
            made[0] = tempfile.mkdtemp(prefix=BUILDING_PREFIX, dir=cache_dir)
    (temporary,) = broadcast_object_list(made)
    try:
        yield (cache_dir, False) if temporary is None else (Path(temporary), True)
    finally:
        if temporary is not None and trainer.is_local_process_zero():
            shutil.rmtree(temporary, ignore_errors=True)


def _empty(trainer, folder: Path) -> None:
    trainer.accelerator.wait_for_everyone()  # every process has read its share
    if trainer.is_local_process_zero():
        for old in folder.iterdir():
            shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _no_bars_of_datasets() -> Iterator[None]:
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
