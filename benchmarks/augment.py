"""Clips per second of augment_dataset.py, end to end (decode, transform, encode, write), and its peak memory.

    python benchmarks/augment.py                                  # 400 synthesised clips of 30 s
    python benchmarks/augment.py --folder path/to/genres --clips 400
    python benchmarks/augment.py --memory

The floor is what cannot be saved: decoding, encoding and writing the clips as they are, in the same run, by the same
code, with one and with two processes. A folder with fewer clips is gone through again and again, under new names.
"""

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import datasets

from hf_utils.augmentation.copies import Copy, CopyPlan, write_shards
from hf_utils.augmentation.pipeline import Augmentation
from hf_utils.data.clips import load_clips
from hf_utils.data.demo_data import write_demo_data
from hf_utils.data.shards import open_shards

CHAINS = {
    "white noise": [{"AddGaussianSNR": {"min_snr_db": 10.0, "max_snr_db": 10.0, "p": 1.0}}],
    "MP3": [{"Mp3Compression": {"min_bitrate": 32, "max_bitrate": 64, "p": 1.0}}],
    "stretch": [{"TimeStretch": {"min_rate": 0.9, "max_rate": 1.1, "p": 1.0}}],
    "pitch": [{"PitchShift": {"min_semitones": -1.0, "max_semitones": 1.0, "p": 1.0}}],
}
SHARD_SIZE = 25
MEMORY_CLIPS = (100, 1000)


def repeat_clips(folder: Path, num_clips: int) -> datasets.Dataset:
    """Return a clip table of `num_clips` clips, all in the training split, from the files of a folder."""
    clips = load_clips(str(folder))
    clips = clips.select([row % len(clips) for row in range(num_clips)]).remove_columns(["track_id", "split"])
    clips = clips.add_column("track_id", [f"clip.{row:05d}" for row in range(num_clips)])
    return clips.add_column("split", ["train"] * num_clips)


def write_copies(clips: datasets.Dataset, copy: Copy, num_proc: int) -> float:
    """Write one copy of every clip into a temporary folder; return the seconds that it took."""
    plan = CopyPlan(clips, ["train"], [copy], shard_size=SHARD_SIZE, sampling_rate=None)
    with tempfile.TemporaryDirectory() as folder:
        shards = open_shards(folder, {}, plan.shards_per_split)
        started = time.perf_counter()
        write_shards(plan, shards, shards.missing(), num_proc=num_proc, skip_bad_audio=False)
        return time.perf_counter() - started


def compare_speed(folder: Path, num_clips: int, repeats: int) -> None:
    """Print clips per second of every chain, the fastest of `repeats` runs."""
    clips = repeat_clips(folder, num_clips)
    copies = {"floor": Copy(None), **{name: Copy("x", Augmentation(spec), 0) for name, spec in CHAINS.items()}}
    speeds = {}
    for name, copy in copies.items():
        write_copies(clips.select(range(SHARD_SIZE)), copy, 1)  # imports, and files into the disk cache
        for num_proc in (1, 2):
            seconds = min(write_copies(clips, copy, num_proc) for _ in range(repeats))
            speeds[name, num_proc] = num_clips / seconds
    print(f"{num_clips} clips, {os.cpu_count()} cores, fastest of {repeats}; clips per second")
    print(f"{'':<12} {'1 process':>10} {'of floor':>9} {'2 processes':>12} {'speed-up':>9}")
    for name in copies:
        one, two = speeds[name, 1], speeds[name, 2]
        print(f"{name:<12} {one:>10.1f} {one / speeds['floor', 1]:>8.0%} {two:>12.1f} {two / one:>8.2f}x")


def measure_memory(folder: Path, num_clips: int, results) -> None:
    """Put the peak memory of this process, in MB, after copying `num_clips` clips."""
    write_copies(repeat_clips(folder, num_clips), Copy("x", Augmentation(CHAINS["white noise"]), 0), 1)
    results.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def compare_memory(folder: Path) -> None:
    """Print the peak memory of two runs of different size, each in a fresh process."""
    context = multiprocessing.get_context("spawn")
    for num_clips in MEMORY_CLIPS:
        results = context.Queue()
        process = context.Process(target=measure_memory, args=(folder, num_clips, results))
        process.start()
        print(f"{num_clips:>5} clips: peak memory {results.get():.0f} MB", flush=True)
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="genre folders (default: synthesised)")
    parser.add_argument("--clips", type=int, default=400, help="number of clips (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, help="runs of which the fastest counts (default: 1)")
    parser.add_argument("--memory", action="store_true", help="only peak memory, 100 clips against 1,000")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = args.folder
        if folder is None:
            folder = Path(made, "clips")
            write_demo_data(folder, genres=10, tracks_per_genre=4, seconds=30.0, seed=0)
        if args.memory:
            compare_memory(folder)
        else:
            compare_speed(folder, args.clips, args.repeats)


if __name__ == "__main__":
    main()
