"""How fast a library of songs is tagged, against decoding, resampling and the model measured apart.

    python benchmarks/tagging.py                          # 24 songs of 3.4 minutes, MP3, 44.1 kHz, stereo
    python benchmarks/tagging.py --before path/to/earlier # the same commands with an earlier checkout as well
    python benchmarks/tagging.py --tiny                   # only to see that it runs

Whole commands are timed, `run_classification.py --do_predict` with the small ConvNeXt (random weights, windows of 10 s
that overlap by half): once with one song, then with all of them, with one process that decodes and with one per core.
Seconds a song are those of all songs less those of the first, over the others, so without start-up.

The floor is what cannot be saved of a song, each part alone on one core: decoding it (libsndfile), mono and resampling
(soxr), features and model of its windows in the command's precision. Ideal work on n cores takes an n-th of the sum.
The peak is that of the largest process of a command.

The songs are four synthesised ones under several names. Every command must write the same table.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import soundfile
import soxr
import torch

from hf_utils import audio
from hf_utils.arguments.training import has_bf16_hardware
from hf_utils.data.demo_data import SAMPLE_RATE, STYLES, synthesise
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.features import run_windows
from hf_utils.models.loading import load_classifier
from hf_utils.training.prediction import PREDICTIONS_FILE

ROOT = Path(__file__).resolve().parents[1]
SONG_RATE = 44_100
WINDOW_SECONDS, BATCH_SIZE = 10.0, 16  # as the command's defaults
GENRES = ["blues", "jazz", "rock"]
NUM_DIFFERENT = 4


@dataclasses.dataclass(frozen=True)
class Command:
    """A whole command: its seconds, and the peak memory of its largest process in MB."""

    seconds: float
    peak_mb: float


def write_model(folder: Path, genres: list[str], window_seconds: float) -> None:
    """Write the small ConvNeXt, with random weights, as a checkpoint that tells `genres` apart."""
    torch.manual_seed(0)
    model, extractor = load_classifier(
        Checkpoint(str(ROOT / "configs/models/convnext_small")), genres, window_seconds=window_seconds
    )
    extractor.mean, extractor.std = -5.0, 4.0
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)


def write_songs(folder: Path, num_songs: int, seconds: float) -> list[Path]:
    """Write stereo MP3 files of synthesised music, and return them."""
    folder.mkdir()
    files = [folder / f"{number:03d}.mp3" for number in range(num_songs)]
    for number, file in enumerate(files):
        if number >= NUM_DIFFERENT:
            shutil.copyfile(files[number % NUM_DIFFERENT], file)
            continue
        mono = synthesise(list(STYLES)[number], number, seconds, 0)
        left = soxr.resample(mono, SAMPLE_RATE, SONG_RATE)
        soundfile.write(file, np.stack([left, 0.7 * np.roll(left, 400)], axis=1), SONG_RATE, format="MP3")
    return files


def tag(checkout: Path, place: Path, songs: Path, num_proc: int) -> tuple[Command, str]:
    """Run the command of a checkout, and return what it took and the table that it wrote."""
    output_dir = place / "tags"
    words = [sys.executable, checkout / "run_classification.py", "--do_predict", "--predict_path", songs]
    words += ["--model_name_or_path", place / "model", "--output_dir", output_dir, "--num_proc", num_proc]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(list(map(str, words)), env=environment, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{checkout}: {said.read().decode()}")
    table = (output_dir / PREDICTIONS_FILE).read_text()
    shutil.rmtree(output_dir)
    return Command(seconds, usage.ru_maxrss / 1024), table


def fastest(repeats: int, act: Callable[[], object]) -> float:
    """Return the seconds of the fastest of several calls."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        act()
        times.append(time.perf_counter() - started)
    return min(times)


