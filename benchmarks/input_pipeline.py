"""How fast training windows come, against decoding the clip at every visit; and how much memory 1,000 tracks take.

    python benchmarks/input_pipeline.py --folder path/to/genres

The ordinary way decodes the whole clip, resamples it and cuts a window, at every visit. Ours decodes once into a file
of 16-bit samples and maps the window's bytes. Both are timed in one run, in this process, on the same tracks, with and
without the feature extractor (log-mel of the spectrogram CNN), which costs the same in both. The last rows are batches
as a training gets them, with features that are kept from epoch to epoch, of AST and of the spectrogram CNN.
"""

import argparse
import multiprocessing
import re
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import datasets
import numpy as np
import torch
import transformers

from hf_utils import audio
from hf_utils.data.clips import load_clips
from hf_utils.data.waveforms import decode_clips
from hf_utils.data.windows import TrainingWindows
from hf_utils.models.features import WindowCollator
from hf_utils.models.kept_features import keep_features, start_step
from hf_utils.models.spectrogram_cnn import SpectrogramCNNFeatureExtractor

WINDOW_SECONDS = 10.0


def ordinary_window(path: str, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    samples = audio.load(path, sample_rate)
    window_samples = int(WINDOW_SECONDS * sample_rate)
    return audio.cut_window(
        samples, int(generator.integers(max(len(samples) - window_samples, 0) + 1)), window_samples
    )


def rate_per_second(draw, count: int, seconds: float) -> float:
    """Return draws per second of `draw(i)`, repeated over `count` items for at least `seconds`."""
    draw(0)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        draw(done % count)
        done += 1
    return done / (time.perf_counter() - started)


def compare_speed(folder: Path, sample_rate: int, seconds: float, cache_dir: str) -> None:
    clips = load_clips(str(folder))
    windows = TrainingWindows(
        decode_clips(clips, sample_rate, cache_dir=cache_dir), int(WINDOW_SECONDS * sample_rate), seed=0
    )
    paths = [clip["path"] for clip in clips["audio"]]
    generator = np.random.default_rng(0)
    collate = WindowCollator(SpectrogramCNNFeatureExtractor(sampling_rate=sample_rate, mean=0.0, std=1.0))

    def extract(samples):
        return collate([{"samples": samples, "label": 0}])

    ours = rate_per_second(lambda i: windows[i], len(paths), seconds)
    ordinary = rate_per_second(lambda i: ordinary_window(paths[i], sample_rate, generator), len(paths), seconds)
    fixed = windows[0]["samples"]
    extractor = rate_per_second(lambda i: extract(fixed), 1, seconds)
    ours_all = rate_per_second(lambda i: extract(windows[i]["samples"]), len(paths), seconds)
    ordinary_all = rate_per_second(
        lambda i: extract(ordinary_window(paths[i], sample_rate, generator)), len(paths), seconds
    )
    print(f"{len(paths)} clips to {WINDOW_SECONDS:g} s windows at {sample_rate} Hz, one process")
    print(f"{'':34}{'ours':>12}{'ordinary':>12}{'ratio':>8}")
    print(f"{'windows/s, only samples':34}{ours:12.0f}{ordinary:12.1f}{ours / ordinary:8.1f}")
    print(
        f"{'windows/s, with feature extractor':34}{ours_all:12.1f}{ordinary_all:12.1f}{ours_all / ordinary_all:8.1f}"
    )
    print(f"{'only the extractor, calls/s':34}{extractor:12.1f}")
    print(f"share of the extractor in our time per window: {ours_all / extractor:.0%}")


def compare_kept(clips: datasets.Dataset, sample_rate: int, seconds: float) -> None:
    """Print how many windows a second come in batches of 8, from the data loader to the collated features."""
    cnn = SpectrogramCNNFeatureExtractor(sampling_rate=sample_rate, mean=0.0, std=1.0, center=False)
    for name, extractor in (("AST", transformers.ASTFeatureExtractor(sampling_rate=sample_rate)), ("CNN", cnn)):
        windows = TrainingWindows(clips, int(WINDOW_SECONDS * sample_rate), seed=0, start_step=start_step(extractor))
        keep_features([windows], extractor, 1 << 34, torch.device("cpu"))
        loader = torch.utils.data.DataLoader(windows, batch_size=8, shuffle=True, collate_fn=WindowCollator(extractor))
        started = time.perf_counter()
        windows[0]
        first = time.perf_counter() - started
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            done += sum(len(batch["labels"]) for batch in loader)
        rate = done / (time.perf_counter() - started)
        print(f"{'windows/s in batches, kept, ' + name:34}{rate:12.0f}{first:12.1f} s to compute the features")


def write_variants(folder: Path, count: int, target: Path) -> None:
    """Write `count` tracks made from the clips in `folder`: each is a clip rotated by another number of samples."""
    originals = sorted(folder.glob("*/*.flac"))
    for i in range(count):
        samples, rate = audio.decode(originals[i % len(originals)])
        genre = originals[i % len(originals)].parent.name
        (target / genre).mkdir(parents=True, exist_ok=True)
        (target / genre / f"{genre}.{i:05d}.flac").write_bytes(audio.encode_flac(np.roll(samples, 1000 * i), rate))


def read_epochs(folder: str, cache_dir: str, sample_rate: int, results) -> None:
    """Decode `folder`, then draw three epochs of windows; report the peak of this fresh process after each."""

    # Importing torch peaks higher than all that follows: forget that peak (Linux).
    Path("/proc/self/clear_refs").write_text("5")

    def peak_mib() -> float:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024

    start = peak_mib()
    decoded = decode_clips(load_clips(folder), sample_rate, cache_dir=cache_dir)
    after_decoding = peak_mib()
    windows = TrainingWindows(decoded, int(WINDOW_SECONDS * sample_rate), seed=0)
    for epoch in range(3):
        windows.set_epoch(epoch)
        for i in range(len(windows)):
            windows[i]
    results.put((len(windows), start, after_decoding, peak_mib()))


def compare_memory(folder: Path, sample_rate: int, cache_dir: str) -> None:
    print("\nPeak resident memory of the data side (MiB), one fresh process each")
    print(f"{'tracks':>8}{'imports':>10}{'decoded':>10}{'3 epochs':>10}")
    context = multiprocessing.get_context("spawn")
    for count in (100, 1000):
        with tempfile.TemporaryDirectory() as target:
            write_variants(folder, count, Path(target))
            results = context.Queue()
            process = context.Process(target=read_epochs, args=(target, cache_dir, sample_rate, results))
            process.start()
            tracks, start, decoded, read = results.get()
            process.join()
            print(f"{tracks:8d}{start:10.0f}{decoded:10.0f}{read:10.0f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="a folder of genre folders of FLAC files")
    parser.add_argument("--sample_rate", type=int, default=16_000, help="Hz (default: 16000)")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds per measurement (default: 5)")
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    torch.set_num_threads(1)  # as in a data-loader worker
    with tempfile.TemporaryDirectory() as cache:
        compare_speed(arguments.folder, arguments.sample_rate, arguments.seconds, cache)
        decoded = decode_clips(load_clips(str(arguments.folder)), arguments.sample_rate, cache_dir=cache)
        compare_kept(decoded, arguments.sample_rate, arguments.seconds)
        compare_memory(arguments.folder, arguments.sample_rate, cache)
