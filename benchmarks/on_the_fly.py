"""What transforms of training windows cost a training run: the small ConvNeXt with and without, side by side.

    python benchmarks/on_the_fly.py --folder path/to/genres

Every run is the script's own, data-loader workers included. The runs take turns, so that whatever else the machine
does falls on all of them; ratios are medians over turns. CPU seconds, of the training process and its workers, are
what a machine with all cores busy waits for, and depend less on who else uses it.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml
from transformers.utils.logging import disable_progress_bar

from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.training.experiment import prepare_experiment
from hf_utils.training.trainer import GenreTrainer

ROOT = Path(__file__).resolve().parents[1]
PLAIN = "none"
CHAINS = {
    "Gaussian noise": [{"AddGaussianSNR": {"min_snr_db": 10.0, "max_snr_db": 10.0, "p": 1.0}}],
    "gain": [{"Gain": {"min_gain_db": -12.0, "max_gain_db": 0.0, "p": 1.0}}],
}
SHIPPED = {"mild.yaml": ROOT / "configs" / "augment" / "mild.yaml"}


def make_trainer(folder: Path, place: Path, epochs: int, augmentation: Path | None) -> GenreTrainer:
    """Return the Trainer of the small ConvNeXt over `folder`, as run_classification.py makes it."""
    arguments = ["--model_name_or_path", ROOT / "configs" / "models" / "convnext_small", "--dataset_name", folder]
    arguments += ["--split_protocol", "stratified", "--output_dir", place / "run", "--num_train_epochs", epochs]
    arguments += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false", "--use_cpu"]
    arguments += ["--report_to", "none", "--disable_tqdm", "true", "--waveform_cache_dir", place / "cache"]
    arguments += ["--augmentation", augmentation] if augmentation else []
    return prepare_experiment(RunArguments.parse(list(map(str, arguments)))).trainer


def measure(trainer: GenreTrainer) -> tuple[float, float]:
    """Train; return seconds on the clock, and CPU seconds of this process and the workers it has waited for."""

    def cpu_seconds() -> float:
        return sum(os.times()[:4])

    started, before = time.perf_counter(), cpu_seconds()
    trainer.train()
    return time.perf_counter() - started, cpu_seconds() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="a folder of genre folders")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of a run (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="turns (default: %(default)s)")
    args = parser.parse_args()
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as made:
        place, files = Path(made), dict(SHIPPED)
        for name, chain in CHAINS.items():
            files[name] = place / f"{name}.yaml"
            files[name].write_text(yaml.safe_dump({"transforms": chain}))
        trainers = {
            name: make_trainer(args.folder, place, args.epochs, file) for name, file in [(PLAIN, None), *files.items()]
        }
        measure(trainers[PLAIN])  # imports, and samples into the disk cache
        turns = []
        for turn in range(args.repeats):
            names = list(trainers)
            names = names[turn % len(names) :] + names[: turn % len(names)]
            turns.append({name: measure(trainers[name]) for name in names})
    print(f"{args.epochs} epochs a run, {args.repeats} turns, {os.cpu_count()} cores; medians")
    print(f"{'transforms':<16}{'seconds':>9}{'against none':>14}{'CPU seconds':>13}{'against none':>14}")
    for name in trainers:
        line = f"{name:<16}"
        for index, width in ((0, 9), (1, 13)):
            median = statistics.median(turn[name][index] for turn in turns)
            ratio = statistics.median(turn[name][index] / turn[PLAIN][index] for turn in turns)
            line += f"{median:>{width}.2f}{ratio - 1:>+14.1%}"
        print(line)


if __name__ == "__main__":
    main()
