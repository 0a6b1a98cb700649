"""A Trainer over tiny models and tones, as the script makes it, and ways to look at its weights."""

import tiny_models
import torch
from transformers import TrainerCallback, set_seed

from hf_utils.arguments.training import ClassificationTrainingArguments
from hf_utils.data.clips import genre_names, load_clips
from hf_utils.data.waveforms import decode_clips
from hf_utils.data.windows import EvaluationWindows, TrainingWindows
from hf_utils.models.adapters import add_adapters
from hf_utils.models.families import window_samples_for
from hf_utils.models.feature_stats import fit_feature_stats, wants_training_stats
from hf_utils.models.features import WindowCollator, make_example
from hf_utils.models.freezing import freeze
from hf_utils.models.kept_features import keep_features, start_step
from hf_utils.training.trainer import GenreTrainer


def make_trainer(
    checkpoint, folder, output_dir, *, callbacks=None, freeze_mode="none", plan=None, **options
) -> GenreTrainer:
    """A trainer as the script makes it: fresh head, windows of 0.5 s, four optimiser steps an epoch."""
    options = {"num_train_epochs": 2, "per_device_train_batch_size": 3, "learning_rate": 1e-2, "seed": 5} | options
    args = ClassificationTrainingArguments(
        output_dir=str(output_dir), use_cpu=True, report_to="none", dataloader_num_workers=0, **options
    )
    set_seed(args.seed)
    clips = load_clips(str(folder))
    spectrogram = {"n_fft": 512, "hop_length": 256, "num_mel_bins": 32} if checkpoint.parent.name[:4] == "conv" else {}
    model, extractor = tiny_models.load(checkpoint, genre_names(clips), window_seconds=0.5, spectrogram=spectrogram)
    freeze(model, freeze_mode)
    if args.lora_rank is not None:
        add_adapters(model, args.lora_rank, make_example(extractor, window_samples_for(model.config, extractor, 0.5)))
    decoded = decode_clips(clips, extractor.sampling_rate)
    window_samples = window_samples_for(model.config, extractor, 0.5)
    if wants_training_stats(extractor, "auto", do_train=True):
        fit_feature_stats(extractor, decoded, window_samples)
    training = TrainingWindows(decoded, window_samples, seed=args.seed, start_step=start_step(extractor), plan=plan)
    validation = EvaluationWindows(decoded, window_samples, window_samples // 2)
    keep_features([training, validation], extractor, 1 << 30, torch.device("cpu"))
    return GenreTrainer(
        model=model,
        args=args,
        genres=genre_names(clips),
        train_dataset=training,
        eval_dataset=validation,
        data_collator=WindowCollator(extractor, num_genres=len(genre_names(clips))),
        processing_class=extractor,
        callbacks=callbacks,
    )


class Killed(Exception):
    """What KillAt raises."""


class KillAt(TrainerCallback):
    """Ends a training after a step, as a kill would."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


def tensors(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def differing(one: dict, other: dict) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]
