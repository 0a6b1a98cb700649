"""The errors of a simple baseline under a corruption benchmark, to which mean corruption errors (mCE) are relative.

    python benchmarks/corruption_baseline.py --dataset_name path/to/genre_folders --split_protocol filtered

The baseline is a support vector machine with an RBF kernel, on mean and deviation over time of 128 log-mel bands of a
whole track, standardised; it is trained on the clean training tracks, with scikit-learn's defaults. The table goes to
configs/corruption_baselines/<name of the folder>.json. From then on every evaluation of these test tracks under
configs/corruptions.yaml gives mCE. A baseline has no seed: the same tracks give the same table.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import datasets
import numpy as np
import torch
import torchaudio
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from hf_utils.arguments.data import DataArguments
from hf_utils.augmentation.corruptions import read_corruptions
from hf_utils.data.corpus import decode_corpus, load_split_clips
from hf_utils.data.splits import select_split
from hf_utils.data.track_files import TrackFiles
from hf_utils.data.waveforms import decode_clips, find_cache, read_samples
from hf_utils.errors import UserError
from hf_utils.launch import run_script
from hf_utils.training.corruption_error import BASELINES_FOLDER, Baseline, digest_tracks

NAME = "an RBF SVM on mean and deviation of 128 log-mel bands"
ROOT = Path(__file__).resolve().parents[1]
SAMPLE_RATE = 16_000
_DISK_SHARE = 0.25


def extract(tracks: datasets.Dataset) -> np.ndarray:
    """Return mean and deviation over time of the log-mel bands, in dB down to 80 below the peak: float32 (N, 256)."""
    mel = torchaudio.transforms.MelSpectrogram(SAMPLE_RATE, n_fft=2048, hop_length=512, n_mels=128)
    decibels = torchaudio.transforms.AmplitudeToDB("power", top_db=80)
    bands = (decibels(mel(torch.from_numpy(read_samples(track)))) for track in tracks)
    return np.stack([torch.cat([track.mean(dim=1), track.std(dim=1)]).numpy() for track in bands])


def measure(args: DataArguments, data: str) -> Baseline:
    """Return the errors of the baseline, trained on the clean training tracks; `data` describes the music.

    Raises:
        UserError: the corruptions have no name and version, or one kind does no harm; and as `decode_corpus`.
    """
    corruptions = read_corruptions(args.corruptions)
    benchmark = corruptions[0].benchmark
    if benchmark is None:
        raise UserError(f"{args.corruptions} has no name and version: by them a baseline is found")
    clips = load_split_clips(args)
    corpus = decode_corpus(clips, args, SAMPLE_RATE, train=True, seed=0)
    machine = make_pipeline(StandardScaler(), SVC()).fit(extract(corpus.train), corpus.train["label"])

    def error_on(tracks: datasets.Dataset) -> float:
        return 1 - machine.score(extract(tracks), tracks["label"])

    test, cache_dir = select_split(clips, "test"), find_cache(args.waveform_cache_dir)
    files = TrackFiles(test)
    errors: dict[str, dict[str, dict]] = {}
    with files.keep_decoded(cache_dir, _DISK_SHARE):
        for corruption in corruptions:
            heard = decode_clips(
                test, SAMPLE_RATE, cache_dir=cache_dir, num_proc=args.num_proc, corruption=corruption, files=files
            )
            error = error_on(heard)
            row = {"definition": corruption.definition, "error": error}
            errors.setdefault(corruption.kind, {})[corruption.severity] = row
            print(f"{corruption.name}: {100 * error:.1f} % wrong", flush=True)
    if perfect := [kind for kind, rows in errors.items() if not any(row["error"] for row in rows.values())]:
        raise UserError(f"the baseline makes no error under {', '.join(perfect)}: there is nothing to divide by")
    clean = corpus.evaluations["test"]
    return Baseline(NAME, data, benchmark, digest_tracks(clean), error_on(clean), errors)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the baseline, write its table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", required=True, help="as in run_classification.py")
    parser.add_argument("--split_protocol", default="auto", help="as in run_classification.py (default: auto)")
    parser.add_argument("--data", help="the music in words, for whoever reads a score (default: name and protocol)")
    parser.add_argument("--corruptions", type=Path, default=ROOT / "configs/corruptions.yaml")
    parser.add_argument("--waveform_cache_dir", help="as in run_classification.py")
    parser.add_argument("--num_proc", type=int, help="as in run_classification.py")
    given = parser.parse_args(argv)
    args = DataArguments(
        dataset_name=given.dataset_name,
        split_protocol=given.split_protocol,
        corruptions=str(given.corruptions),
        waveform_cache_dir=given.waveform_cache_dir,
        num_proc=given.num_proc,
    )
    name = Path(given.dataset_name).name
    baseline = measure(args, given.data or f"{name}, {given.split_protocol} split")
    path = given.corruptions.parent / BASELINES_FOLDER / f"{name}.json"
    baseline.write(path)
    print(f"clean: {100 * baseline.clean_error:.1f} % wrong; {path}")
    return 0


if __name__ == "__main__":
    run_script(main)
