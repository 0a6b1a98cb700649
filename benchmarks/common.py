"""What the timings of training share: clips, the Trainer of the command, the seconds of its epochs, the bare model."""

import concurrent.futures
import dataclasses
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import Trainer, TrainerCallback

from benchmarks import generate
from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.models.freezing import frozen_modules
from hf_utils.training.experiment import prepare_experiment
from hf_utils.training.trainer import GenreTrainer

ROOT = Path(__file__).resolve().parents[1]
CLIP_RATE = 22050  # Hz, GTZAN's
NUM_GENRES = 8
TINY_ENCODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TINY_WAVEFORM = {
    "conv_dim": (4, 4, 4),
    "conv_stride": (5, 8, 8),
    "conv_kernel": (10, 8, 8),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is measured. A track gives one training window an epoch."""

    train_tracks: int
    validation_tracks: int
    clip_seconds: float
    window_seconds: float | None  # None for the recipe's
    epochs: int
    bare_seconds: float


TINY = Sizes(16, 8, 3.0, 2.0, 2, 0.05)


def write_clips(folder: Path, sizes: Sizes) -> None:
    """Write `<split>/<genre>/<number>.wav`: noise, each clip another one."""
    splits = {"train": sizes.train_tracks, "validation": sizes.validation_tracks, "test": NUM_GENRES}
    files = []
    for split, tracks in splits.items():
        for number in range(tracks):
            genre = f"genre{number % NUM_GENRES}"
            (folder / split / genre).mkdir(parents=True, exist_ok=True)
            files.append(folder / split / genre / f"{split}.{number:05d}.wav")

    def write(number: int) -> None:
        samples = np.random.default_rng(number).standard_normal(int(sizes.clip_seconds * CLIP_RATE), dtype=np.float32)
        soundfile.write(files[number], 0.1 * samples, CLIP_RATE, subtype="PCM_16")

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(write, range(len(files))))


def prepare_trainer(
    model: Path, place: Path, sizes: Sizes, options: Mapping[str, Any], words: Sequence[str] = ()
) -> GenreTrainer:
    """Return the Trainer that `run_classification.py` makes of a model's folder, over the clips in `place`.

    `words` are YAML files and further flags; of options that are given twice, `options` are the last.
    """
    chosen = {
        "model_name_or_path": model,
        "dataset_name": place / "clips",
        "split_protocol": "provided",
        "waveform_cache_dir": place / "cache",
        "overwrite": "true",
        "num_train_epochs": sizes.epochs,
        "windows_per_track": 1,
        "disable_tqdm": "true",
        **options,
    }
    if sizes.window_seconds:
        chosen["window_seconds"] = sizes.window_seconds
    flags = [str(word) for option, value in chosen.items() for word in (f"--{option}", value)]
    return prepare_experiment(RunArguments.parse([*words, *flags])).trainer


class Clock(TrainerCallback):
    """Notes what the seconds of every epoch went into; each attribute is a list with one number an epoch.

    Attributes:
        training, evaluation, saving: seconds; the loss that is logged before an evaluation is counted in it.
        waiting: seconds of training in which the loop waited for a batch; `first_batch` of them at the epoch's start.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._mark = 0.0
        self.training, self.evaluation, self.saving, self.waiting, self.first_batch = [], [], [], [], []

    def _lap(self) -> float:
        """Return the seconds since the last mark, and set a new one."""
        now = time.perf_counter()
        elapsed, self._mark = now - self._mark, now
        return elapsed

    def on_epoch_begin(self, args, state, control, **kwargs):
        generate.wait(self._device)
        self._lap()
        self._began, self._waits, self._in_epoch = self._mark, [], True

    def on_step_begin(self, args, state, control, **kwargs):
        self._waits.append(self._lap())

    def on_step_end(self, args, state, control, **kwargs):
        self._lap()

    def on_log(self, args, state, control, **kwargs):
        if self._in_epoch:
            self._lap()  # between two steps, and no waiting for a batch

    def on_epoch_end(self, args, state, control, **kwargs):
        generate.wait(self._device)
        self._lap()
        self._in_epoch = False
        self.training.append(self._mark - self._began)
        self.waiting.append(sum(self._waits))
        self.first_batch.append(self._waits[0])

    def on_evaluate(self, args, state, control, **kwargs):
        self.evaluation.append(self._lap())

    def on_save(self, args, state, control, **kwargs):
        self.saving.append(self._lap())


def steady(seconds: list[float]) -> float:
    """Return the median over all epochs but the first; NaN where nothing was noted."""
    return statistics.median(seconds[1:]) if seconds[1:] else float("nan")


def train(trainer: Trainer) -> Clock:
    """Train as a script would, and return what each epoch took."""
    clock = Clock(trainer.args.device)
    trainer.add_callback(clock)
    trainer.train()
    trainer.remove_callback(clock)
    return clock


def set_mode(model: torch.nn.Module, learns: bool) -> None:
    """Put a model into the mode that it is in while the command trains or evaluates it."""
    model.train(learns)
    for module in frozen_modules(model):
        module.eval()


def bare_step(trainer: GenreTrainer, model, batch: dict) -> None:
    """Make one optimiser step, or without labels one prediction, and nothing else."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with torch.autocast(trainer.args.device.type, torch.bfloat16, enabled=trainer.args.bf16):
        logits = model(**inputs).logits
    if "labels" not in batch:
        return
    torch.nn.functional.cross_entropy(logits.float(), batch["labels"]).backward()
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
    trainer.optimizer.step()
    trainer.model.zero_grad()
