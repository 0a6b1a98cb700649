"""What a run of run_classification.py is made of, up to where training starts: model, data, windows, Trainer."""

import dataclasses
import logging
import time
from pathlib import Path

import datasets
from transformers import set_seed

from hf_utils.arguments.data import DataArguments
from hf_utils.arguments.model import ModelArguments
from hf_utils.arguments.training import ClassificationTrainingArguments
from hf_utils.augmentation.pipeline import Augmentation
from hf_utils.data.clips import genre_names
from hf_utils.data.corpus import Corpus, check_sources, decode_corpus, load_split_clips
from hf_utils.data.splits import describe_splits, read_protocol
from hf_utils.data.windows import EvaluationWindows, TrainingWindows, hop_samples_for
from hf_utils.models.families import window_samples_for
from hf_utils.models.features import WindowCollator, fit_feature_stats, make_spec_augment, wants_training_stats
from hf_utils.models.freezing import freeze
from hf_utils.models.linear_probe import choose_learner
from hf_utils.models.loading import load_classifier
from hf_utils.training.trainer import GenreTrainer, balanced_class_weights

logger = logging.getLogger(__name__)

SPECTROGRAM_OPTIONS = (
    "spectrogram sampling_rate num_mel_bins n_fft hop_length min_frequency_hz max_frequency_hz".split()
)


@dataclasses.dataclass
class Experiment:
    """A model, the data it is to learn from, and the Trainer over both.

    Attributes:
        clips: the clip table of `--dataset_name`, with audio files and splits.
        windows: of every evaluated set, by name: validation, test and those the user named.
        facts: what results.json says of the split, the model and the time that the data took.
    """

    clips: datasets.Dataset
    corpus: Corpus
    windows: dict[str, EvaluationWindows]
    trainer: GenreTrainer
    facts: dict


def prepare_experiment(
    model_args: ModelArguments, data_args: DataArguments, training_args: ClassificationTrainingArguments
) -> Experiment:
    """Load the model, decode and check the data, and freeze what shall not learn.

    Raises:
        UserError: as `load_augmentation`, `load_classifier`, `load_split_clips`, `decode_corpus` and `freeze`.
    """
    started = time.time()
    check_sources(data_args)
    set_seed(training_args.seed)
    augmentation = data_args.load_augmentation() if training_args.do_train else None
    with training_args.main_process_first(desc="reading the dataset"):
        clips = load_split_clips(data_args, training_args.hub_token)
    logger.info("%s", describe_splits(clips))
    model, feature_extractor = load_model(model_args, data_args, training_args, genre_names(clips))
    sample_rate = feature_extractor.sampling_rate
    window_samples = window_samples_for(model.config, feature_extractor, data_args.window_seconds)
    hop_samples = hop_samples_for(window_samples, data_args.eval_hop_seconds, sample_rate)
    fit_stats = wants_training_stats(feature_extractor, model_args.feature_stats, do_train=training_args.do_train)
    with training_args.main_process_first(desc="decoding"):
        corpus = decode_corpus(
            clips,
            data_args,
            sample_rate,
            train=training_args.do_train,
            seed=training_args.seed,
            token=training_args.hub_token,
        )
    if augmentation is not None:
        corpus.facts["augmentation"] = augmentation.config
    seconds = time.time() - started
    if fit_stats:
        num_workers = training_args.dataloader_num_workers
        fit_feature_stats(feature_extractor, corpus.train, window_samples, num_workers=num_workers)
    windows = {
        name: EvaluationWindows(tracks, window_samples, hop_samples) for name, tracks in corpus.evaluations.items()
    }
    trainable, total = freeze(model, model_args.freeze, model_args.unfrozen_layers)
    if training_args.do_train:
        logger.info("%s: %s of %s parameters learn", type(model).__name__, f"{trainable:,}", f"{total:,}")
    model_facts = {
        "name": model_args.model_name_or_path,
        "revision": model_args.model_revision,
        "class": type(model).__name__,
        "parameters": {"trainable": trainable, "total": total},
        "sample_rate": sample_rate,
        "window_samples": window_samples,
        "hop_samples": hop_samples,
    }
    trainer = make_trainer(
        model, feature_extractor, corpus, augmentation, windows, window_samples, data_args, training_args
    )
    facts = {"protocol": read_protocol(clips), "model": model_facts, "seconds": {"data": seconds}}
    return Experiment(clips, corpus, windows, trainer, facts)


def make_learner(experiment: Experiment, data_args: DataArguments) -> GenreTrainer:
    """Return what trains the experiment's model: its Trainer, or one of the head alone (`--cache_embeddings`)."""
    window_samples, folder = experiment.facts["model"]["window_samples"], data_args.waveform_cache_dir
    return choose_learner(
        experiment.trainer,
        experiment.corpus.train,
        window_samples,
        option=data_args.cache_embeddings,
        cache_dir=folder and str(Path(folder, "embeddings")),
    )


def load_model(model_args: ModelArguments, data_args: DataArguments, training_args, genres: list[str] | None):
    """Return the classifier and its feature extractor; `genres` None keeps the checkpoint's own."""
    spectrogram = {name: getattr(model_args, name) for name in SPECTROGRAM_OPTIONS}
    return load_classifier(
        model_args.model_name_or_path,
        genres,
        window_seconds=data_args.window_seconds,
        revision=model_args.model_revision,
        trust_remote_code=model_args.trust_remote_code,
        allow_pickle=model_args.allow_pickle,
        token=training_args.hub_token,
        cache_dir=model_args.cache_dir,
        head=model_args.head,
        head_hidden_size=model_args.head_hidden_size,
        head_dropout=model_args.head_dropout,
        spectrogram={name: value for name, value in spectrogram.items() if value is not None},
    )


def make_trainer(
    model,
    feature_extractor,
    corpus: Corpus,
    augmentation: Augmentation | None,
    windows: dict[str, EvaluationWindows],
    window_samples: int,
    data_args: DataArguments,
    training_args: ClassificationTrainingArguments,
) -> GenreTrainer:
    """Return the Trainer over the corpus: selection is on validation alone, and only training windows are changed."""
    spec_augment = make_spec_augment(
        model.config,
        feature_extractor,
        window_samples,
        time_seconds=data_args.spec_augment_time_seconds,
        frequency_bins=data_args.spec_augment_freq_bins,
    )
    balanced = training_args.class_weights == "balanced" and corpus.train is not None
    return GenreTrainer(
        model=model,
        args=training_args,
        genres=corpus.genres,
        class_weights=balanced_class_weights(corpus.train["label"], len(corpus.genres)) if balanced else None,
        train_dataset=corpus.train
        and TrainingWindows(
            corpus.train,
            window_samples,
            seed=training_args.seed,
            grid=data_args.train_windows == "grid",
            transform=augmentation and augmentation.for_windows(feature_extractor.sampling_rate),
        ),
        eval_dataset=windows["validation"],
        data_collator=WindowCollator(feature_extractor, spec_augment=spec_augment),
        processing_class=feature_extractor,
    )
