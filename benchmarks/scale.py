"""How cost grows with the number of tracks: seconds and peak memory from the files to the end of the first epoch.

    python benchmarks/scale.py                        # 100, 1,000 and 10,000 tracks; needs 0.7 GB of disk
    python benchmarks/scale.py --tracks 100 10000
    python benchmarks/scale.py --tiny                 # only to see that it runs

Tracks are synthesised, one second at 16 kHz (PCM WAV), each another one, in eight genre folders. Every number is
measured in two fresh processes, one after the other, which do what `run_classification.py` does with a tiny ConvNeXt
(random weights, windows of 1 s): the first finds nothing decoded, the second all.

    load      read the folders, make the clip table, draw the split
    decode    decode into the cache, look for leaks, make the training mix and the record of the split
    epoch     train one epoch, without evaluation
    again     load and decode of the second process
    peak      memory of the first process, in MB, and of its largest child
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import datasets
import numpy as np
import soundfile
import transformers

from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.launch import setup_logging
from hf_utils.training import experiment

NUM_GENRES, RATE, SECONDS = 8, 16_000, 1.0
TRACKS = [100, 1000, 10_000]


def write_tracks(folder: Path, count: int) -> None:
    """Write `<genre>/<genre>.<number>.wav`: a tone in noise, each track another one."""
    time_axis = np.arange(int(SECONDS * RATE)) / RATE
    for number in range(count):
        genre, generator = f"genre{number % NUM_GENRES}", np.random.default_rng(number)
        tone = np.sin(2 * np.pi * 200 * (1 + number % NUM_GENRES) * time_axis)
        samples = 0.1 * tone + 0.05 * generator.standard_normal(time_axis.size)
        (folder / genre).mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / genre / f"{genre}.{number:06d}.wav", samples, RATE, subtype="PCM_16")


def timed(function: Callable, seconds: dict[str, float], name: str) -> Callable:
    """Return the function, noting in `seconds` what a call took."""

    def call(*args, **kwargs):
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[name] = time.perf_counter() - started

    return call


def run_epoch(place: Path, num_epochs: int, results) -> None:
    """Do what a run does up to the end of its first epoch, or with no epoch up to its start; put what it took."""
    setup_logging(False)
    datasets.disable_progress_bars()
    chosen = {
        "model_name_or_path": place / "model",
        "dataset_name": place / "clips",
        "waveform_cache_dir": place / "cache",
        "output_dir": place / "run",
        "window_seconds": SECONDS,
        "num_train_epochs": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": "false",
        "disable_tqdm": "true",
        "overwrite": "true",
    }
    words = [str(word) for option, value in chosen.items() for word in (f"--{option}", value)]
    seconds: dict[str, float] = {}
    experiment.load_split_clips = timed(experiment.load_split_clips, seconds, "load")
    experiment.decode_corpus = timed(experiment.decode_corpus, seconds, "decode")
    prepare = timed(experiment.prepare_experiment, seconds, "prepare")
    trainer = prepare(RunArguments.parse(words)).trainer
    if num_epochs:
        timed(trainer.train, seconds, "epoch")()
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    results.put((seconds, peaks))


def in_fresh_process(place: Path, num_epochs: int) -> tuple[dict[str, float], list[float]]:
    """Return what `run_epoch` puts. Raises RuntimeError where its process failed."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=run_epoch, args=(place, num_epochs, results))
    process.start()
    while process.is_alive() and results.empty():
        time.sleep(0.05)
    if results.empty():
        raise RuntimeError("the measured process failed: see above")
    found = results.get()
    process.join()
    return found


def measure(count: int) -> dict:
    """Return a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1]).save_pretrained(place / "model")
        write_tracks(place / "clips", count)
        first, (own, child) = in_fresh_process(place, 1)
        again, _ = in_fresh_process(place, 0)
    return {
        "tracks": count,
        **{part: first[part] for part in ("load", "decode", "epoch")},
        "others": first["prepare"] - first["load"] - first["decode"],
        "again": again["load"] + again["decode"],
        "peak": own,
        "peak of children": child,
    }


def print_table(rows: list[dict]) -> None:
    """Print the rows as a Markdown table, and what each column has grown by, a track."""
    print("| tracks | load, s | decode, s | the rest, s | first epoch, s | again: load and decode, s |", end="")
    print(" peak, MB | of children, MB |\n|" + "---:|" * 8)
    for row in rows:
        parts = " | ".join(f"{row[part]:.2f}" for part in ("load", "decode", "others", "epoch", "again"))
        print(f"| {row['tracks']:,} | {parts} | {row['peak']:.0f} | {row['peak of children']:.0f} |")


def main(words: Sequence[str] | None = None) -> list[dict]:
    """Measure, print a table, and return its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=int, nargs="+", default=TRACKS)
    parser.add_argument("--tiny", action="store_true", help="80 tracks")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    chosen = parser.parse_args(words)
    rows = [measure(count) for count in ([80] if chosen.tiny else chosen.tracks)]
    print_table(rows)
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=2))
    return rows


if __name__ == "__main__":
    main()