def measure_floor(place: Path, song: Path, repeats: int) -> dict[str, float]:
    """Return the seconds of each part of a song's work on one core."""
    model, extractor = load_classifier(Checkpoint(str(place / "model")), None)
    rate = extractor.sampling_rate
    window_samples = int(WINDOW_SECONDS * rate)
    samples = audio.load(song, rate)
    starts = audio.window_starts(samples.size, window_samples, window_samples // 2)
    windows = [audio.cut_window(samples, start, window_samples) for start in starts]
    left, right = soundfile.read(song, dtype="float32")[0].T
    precision = torch.bfloat16 if has_bf16_hardware(use_cpu=True) else None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            "decode": fastest(repeats, lambda: soundfile.read(song, dtype="float32")),
            "resample": fastest(repeats, lambda: audio.resample((left + right) / 2, SONG_RATE, rate)),
            "model": fastest(
                repeats, lambda: run_windows(model, extractor, windows, batch_size=BATCH_SIZE, precision=precision)
            ),
        }
    finally:
        torch.set_num_threads(threads)


def measure(num_songs: int, seconds: float, repeats: int, before: Path | None) -> dict:
    """Return what the commands and the parts of the floor took; commands are interleaved, the fastest of each counts.

    Raises:
        RuntimeError: two commands wrote different tables, or not in the order of the songs.
    """
    cores = os.cpu_count() or 1
    ways = {"1 process": (ROOT, 1), f"{cores} processes": (ROOT, cores)}
    if before is not None:
        ways = {"before, 1 process": (before.resolve(), 1)} | ways
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_model(place / "model", GENRES, WINDOW_SECONDS)
        files = write_songs(place / "songs", num_songs, seconds)
        first = {name: [] for name in ways}
        whole = {name: [] for name in ways}
        tables = {}
        for _ in range(repeats):
            for name, (checkout, num_proc) in ways.items():
                first[name].append(tag(checkout, place, files[0], num_proc)[0])
                command, table = tag(checkout, place, place / "songs", num_proc)
                whole[name].append(command)
                if checkout == ROOT:
                    tables[name] = table
        if len(set(tables.values())) > 1:
            raise RuntimeError(f"the number of processes changed the table: {tables}")
        names = [line.split(",")[0] for line in table.splitlines()[1:]]
        if names != [file.name for file in files]:
            raise RuntimeError(f"the songs are not in their order: {names}")
        floor = measure_floor(place, files[0], max(repeats, 2))
    rows = []
    for name, (_, num_proc) in ways.items():
        one, all_songs = (min(times[name], key=lambda command: command.seconds) for times in (first, whole))
        per_song = (all_songs.seconds - one.seconds) / (num_songs - 1)
        ideal = sum(floor.values()) / num_proc
        rows.append(
            {
                "command": name,
                "one song": one.seconds,
                "all songs": all_songs.seconds,
                "seconds a song": per_song,
                "floor": ideal,
                "of the floor": per_song / ideal,
                "peak MB, one song": one.peak_mb,
                "peak MB, all songs": all_songs.peak_mb,
            }
        )
    return {"songs": num_songs, "song seconds": seconds, "cores": cores, "floor": floor, "rows": rows}


def print_table(found: dict) -> None:
    """Print what was measured as a Markdown table."""
    print(f"{found['songs']} songs of {found['song seconds']:g} s, {found['cores']} cores; of a song on one core:")
    print(", ".join(f"{part} {seconds:.3f} s" for part, seconds in found["floor"].items()))
    print(
        "\n| command | one song, s | all songs, s | s a song | floor, s a song | ratio | peak MB, one and all songs |"
    )
    print("|---|" + "---:|" * 6)
    for row in found["rows"]:
        times = f"{row['one song']:.1f} | {row['all songs']:.1f} | {row['seconds a song']:.3f} | {row['floor']:.3f}"
        peaks = f"{row['peak MB, one song']:.0f}, {row['peak MB, all songs']:.0f}"
        print(f"| {row['command']} | {times} | {row['of the floor']:.2f} | {peaks} |")


def main(words: Sequence[str] | None = None) -> dict:
    """Measure, print a table, and return what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=204.0, help="of a song (default: 204)")
    parser.add_argument("--repeats", type=int, default=2, help="of each command; the fastest counts (default: 2)")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="an earlier checkout, timed as well")
    parser.add_argument("--tiny", action="store_true", help="5 songs of 12 s, once")
    parser.add_argument("--json", type=Path, help="also write what was measured to this file")
    chosen = parser.parse_args(words)
    sizes = (5, 12.0, 1) if chosen.tiny else (chosen.songs, chosen.seconds, chosen.repeats)
    found = measure(*sizes, chosen.before)
    print_table(found)
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2))
    return found


if __name__ == "__main__":
    main()
