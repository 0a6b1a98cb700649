"""How long an epoch takes: the ordinary way, this project with its defaults, and the model on batches that lie ready.

    python benchmarks/training.py                     # tiny AST, tiny HuBERT, small ConvNeXt; a few minutes on 2 cores
    python benchmarks/training.py --busy              # the same beside a process that never rests
    python benchmarks/training.py --models ast_base --precision bf16 --train_tracks 16 --validation_tracks 4
    python benchmarks/training.py --tiny              # only to see that it runs

All three train the same model on synthesised clips of 30 s, in this process, round by round one after the other:

    ordinary  decode the clip at every visit, cut a window, extractor per batch, stock Trainer and its defaults
    ours      the Trainer of run_classification.py, with its defaults
    floor     forward, backward, clipping and optimiser step on ready-made batches; forward for evaluation

Times are medians of whole epochs, evaluation included and saving not (the ordinary way would save as often); the first
epoch of ours, in which features are computed, is given apart. `waiting` is what the training loop of ours waits for
batches.
"""

import argparse
import copy
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import datasets
import numpy as np
import torch
import transformers
from transformers import Trainer, TrainingArguments

from benchmarks.common import (
    ROOT,
    TINY_ENCODER,
    TINY_WAVEFORM,
    Clock,
    Sizes,
    bare_step,
    prepare_trainer,
    set_mode,
    train,
    write_clips,
)
from hf_utils import audio
from hf_utils.launch import setup_logging
from hf_utils.models.features import WindowCollator
from hf_utils.training.trainer import GenreTrainer

# A configuration, or a folder of configs/models.
MODELS = {
    "ast": transformers.ASTConfig(**TINY_ENCODER),
    "hubert": transformers.HubertConfig(**TINY_ENCODER | TINY_WAVEFORM),
    "convnext": ROOT / "configs/models/convnext_small",
    "ast_base": transformers.ASTConfig(),
}
DEFAULT_MODELS = ["ast", "hubert", "convnext"]


class OrdinaryWindows(torch.utils.data.Dataset):
    """A window of each place (path, first sample at the model's rate, label); a random one where there is no start."""

    def __init__(self, places: Sequence[tuple[str, int | None, int]], sample_rate: int, window_samples: int):
        self._places, self._rate, self._window_samples = places, sample_rate, window_samples
        self._generator = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict:
        path, start, label = self._places[index]
        samples = audio.load(path, self._rate)
        if start is None:
            start = int(self._generator.integers(max(samples.size - self._window_samples, 0) + 1))
        return {"samples": audio.cut_window(samples, start, self._window_samples), "label": label}


def make_ours(name: str, place: Path, sizes: Sizes, evaluates: bool, precision: str) -> GenreTrainer:
    """Return the Trainer of run_classification.py with its defaults."""
    model = MODELS[name]
    if not isinstance(model, Path):
        model.save_pretrained(place / name)
        model = place / name
    chosen = {"output_dir": place / "ours", "precision": precision}
    if not evaluates:
        chosen |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": "false"}
    return prepare_trainer(model, place, sizes, chosen)


def make_ordinary(ours: GenreTrainer, place: Path, evaluates: bool) -> Trainer:
    """Return a stock Trainer over a copy of the model, which sees as many windows as ours in batches of one size."""
    args, extractor = ours.args, ours.processing_class
    files = {path.stem: str(path) for path in (place / "clips").glob("*/*/*.wav")}
    length, rate = ours.train_dataset.window_samples, extractor.sampling_rate

    def windows(table, places) -> OrdinaryWindows:
        rows = [(table.clips[clip], start) for clip, start in places]
        paths = [(files[Path(row["track_id"]).name], start, row["label"]) for row, start in rows]
        return OrdinaryWindows(paths, rate, length)

    strategy = "epoch" if evaluates else "no"
    return Trainer(
        model=copy.deepcopy(ours.model),
        args=TrainingArguments(
            output_dir=str(place / "ordinary"),
            num_train_epochs=args.num_train_epochs,
            per_device_train_batch_size=args.per_device_train_batch_size,
            per_device_eval_batch_size=args.per_device_eval_batch_size,
            eval_strategy=strategy,
            save_strategy=strategy,
            remove_unused_columns=False,
            use_cpu=args.use_cpu,
            bf16=args.bf16,
            disable_tqdm=True,
            report_to="none",
        ),
        train_dataset=windows(ours.train_dataset, [(clip, None) for clip in range(len(ours.train_dataset))]),
        eval_dataset=windows(ours.eval_dataset, ours.eval_dataset.places()),
        data_collator=WindowCollator(extractor),
        compute_metrics=lambda prediction: {
            "accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())
        },
    )


