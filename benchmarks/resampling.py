"""What each quality of the resampler costs, and what it changes in the features that models see.

    python benchmarks/resampling.py                           # 8 synthesised clips of 30 s
    python benchmarks/resampling.py --folder path/to/genres
    python benchmarks/resampling.py --tiny                    # only to see that it runs

Clips of 44.1 kHz (synthesised, with noise up to the highest frequency) or of a folder are brought to 16 kHz with each
quality of soxr. Features are those of AST (normalised filter banks) and of the spectrogram CNN (log-mel, in standard
deviations of the clips). Differences are against VHQ, over all values: their root mean square, and the largest.
"16 bits" is VHQ before the rounding to 16-bit steps in which decoded audio is kept: that difference is there anyway.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import soxr
from transformers import ASTFeatureExtractor

from hf_utils import audio
from hf_utils.data.audio_lists import list_files
from hf_utils.data.demo_data import SAMPLE_RATE, STYLES, synthesise
from hf_utils.models.spectrogram_cnn import SpectrogramCNNFeatureExtractor

QUALITIES = ("LQ", "MQ", "HQ", "VHQ")
CLIP_RATE, MODEL_RATE = 44_100, 16_000
NOISE_DB = -40.0  # of white noise, which fills the band that the filters must cut
Clip = tuple[np.ndarray, int]


def synthesise_clips(count: int, seconds: float) -> list[Clip]:
    """Return music with a little noise at `CLIP_RATE`."""
    clips = []
    for number, style in enumerate(list(STYLES)[:count]):
        music = soxr.resample(synthesise(style, number, seconds, 0), SAMPLE_RATE, CLIP_RATE)
        noise = np.random.default_rng(number).normal(0, 10 ** (NOISE_DB / 20), music.size)
        clips.append(((0.5 * music + noise).astype(np.float32), CLIP_RATE))
    return clips


def read_clips(folder: Path, count: int) -> list[Clip]:
    """Return the first clips of a folder at their own rate."""
    files, _ = list_files(folder)
    return [audio.decode(file) for file in files[:count]]


def time_quality(clips: Sequence[Clip], quality: str, repeats: int) -> float:
    """Return the seconds that a minute of sound takes; the fastest of several runs over all clips."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        for samples, rate in clips:
            soxr.resample(samples, rate, MODEL_RATE, quality=quality)
        times.append(time.perf_counter() - started)
    return 60 * min(times) / sum(samples.size / rate for samples, rate in clips)


def make_extractors(clips: Sequence[np.ndarray]) -> dict:
    """Return functions from samples (T,) at `MODEL_RATE` to features in units of their standard deviation."""
    ast = ASTFeatureExtractor()
    cnn = SpectrogramCNNFeatureExtractor(sampling_rate=MODEL_RATE, mean=0.0, std=1.0)

    def filter_banks(samples: np.ndarray) -> np.ndarray:
        return 2 * ast(samples, sampling_rate=MODEL_RATE, return_tensors="np").input_values  # AST halves them

    def log_mel(samples: np.ndarray) -> np.ndarray:
        return cnn(samples, sampling_rate=MODEL_RATE).input_values

    deviation = np.concatenate([log_mel(samples).ravel() for samples in clips]).std()
    return {"AST": filter_banks, "spectrogram CNN": lambda samples: log_mel(samples) / deviation}


def compare(clips: Sequence[Clip], repeats: int) -> list[dict]:
    """Return a row per quality, and one for 16 bits: seconds of a minute of sound, and differences of features."""
    made = {
        quality: [soxr.resample(samples, rate, MODEL_RATE, quality=quality) for samples, rate in clips]
        for quality in QUALITIES
    }
    kept = {quality: [audio.from_pcm16(audio.to_pcm16(x)) for x in of_clips] for quality, of_clips in made.items()}
    kept["16 bits"] = made["VHQ"]
    extractors = make_extractors(kept["VHQ"])
    rows = []
    for quality, resampled in kept.items():
        row = {"quality": quality, "seconds": None}
        if quality in QUALITIES:
            row["seconds"] = time_quality(clips, quality, repeats)
        for name, extract in extractors.items():
            pairs = zip(resampled, kept["VHQ"], strict=True)
            differences = np.concatenate([(extract(one) - extract(other)).ravel() for one, other in pairs])
            row[name] = {
                "rms": float(np.sqrt(np.mean(np.square(differences, dtype=np.float64)))),
                "largest": float(np.abs(differences).max()),
            }
        rows.append(row)
    return rows


def print_table(rows: list[dict]) -> None:
    """Print the rows as a Markdown table."""
    names = list(rows[0])[2:]
    print("| quality | ms a minute of sound |" + "".join(f" {name}: rms | largest |" for name in names))
    print("|---|---:|" + "---:|---:|" * len(names))
    for row in rows:
        cost = "" if row["seconds"] is None else f"{1000 * row['seconds']:.1f}"
        cells = "".join(f" {row[name]['rms']:.2g} | {row[name]['largest']:.2g} |" for name in names)
        print(f"| {row['quality']} | {cost} |{cells}")


def main(words: Sequence[str] | None = None) -> list[dict]:
    """Measure, print a table, and return its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="music files (default: synthesised)")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5, help="runs of which the fastest counts (default: 5)")
    parser.add_argument("--tiny", action="store_true", help="2 clips of 3 s, once")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    chosen = parser.parse_args(words)
    if chosen.tiny:
        chosen.clips, chosen.repeats = 2, 1
    seconds = 3.0 if chosen.tiny else 30.0
    clips = read_clips(chosen.folder, chosen.clips) if chosen.folder else synthesise_clips(chosen.clips, seconds)
    rows = compare(clips, chosen.repeats)
    print_table(rows)
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=2))
    return rows


if __name__ == "__main__":
    main()
