"""How near the command comes to the bare model on a GPU: windows a second in training and evaluation, and MusicGen.

    python benchmarks/gpu.py                                          # batches of 8 and 64, without and with compiling
    python benchmarks/gpu.py --batch_sizes 8 --compiled no            # the recipes as they are
    python benchmarks/gpu.py --models musicgen --musicgen_steps 1503  # nothing extrapolated
    python benchmarks/gpu.py --tiny                                   # tiny sizes, on a CPU too

Models have the published sizes of AST-base, HuBERT-base and ConvNeXt-tiny (as spectrogram CNN) and random weights, the
clips are synthesised noise of 30 s. All rates are windows a second, in the precision that the command chooses:

    ours    run_classification.py with the recipe of the model (configs/ast.yaml ...): median of whole epochs, with the
            start of the data-loader workers, but without the first epoch, evaluation and checkpoints
    bare    the same model, optimiser and gradient clipping on one batch that lies on the device
    Trainer ours on one ready-made batch: what is lost here, the data is not to blame for
    data    the data loader of ours with nobody computing
    waits   share of an epoch of ours in which the training loop waits for its next batch
    peak    share of the device's peak that the bare model reaches: operations of the matrix products, convolutions and
            attention, as torch.utils.flop_counter counts them, of a window x windows a second / --peak_tflops

A last batch that is smaller than the others makes torch.compile compile anew, so the numbers of tracks are multiples
of the batch sizes. MusicGen is that of benchmarks/generate.py, which explains its table.
"""

import argparse
import dataclasses
import gc
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import transformers
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from benchmarks import generate
from benchmarks.common import (
    ROOT,
    TINY,
    TINY_ENCODER,
    TINY_WAVEFORM,
    Clock,
    Sizes,
    bare_step,
    prepare_trainer,
    set_mode,
    steady,
    train,
    write_clips,
)
from benchmarks.operations import count_operations, matrix_tflops
from hf_utils.launch import setup_logging
from hf_utils.training.trainer import GenreTrainer

