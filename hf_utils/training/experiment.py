"""Steps 2 to 4 of a run: its clips and their split, its model, and its decoded windows, checked, with a Trainer."""

import dataclasses
import logging
import time
from typing import Any

import datasets
from transformers import set_seed

from hf_utils.arguments.data import DataArguments
from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.augmentation.pipeline import Augmentation, read_augmentation
from hf_utils.data.clips import genre_names
from hf_utils.data.corpus import (
    Corpus,
    check_headers,
    check_sources,
    decode_corpus,
    load_further_clips,
    load_split_clips,
)
from hf_utils.data.demo_data import is_demo
from hf_utils.data.splits import describe_splits, read_protocol
from hf_utils.data.visits import VisitPlan
from hf_utils.data.window_lengths import WindowLengths, hop_samples_for
from hf_utils.data.windows import EvaluationWindows, TrainingWindows
from hf_utils.models.adapters import AdaptedLayers, add_adapters
from hf_utils.models.feature_stats import fit_feature_stats, wants_training_stats
from hf_utils.models.features import SpecAugment, WindowCollator, make_example, make_spec_augment
from hf_utils.models.freezing import freeze
from hf_utils.models.kept_features import keep_features, start_step
from hf_utils.models.temperature import read_temperature
from hf_utils.results.run_results import RunRecord
from hf_utils.training.classifier import Classifier, check_checkpoint, load_model
from hf_utils.training.optimizer import assign_learning_rates
from hf_utils.training.past_runs import read_past_split
from hf_utils.training.prediction_table import check_unknown
from hf_utils.training.provenance import find_earlier_trainings, find_licenses
from hf_utils.training.shared_memory import check_shared_memory
from hf_utils.training.trainer import GenreTrainer, balanced_class_weights

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A model, the data it is to learn from, and the Trainer over both.

    Attributes:
        windows: of every evaluated set, by name: validation, test and those the user named.
        num_trainable, num_parameters: of the model; adapters are among the first and, being merged, not the second.
        adapters: of `--lora_rank`, or None.
        seconds: what reading, loading and decoding took.
    """

    corpus: Corpus
    lengths: WindowLengths
    windows: dict[str, EvaluationWindows]
    trainer: GenreTrainer
    augmentation: Augmentation | None
    num_trainable: int
    num_parameters: int
    adapters: AdaptedLayers | None
    seconds: float

    def test_clips(self) -> datasets.Dataset:
        """Return the audio files of the test tracks, without those that were left out as bad audio."""
        heard = set(self.windows["test"].track_ids)
        clips = self.corpus.clips
        rows = enumerate(zip(clips["split"], clips["track_id"], strict=True))
        return clips.select([row for row, (split, name) in rows if split == "test" and name in heard])

    def describe(
        self, arguments: RunArguments, config: dict[str, Any], seconds: dict[str, float], training: dict | None
    ) -> RunRecord:
        """Return what results.json says beside scores."""
        data = self.corpus.facts
        if self.augmentation is not None:
            data = {**data, "augmentation": self.augmentation.config}
        model = {
            "name": arguments.model.model_name_or_path,
            "revision": arguments.model.model_revision,
            "class": type(self.trainer.model).__name__,
            "parameters": {"trainable": self.num_trainable, "total": self.num_parameters},
            "temperature": self.trainer.temperature,
            "eval_batch_size": self.trainer.args.per_device_eval_batch_size,
            **dataclasses.asdict(self.lengths),
        }
        if self.adapters is not None:
            model["adapters"] = {"layers": len(self.adapters.adapted), "summary": self.adapters.describe()}
        if arguments.training.do_train:
            model["validation_hop_samples"] = _validation_hop(arguments.data, self.lengths)
        return RunRecord(
            protocol=read_protocol(self.corpus.clips),
            genres=self.corpus.genres,
            demo=is_demo(arguments.data.dataset_name),
            data=data,
            model=model,
            config=config,
            seed=arguments.training.seed,
            seconds=seconds,
            training=training,
            earlier=find_earlier_trainings(arguments),
            licenses=find_licenses(arguments),
        )


def prepare_experiment(arguments: RunArguments) -> Experiment:
    """Read the clips, load the model, decode and check the audio, and freeze what is not to learn.

    Raises:
        UserError: as `read_augmentation`, `load_classifier`, `load_split_clips`, `decode_corpus`, `freeze` and
            `add_adapters`.
    """
    data_args, training_args = arguments.data, arguments.training
    started = time.time()
    check_sources(data_args)
    check_checkpoint(arguments)
    set_seed(training_args.seed)
    augmentation = None
    if training_args.do_train and data_args.augmentation:
        augmentation = read_augmentation(data_args.augmentation, data_args.noise_folder)

    # 2. Read the clips and split them by track.
    with training_args.main_process_first(desc="reading the dataset"):
        past = read_past_split(arguments)
        clips = load_split_clips(data_args, training_args.hub_token, None if training_args.do_train else past)
        further = load_further_clips(
            data_args, genre_names(clips), train=training_args.do_train, token=training_args.hub_token
        )
        check_headers(clips, further, data_args, train=training_args.do_train)
    check_unknown(training_args.unknown_below, genre_names(clips))
    logger.info("%s", describe_splits(clips))

    # 3. Load the model.
    classifier = load_model(arguments, genre_names(clips))
    model, feature_extractor, lengths = classifier.model, classifier.feature_extractor, classifier.lengths
    if augmentation is not None:
        augmentation.try_out(lengths.sample_rate)
    trainable, total = freeze(model, arguments.model.freeze, arguments.model.unfrozen_layers)
    adapters = None
    if training_args.do_train and training_args.lora_rank is not None:
        example = make_example(feature_extractor, lengths.window_samples)
        adapters = add_adapters(model, training_args.lora_rank, example)
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        logger.log(logging.WARNING if adapters.bypassed else logging.INFO, "%s", adapters.describe())
    if training_args.do_train:
        logger.info("%s: %s of %s parameters learn", type(model).__name__, f"{trainable:,}", f"{total:,}")
        # What would not work is found before the audio is decoded.
        assign_learning_rates(
            model, training_args.learning_rate, training_args.head_learning_rate, training_args.layer_decay
        )
    spec_augment = make_spec_augment(
        model.config,
        feature_extractor,
        lengths.window_samples,
        time_seconds=data_args.spec_augment_time_seconds,
        frequency_bins=data_args.spec_augment_freq_bins,
    )
    feature_stats = arguments.model.feature_stats
    fit_stats = wants_training_stats(feature_extractor, feature_stats, do_train=training_args.do_train)

    check_shared_memory(training_args, lengths.window_samples)

    # 4. Decode the audio, check it and the split, and cut it into windows.
    with training_args.main_process_first(desc="decoding"):
        corpus = decode_corpus(
            clips,
            data_args,
            lengths.sample_rate,
            train=training_args.do_train,
            seed=training_args.seed,
            further=further,
            past=past,
        )
    if corpus.clips is not clips:
        logger.info("%s", describe_splits(corpus.clips))
    seconds = time.time() - started
    if fit_stats:
        num_workers = training_args.dataloader_num_workers
        fit_feature_stats(feature_extractor, corpus.train, lengths.window_samples, num_workers=num_workers)
    heard = [*corpus.evaluations.values(), *([] if corpus.train is None else [corpus.train])]
    num_samples = [count for clips_of_set in heard for count in clips_of_set["num_samples"]]
    lengths.warn_of_short(sum(count < lengths.window_samples for count in num_samples), len(num_samples))
    windows = {
        name: EvaluationWindows(tracks, lengths.window_samples, lengths.hop_samples)
        for name, tracks in corpus.evaluations.items()
    }
    trainer = make_trainer(arguments, classifier, corpus, augmentation, spec_augment)
    return Experiment(corpus, lengths, windows, trainer, augmentation, trainable, total, adapters, seconds)


def make_trainer(
    arguments: RunArguments,
    classifier: Classifier,
    corpus: Corpus,
    augmentation: Augmentation | None,
    spec_augment: SpecAugment | None,
) -> GenreTrainer:
    """Return the Trainer over the corpus: selection is on validation only, and only training windows are changed."""
    data_args, training_args, feature_extractor = arguments.data, arguments.training, classifier.feature_extractor
    window_samples = classifier.lengths.window_samples
    training_windows, class_weights = None, None
    if corpus.train is not None:
        training_windows = TrainingWindows(
            corpus.train,
            window_samples,
            seed=training_args.seed,
            grid=data_args.train_windows == "grid",
            transform=augmentation and augmentation.for_windows(classifier.lengths.sample_rate),
            start_step=start_step(feature_extractor),
            plan=VisitPlan(data_args.windows_per_track, training_args.balanced_sampling, data_args.mixup_alpha),
        )
        if training_args.class_weights == "balanced":
            class_weights = balanced_class_weights(corpus.train["label"], len(corpus.genres))
    validation_windows = EvaluationWindows(
        corpus.evaluations["validation"], window_samples, _validation_hop(data_args, classifier.lengths)
    )
    if training_windows is not None:
        max_bytes = int(1e9 * data_args.feature_memory_gb)
        keep_features([training_windows, validation_windows], feature_extractor, max_bytes, training_args.device)
    trainer = GenreTrainer(
        model=classifier.model,
        args=training_args,
        genres=corpus.genres,
        class_weights=class_weights,
        train_dataset=training_windows,
        eval_dataset=validation_windows,
        data_collator=WindowCollator(feature_extractor, spec_augment=spec_augment, num_genres=len(corpus.genres)),
        processing_class=feature_extractor,
        record=corpus.record,
    )
    trainer.temperature = read_temperature(classifier.model.config)
    return trainer


def _validation_hop(data_args: DataArguments, lengths: WindowLengths) -> int:
    """Return the step between validation windows while training: a window hears each part once, at half the cost."""
    return hop_samples_for(lengths.window_samples, data_args.validation_hop_seconds, lengths.sample_rate, share=1.0)
