"""Seconds of training a linear head on a frozen backbone: embeddings kept, against the backbone in every epoch.

    python benchmarks/linear_probe.py                                       # AST of the base size, few tracks
    python benchmarks/linear_probe.py --tracks 443 --validation_tracks 197  # the fault-filtered GTZAN: for a GPU
    python benchmarks/linear_probe.py --measured_epochs 2                   # the slow path is extrapolated

Both ways train the same model on the same windows in one process, one after the other, with an evaluation of the
validation set and a checkpoint after each epoch, as the script does; the cached one starts with no embeddings. Weights
are random, at the size of AST-base, and tracks are 30 s of noise: time depends on neither.

With --measured_epochs below --epochs the slow path trains only so many, and its time for all is computed: an epoch of
it costs what the one before cost. The cached way is always run in full.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import soundfile
import torch
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification, set_seed

from hf_utils.arguments.data import DataArguments
from hf_utils.arguments.training import ClassificationTrainingArguments
from hf_utils.data.clips import load_clips
from hf_utils.data.waveforms import decode_clips
from hf_utils.data.windows import EvaluationWindows, TrainingWindows
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.families import window_samples_for
from hf_utils.models.features import WindowCollator
from hf_utils.models.freezing import freeze
from hf_utils.models.loading import load_classifier
from hf_utils.training.linear_probe import choose_trainer
from hf_utils.training.trainer import GenreTrainer

GENRES = ["blues", "jazz", "metal", "rock"]
SAMPLE_RATE, TRACK_SECONDS = 16_000, 30


def write_noise(folder: Path, count: int) -> None:
    """Write `count` tracks of noise, by turns of each genre."""
    generator = np.random.default_rng(0)
    for track in range(count):
        genre = GENRES[track % len(GENRES)]
        (folder / genre).mkdir(parents=True, exist_ok=True)
        noise = generator.normal(0, 0.1, TRACK_SECONDS * SAMPLE_RATE)
        soundfile.write(folder / genre / f"{genre}-{track}.wav", noise, SAMPLE_RATE)


def make_trainer(checkpoint: Path, clips, num_validation: int, epochs: int, output_dir: Path, workers: int):
    """Return a trainer with a frozen backbone, its training clips and the length of its windows."""
    args = ClassificationTrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=epochs,
        learning_rate=1e-3,
        report_to="none",
        precision="fp32",
        dataloader_num_workers=workers,
        disable_tqdm=True,
        save_total_limit=1,
    )
    set_seed(args.seed)
    model, extractor = load_classifier(Checkpoint(str(checkpoint)), GENRES)
    freeze(model, "backbone")
    window_samples = window_samples_for(model.config, extractor, None)
    training = clips.select(range(num_validation, len(clips)))
    trainer = GenreTrainer(
        model=model,
        args=args,
        genres=GENRES,
        train_dataset=TrainingWindows(training, window_samples, seed=args.seed, grid=True),
        eval_dataset=EvaluationWindows(clips.select(range(num_validation)), window_samples, window_samples // 2),
        data_collator=WindowCollator(extractor),
        processing_class=extractor,
    )
    return trainer, training, window_samples


def compare(arguments: argparse.Namespace, folder: Path) -> None:
    count = arguments.tracks + arguments.validation_tracks
    write_noise(folder / "clips", count)
    clips = decode_clips(load_clips(str(folder / "clips")), SAMPLE_RATE, cache_dir=folder / "cache").shuffle(seed=0)
    checkpoint = folder / "ast"
    ASTForAudioClassification(ASTConfig(num_hidden_layers=arguments.layers)).save_pretrained(checkpoint)
    # AudioSet's, as the checkpoint has them.
    ASTFeatureExtractor(mean=-4.2677393, std=4.5689974).save_pretrained(checkpoint)

    def train(name: str, epochs: int, option: str) -> tuple[float, list[float]]:
        made = make_trainer(
            checkpoint, clips, arguments.validation_tracks, epochs, folder / name, arguments.dataloader_num_workers
        )
        started = time.perf_counter()
        trainer = choose_trainer(*made, DataArguments(cache_embeddings=option, waveform_cache_dir=str(folder)))
        trainer.train()
        losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
        print(f"{name}: {epochs} epochs in {time.perf_counter() - started:.1f} s", flush=True)
        return time.perf_counter() - started, losses

    cached, cached_losses = train("cached", arguments.epochs, "always")
    again, _ = train("cached, embeddings there", arguments.epochs, "always")
    slow, slow_losses = train("uncached", arguments.measured_epochs, "never")
    total = slow * arguments.epochs / arguments.measured_epochs
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    note = "" if arguments.measured_epochs == arguments.epochs else f", from {arguments.measured_epochs} measured"
    print(f"\n{device}; AST of {arguments.layers} layers; {arguments.tracks} + {arguments.validation_tracks} tracks")
    print(f"{arguments.epochs} epochs uncached: {total:.1f} s{note}")
    print(f"{arguments.epochs} epochs cached:   {cached:.1f} s, {total / cached:.1f} times faster")
    print(f"{arguments.epochs} epochs more:     {again:.1f} s, {total / again:.0f} times faster")
    if arguments.measured_epochs == arguments.epochs:
        gap = max(abs(one - other) for one, other in zip(slow_losses, cached_losses, strict=True))
        print(f"largest difference of a validation loss: {gap:.1e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=int, default=8, help="training tracks (default: 8)")
    parser.add_argument("--validation_tracks", type=int, default=4, help="validation tracks (default: 4)")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--measured_epochs", type=int, help="of the slow path (default: all)")
    parser.add_argument("--layers", type=int, default=12, help="of the backbone (default: 12, AST-base)")
    parser.add_argument("--dataloader_num_workers", type=int, default=0)
    arguments = parser.parse_args()
    arguments.measured_epochs = arguments.measured_epochs or arguments.epochs
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    with tempfile.TemporaryDirectory() as folder:
        compare(arguments, Path(folder))
