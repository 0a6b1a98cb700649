"""What a corruption of a robustness sweep takes, against making it and the model measured apart.

    python benchmarks/sweep.py                        # 64 clips of 30 s, all of configs/corruptions.yaml
    python benchmarks/sweep.py --kinds white_noise
    python benchmarks/sweep.py --tiny                 # only to see that it runs

The sweep is that of `run_classification.py --do_eval --corruptions`, with the small ConvNeXt (random weights), once on
an empty cache. The floor is what cannot be saved, each part alone on one core: the transforms on decoded samples, and
the features and the model, in its precision, on windows that lie ready. Ideal work on n cores would take an n-th of
the sum. The files are FLAC, of one channel at 22.05 kHz, as GTZAN is.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import datasets
import torch

from benchmarks.tagging import BATCH_SIZE, ROOT, write_model
from hf_utils import audio
from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.augmentation.corruptions import Corruption, read_corruptions
from hf_utils.data.demo_data import write_demo_data
from hf_utils.data.windows import read_window
from hf_utils.launch import setup_logging
from hf_utils.models.features import run_windows
from hf_utils.training.experiment import Experiment, prepare_experiment
from hf_utils.training.robustness import evaluate_corruptions

NUM_GENRES = 4


def write_music(place: Path, tracks: int, seconds: float) -> list[str]:
    """Write clips with a split whose test side has `tracks`, and return their genres."""
    made = place / "made"
    write_demo_data(made, genres=NUM_GENRES, tracks_per_genre=tracks // NUM_GENRES + 2, seconds=seconds, seed=0)
    genres = sorted(folder.name for folder in made.iterdir() if folder.is_dir())
    for genre in genres:
        train, validation, *test = sorted((made / genre).iterdir())
        for split, files in (("train", [train]), ("validation", [validation]), ("test", test)):
            folder = place / "clips" / split / genre
            folder.mkdir(parents=True)
            for file in files:
                file.rename(folder / file.name)
    return genres


def prepare(place: Path, tracks: int, seconds: float, window_seconds: float) -> tuple[Experiment, RunArguments]:
    """Return what `run_classification.py --do_eval` prepares, and its options."""
    write_model(place / "model", write_music(place, tracks, seconds), window_seconds)
    chosen = {
        "model_name_or_path": place / "model",
        "dataset_name": place / "clips",
        "split_protocol": "provided",
        "waveform_cache_dir": place / "cache",
        "output_dir": place / "run",
        "num_proc": os.cpu_count(),
        "per_device_eval_batch_size": BATCH_SIZE,
    }
    words = [str(word) for option, value in chosen.items() for word in (f"--{option}", value)]
    arguments = RunArguments.parse([*words, "--do_eval"])
    return prepare_experiment(arguments), arguments


def time_corruption(corruption: Corruption, tracks: Sequence[tuple]) -> float:
    """Return the seconds of the transforms on (samples, rate, track_id) of every track."""
    started = time.perf_counter()
    for samples, rate, track_id in tracks:
        corruption(samples, rate, track_id)
    return time.perf_counter() - started


def time_model(experiment: Experiment) -> float:
    """Return the seconds of features and model for all test windows."""
    windows, trainer = experiment.windows["test"], experiment.trainer
    samples = [read_window(windows.clips[clip], start, windows.window_samples) for clip, start in windows.places()]
    trainer.model.eval()
    started = time.perf_counter()
    precision = torch.bfloat16 if trainer.args.bf16 else None
    run_windows(trainer.model, trainer.processing_class, samples, batch_size=BATCH_SIZE, precision=precision)
    return time.perf_counter() - started


def measure(kinds: Sequence[str] | None, tracks: int, seconds: float, window_seconds: float) -> list[dict]:
    """Return a row per kind of corruption: seconds of one corruption, and of its parts on one core."""
    corruptions = read_corruptions(ROOT / "configs/corruptions.yaml")
    kinds = kinds or list(dict.fromkeys(corruption.kind for corruption in corruptions))
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        experiment, arguments = prepare(place, tracks, seconds, window_seconds)
        clips = experiment.test_clips()
        decoded = [(*audio.decode(clip["audio"]["path"]), clip["track_id"]) for clip in clips]
        evaluate_corruptions(  # what is done once, such as imports
            experiment.trainer, clips.select(range(NUM_GENRES)), experiment.lengths, corruptions[:1], arguments.data
        )
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        model = min(time_model(experiment) for _ in range(2))
        torch.set_num_threads(threads)
        rows = []
        for kind in kinds:
            of_kind = [corruption for corruption in corruptions if corruption.kind == kind]
            started = time.perf_counter()
            evaluate_corruptions(experiment.trainer, clips, experiment.lengths, of_kind, arguments.data)
            sweep = (time.perf_counter() - started) / len(of_kind)
            made = sum(time_corruption(corruption, decoded) for corruption in of_kind) / len(of_kind)
            floor = made + model
            row = {"kind": kind, "corruptions": len(of_kind), "seconds": sweep, "corruption": made, "model": model}
            rows.append(row | {"floor": floor, "of the floor": sweep / floor, "of the ideal": sweep / floor * cores})
    return rows


def print_table(rows: list[dict], tracks: int, seconds: float) -> None:
    """Print the rows, and the mean over all corruptions, as a Markdown table."""
    print(f"{tracks} test tracks of {seconds:g} s, {os.cpu_count()} cores; seconds of one corruption")
    print("\n| kind | corruptions | ours | corruption | model | floor | ours / floor | ours / ideal |")
    print("|---|" + "---:|" * 7)
    total = sum(row["corruptions"] for row in rows)
    names = ("seconds", "corruption", "model", "floor", "of the floor", "of the ideal")
    mean = {name: sum(row[name] * row["corruptions"] for row in rows) / total for name in names}
    mean["of the floor"] = mean["seconds"] / mean["floor"]
    mean["of the ideal"] = mean["of the floor"] * (os.cpu_count() or 1)
    for row in [*rows, {"kind": "all", "corruptions": total} | mean]:
        cells = " | ".join(f"{row[name]:.2f}" for name in names)
        print(f"| {row['kind']} | {row['corruptions']} | {cells} |")


def main(words: Sequence[str] | None = None) -> list[dict]:
    """Measure, print a table, and return its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", help="of configs/corruptions.yaml (default: all)")
    parser.add_argument("--tracks", type=int, default=64, help="that are tested (default: 64)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of a track (default: 30)")
    parser.add_argument("--tiny", action="store_true", help="8 tracks of 2 s, three kinds")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    chosen = parser.parse_args(words)
    tracks, seconds, window_seconds = chosen.tracks, chosen.seconds, 10.0
    if chosen.tiny:
        tracks, seconds, window_seconds = 8, 2.0, 1.0
        chosen.kinds = chosen.kinds or ["white_noise", "mp3", "quieter"]
    setup_logging(False)
    datasets.disable_progress_bars()
    rows = measure(chosen.kinds, tracks, seconds, window_seconds)
    print_table(rows, tracks, seconds)
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=2))
    return rows


if __name__ == "__main__":
    main()