def epoch_seconds(clock: Clock) -> list[float]:
    """Return the seconds of training and evaluation of every epoch but the first."""
    evaluation = clock.evaluation or [0.0] * len(clock.training)
    return [sum(parts) for parts in zip(clock.training, evaluation, strict=True)][1:]


def time_floor(ours: GenreTrainer, batches: list[dict], eval_batches: list[dict]) -> float:
    """Return the seconds of one epoch of the bare model."""
    started = time.perf_counter()
    set_mode(ours.model, True)
    for batch in batches:
        bare_step(ours, ours.model, batch)
    set_mode(ours.model, False)
    with torch.inference_mode():
        for batch in eval_batches:
            bare_step(ours, ours.model, batch)
    return time.perf_counter() - started


def measure(name: str, evaluates: bool, sizes: Sizes, rounds: int, precision: str) -> dict:
    """Return a row of the table: median seconds of an epoch, and where ours goes beyond the floor."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_clips(place / "clips", sizes)
        ours = make_ours(name, place, sizes, evaluates, precision)
        ordinary = make_ordinary(ours, place, evaluates)
        first = train(ours)
        batches = list(ours.get_train_dataloader())
        eval_batches = list(ours.get_eval_dataloader()) if evaluates else []
        for batch in eval_batches:
            del batch["labels"]
        seconds, clocks = {"ordinary": [], "ours": [], "floor": []}, []
        for _ in range(rounds):
            seconds["ordinary"] += epoch_seconds(train(ordinary))
            clocks.append(train(ours))
            seconds["ours"] += epoch_seconds(clocks[-1])
            seconds["floor"] += [time_floor(ours, batches, eval_batches) for _ in range(sizes.epochs - 1)]
        medians = {way: statistics.median(times) for way, times in seconds.items()}
        return {
            "model": name,
            "evaluation": evaluates,
            "windows": len(ours.train_dataset),
            "evaluated windows": len(ours.eval_dataset) if evaluates else 0,
            "seconds": medians,
            "ours / floor": medians["ours"] / medians["floor"],
            "ordinary / ours": medians["ordinary"] / medians["ours"],
            "first epoch": first.training[0] + sum(first.evaluation[:1]),
            "waiting": statistics.median(wait for clock in clocks for wait in clock.waiting[1:]),
            "saving": statistics.median([save for clock in clocks for save in clock.saving] or [0.0]),
        }


def print_table(rows: list[dict]) -> None:
    """Print rows as a Markdown table; rates are training windows a second, times are seconds an epoch."""
    print("| model | evaluation | ordinary | ours | floor | ours / floor, time | ours / ordinary, speed |", end="")
    print(" first epoch, s | waiting, s | saving, s |\n|---|---|" + "---:|" * 8)
    for row in rows:
        rates = " | ".join(f"{row['windows'] / row['seconds'][way]:.1f}" for way in ("ordinary", "ours", "floor"))
        ratios = f"{row['ours / floor']:.2f} | {row['ordinary / ours']:.2f}"
        times = " | ".join(f"{row[part]:.3f}" for part in ("first epoch", "waiting", "saving"))
        print(f"| {row['model']} | {'every epoch' if row['evaluation'] else 'none'} | {rates} | {ratios} | {times} |")


def keep_busy() -> None:
    """Use a core for ever."""
    while True:
        pass


def main(words: Sequence[str] | None = None) -> list[dict]:
    """Measure, print a table, and return its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=DEFAULT_MODELS)
    parser.add_argument("--evaluation", nargs="+", choices=["no", "epoch"], default=["no", "epoch"])
    parser.add_argument("--train_tracks", type=int, default=64)
    parser.add_argument("--validation_tracks", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=4, help="the first one is not counted (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each way, interleaved (default: 3)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--busy", action="store_true", help="beside a process that uses a core all the time")
    parser.add_argument("--tiny", action="store_true", help="16 short clips, one round")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    chosen = parser.parse_args(words)
    sizes = Sizes(chosen.train_tracks, chosen.validation_tracks, 30.0, None, chosen.epochs, 0.0)
    rounds = chosen.rounds
    if chosen.tiny:
        sizes, rounds = Sizes(16, 8, 3.0, 1.0, 2, 0.0), 1
    setup_logging(False)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    busy = multiprocessing.get_context("spawn").Process(target=keep_busy, daemon=True) if chosen.busy else None
    if busy is not None:
        busy.start()
    try:
        rows = [
            measure(name, evaluation == "epoch", sizes, rounds, chosen.precision)
            for name in chosen.models
            for evaluation in chosen.evaluation
        ]
    finally:
        if busy is not None:
            busy.kill()
    print_table(rows)
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=2))
    return rows


if __name__ == "__main__":
    main()