# Configuration, which has the published size by default; its tiny size; the recipe of configs/.
MODELS = {
    "ast": (transformers.ASTConfig, TINY_ENCODER, "ast.yaml"),
    "hubert": (transformers.HubertConfig, TINY_ENCODER | TINY_WAVEFORM, "hubert.yaml"),
    "convnext": (
        transformers.ConvNextConfig,
        {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
        "convnext.yaml",
    ),
}


FULL = Sizes(512, 128, 30.0, None, 3, 2.0)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is measured together: a model, windows in a batch of training, and whether it is compiled."""

    model: str
    batch_size: int
    compiled: bool


def make_trainer(setting: Setting, place: Path, sizes: Sizes, extra: Sequence[str] = ()) -> GenreTrainer:
    """Return the Trainer that `run_classification.py configs/<recipe>` makes, over the clips in `place`."""
    config_class, tiny, recipe = MODELS[setting.model]
    model = place / setting.model
    config_class(**tiny if sizes is TINY else {}).save_pretrained(model)
    chosen = {
        "output_dir": place / "runs" / setting.model,
        "num_proc": os.cpu_count(),
        "per_device_train_batch_size": setting.batch_size,
        "per_device_eval_batch_size": 2 * setting.batch_size,
        "torch_compile": str(setting.compiled).lower(),
    }
    return prepare_trainer(model, place, sizes, chosen, [str(ROOT / "configs" / recipe), *extra])


def set_workers(trainer: GenreTrainer, number: int) -> None:
    """Change the number of data-loader workers; the Trainer keeps a loader of validation windows with those it had."""
    trainer.args.dataloader_num_workers, trainer.args.dataloader_persistent_workers = number, number > 0
    trainer.__dict__.pop("_eval_dataloaders", None)


def train_on_ready_batch(trainer: GenreTrainer, batch: dict) -> Clock:
    """Train on copies of one batch, in this process and without evaluation."""
    workers = trainer.args.dataloader_num_workers
    kept = trainer.data_collator, trainer.args.eval_strategy, trainer.train_dataset
    ready = {key: tensor.cpu().pin_memory() if tensor.is_cuda else tensor for key, tensor in batch.items()}
    trainer.data_collator = lambda windows: ready
    set_workers(trainer, 0)
    trainer.args.eval_strategy = IntervalStrategy.NO
    trainer.train_dataset = ReadyMade(len(trainer.train_dataset))
    clock = train(trainer)
    trainer.data_collator, trainer.args.eval_strategy, trainer.train_dataset = kept
    set_workers(trainer, workers)
    return clock


class ReadyMade(torch.utils.data.Dataset):
    """As many items as there are windows."""

    def __init__(self, length: int):
        self._length = length

    def set_epoch(self, epoch: int) -> None:
        """Every epoch is the same."""

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        return index


def bare_rate(trainer: GenreTrainer, batch: dict, seconds: float) -> float:
    """Return windows a second of the model stepping on `batch`, for about `seconds` after six steps to warm up."""
    model = torch.compile(trainer.model) if trainer.args.torch_compile else trainer.model
    device, learns = trainer.args.device, "labels" in batch
    set_mode(trainer.model, learns)

    def seconds_of_steps(steps: int) -> float:
        return generate.seconds_of(lambda: [bare_step(trainer, model, batch) for _ in range(steps)], device)

    with torch.set_grad_enabled(learns):
        seconds_of_steps(3)  # compiles, chooses algorithms
        steps = max(3, round(seconds / (seconds_of_steps(3) / 3)))
        return steps * len(next(iter(batch.values()))) / seconds_of_steps(steps)


def data_rate(trainer: GenreTrainer) -> float:
    """Return the windows a second of one epoch of the training data loader, on the device, with nobody computing."""

    def read() -> None:
        for _ in trainer.get_train_dataloader():
            pass

    return len(trainer.train_dataset) / generate.seconds_of(read, trainer.args.device)


def measure(setting: Setting, place: Path, sizes: Sizes, workers: list[int] | None, peak_tflops: float) -> list[dict]:
    """Return one row for each number of workers and each of training and evaluation."""
    gc.collect()  # the Trainer before this one, which holds itself and a model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    started = time.perf_counter()
    trainer = make_trainer(setting, place, sizes)
    preparation = time.perf_counter() - started
    windows, eval_windows = len(trainer.train_dataset), len(trainer.eval_dataset)
    runs = []
    for number in workers or sorted({trainer.args.dataloader_num_workers, os.cpu_count()}):
        set_workers(trainer, number)
        runs.append((number, train(trainer), data_rate(trainer)))
        trainer.args.save_strategy = SaveStrategy.NO  # timed once
    batch = next(iter(trainer.get_train_dataloader()))
    eval_batch = next(iter(trainer.get_eval_dataloader()))
    eval_batch.pop("labels")
    ready = train_on_ready_batch(trainer, batch)
    # The model as it was before accelerate wrapped it. Not earlier: accelerate wraps no model twice, so one that was
    # unwrapped would go on in float32.
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    bare = bare_rate(trainer, batch, sizes.bare_seconds)
    bare_eval = bare_rate(trainer, eval_batch, sizes.bare_seconds)
    operations, eval_operations = count_operations(trainer, batch), count_operations(trainer, eval_batch)
    rows = []
    for number, clock, data in runs:
        common = {"model": setting.model, "compiled": setting.compiled, "workers": number}
        ours, ours_eval = windows / steady(clock.training), eval_windows / steady(clock.evaluation)
        training = {
            "what": "training",
            "batch": setting.batch_size,
            "ours": ours,
            "bare": bare,
            "ratio": ours / bare,
            "trainer": windows / steady(ready.training),
            "data": data,
            "waits": steady(clock.waiting) / steady(clock.training),
            "first_batch_seconds": steady(clock.first_batch),
            "peak": bare * operations / peak_tflops / 1e12,
            "gflop_per_window": operations / 1e9,
            "windows": windows,
            "preparation_seconds": preparation,
            "epoch_seconds": {
                "training": clock.training,
                "evaluation": clock.evaluation,
                "saving": clock.saving,
                "waiting": clock.waiting,
                "first batch": clock.first_batch,
            },
        }
        evaluation = {
            "what": "evaluation",
            "batch": 2 * setting.batch_size,
            "ours": ours_eval,
            "bare": bare_eval,
            "ratio": ours_eval / bare_eval,
            "peak": bare_eval * eval_operations / peak_tflops / 1e12,
            "gflop_per_window": eval_operations / 1e9,
            "windows": eval_windows,
        }
        rows += [common | training, common | evaluation]
    return rows


COLUMNS = [
    "model",
    "compiled",
    "what",
    "batch",
    "workers",
    "ours",
    "bare",
    "ours / bare",
    "Trainer",
    "data",
    "waits",
    "peak",
]


def format_row(row: dict) -> str:
    """Return the row as one of a Markdown table of `COLUMNS`."""

    def number(key: str, form: str) -> str:
        return format(row[key], form) if key in row else ""

    compiled = "yes" if row["compiled"] else "no"
    cells = [row["model"], compiled, row["what"], str(row["batch"]), str(row["workers"])]
    cells += [number("ours", ",.0f"), number("bare", ",.0f"), number("ratio", ".1%"), number("trainer", ",.0f")]
    cells += [number("data", ",.0f"), number("waits", ".1%"), number("peak", ".1%")]
    return f"| {' | '.join(cells)} |"


def format_epoch(row: dict) -> str:
    """Return what an epoch of the command is made of, from a row of training."""
    parts = row["epoch_seconds"]
    first = (
        f"{row['preparation_seconds']:.1f} s to prepare, first epoch {parts['training'][0]:.2f} s; then, by epoch: "
    )
    listing = ", ".join(f"{name} {steady(seconds):.2f} s" for name, seconds in parts.items() if len(seconds) > 1)
    compiled = ", compiled" if row["compiled"] else ""
    return f"    {row['model']}{compiled}, batch {row['batch']}, {row['workers']} workers: {first}{listing}"


def main(argv: list[str] | None = None) -> list[dict]:
    """Measure what the command line asks for; print and return the rows of the classifiers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*MODELS, "musicgen"]
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[8, 64], metavar="WINDOWS")
    parser.add_argument(
        "--workers", nargs="+", type=int, metavar="N", help="(default: the command's own number, and all cores)"
    )
    parser.add_argument(
        "--compiled", nargs="+", choices=["no", "yes"], default=["no", "yes"], help="with --torch_compile or without"
    )
    parser.add_argument("--peak_tflops", type=float, default=989.0, help="of the device (default: H100 SXM and H200)")
    parser.add_argument("--musicgen_batch_sizes", nargs="+", type=int, default=[1, 16, 64], metavar="CLIPS")
    parser.add_argument("--musicgen_steps", type=int, default=100, help="steps that are timed (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="keep clips and decoded audio there for the next run of this file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, after each model")
    parser.add_argument("--tiny", action="store_true", help="tiny models and few clips: shows that this file runs")
    options = parser.parse_args(argv)
    sizes = TINY if options.tiny else FULL
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    card = torch.cuda.get_device_name() if device.type == "cuda" else "no GPU"
    print(f"{card}, {os.cpu_count()} cores, torch {torch.__version__}, transformers {transformers.__version__}")
    if device.type == "cuda":
        print(f"A product of bf16 matrices of 8192 x 8192 runs at {matrix_tflops(device):.0f} TFLOP/s.")
    rows = []
    if chosen := [name for name in options.models if name in MODELS]:
        print(f"\n| {' | '.join(COLUMNS)} |\n|{' --- |' * 3}{' ---: |' * (len(COLUMNS) - 3)}", flush=True)
        with tempfile.TemporaryDirectory() as made:
            place = options.folder or Path(made)
            if not (place / "clips").exists():
                write_clips(place / "clips", sizes)
            for compiled, batch_size, name in itertools.product(options.compiled, options.batch_sizes, chosen):
                setting = Setting(name, batch_size, compiled == "yes")
                new = measure(setting, place, sizes, options.workers, options.peak_tflops)
                print("\n".join(map(format_row, new)), flush=True)
                rows += new
                if options.json is not None:
                    options.json.write_text(json.dumps(rows, indent=1))
        print("\nEpochs of the command, without the first:")
        print("\n".join(format_epoch(row) for row in rows if row["what"] == "training"), flush=True)
    if "musicgen" in options.models:
        print()
        words = ["--dtypes", "bf16", "--batch_sizes", *options.musicgen_batch_sizes, "--steps", options.musicgen_steps]
        words += ["--size", "tiny", "--clip_seconds", 2] if options.tiny else []
        generate.main(list(map(str, words)))
    return rows


if __name__ == "__main__":
    setup_logging(is_main_process=False)
    main()
