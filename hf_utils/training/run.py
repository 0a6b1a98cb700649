"""What run_classification.py does with its options: search, train and evaluate, predict.

What a run of run_classification.py is made of, up to where training starts: model, data, windows, Trainer.
"""

import dataclasses
import logging
import time
from pathlib import Path

import datasets
from transformers import set_seed

from hf_utils.arguments.data import DataArguments
from hf_utils.arguments.model import ModelArguments
from hf_utils.arguments.parsing import merged_config
from hf_utils.arguments.training import ClassificationTrainingArguments, SearchArguments
from hf_utils.augmentation.corruptions import Corruption
from hf_utils.augmentation.pipeline import Augmentation, read_augmentation
from hf_utils.cards.model_card import write_model_card
from hf_utils.config_files import write_config
from hf_utils.data.clips import genre_names
from hf_utils.data.corpus import Corpus, check_sources, decode_corpus, load_split_clips
from hf_utils.data.splits import describe_splits, read_protocol
from hf_utils.data.windows import EvaluationWindows, TrainingWindows, hop_samples_for
from hf_utils.hub.checkpoint_push import HubCheckpoints, fetch_checkpoint, open_model_repository
from hf_utils.hub.repository import Repository, push_folder
from hf_utils.launch import launch_command
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.families import window_samples_for
from hf_utils.models.features import WindowCollator, fit_feature_stats, make_spec_augment, wants_training_stats
from hf_utils.models.freezing import freeze
from hf_utils.models.loading import HeadOptions, load_classifier
from hf_utils.results.run_results import EvaluatedSet, format_scores, write_results
from hf_utils.training.linear_probe import choose_learner
from hf_utils.training.past_runs import expand_stages
from hf_utils.training.prediction import predict_files
from hf_utils.training.resume import check_checkpoints, find_checkpoint
from hf_utils.training.robustness import CorruptedSet, RobustnessReport, check_transforms, evaluate_corruptions
from hf_utils.training.trainer import GenreTrainer, balanced_class_weights, write_tensorboard_summary

logger = logging.getLogger(__name__)


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
        UserError: as `read_augmentation`, `load_classifier`, `load_split_clips`, `decode_corpus` and `freeze`.
    """
    started = time.time()
    check_sources(data_args)
    set_seed(training_args.seed)
    augmentation = None
    if training_args.do_train and data_args.augmentation:
        augmentation = read_augmentation(data_args.augmentation, data_args.noise_folder)
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
    checkpoint = Checkpoint(
        model_args.model_name_or_path,
        revision=model_args.model_revision,
        trust_remote_code=model_args.trust_remote_code,
        allow_pickle=model_args.allow_pickle,
        token=training_args.hub_token,
        cache_dir=model_args.cache_dir,
    )
    return load_classifier(
        checkpoint,
        genres,
        window_seconds=data_args.window_seconds,
        head=HeadOptions(model_args.head, model_args.head_hidden_size, model_args.head_dropout),
        spectrogram=model_args.spectrogram_settings(),
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


def search(arguments: tuple, search_args: SearchArguments) -> int:
    """Try options and say which were best on validation."""
    from hf_utils.training.search import run_search  # here, because Optuna takes its time to import

    print(f"The best options: {run_search(arguments, search_args)}")
    return 0


def train_and_evaluate(
    model_args: ModelArguments, data_args: DataArguments, training_args: ClassificationTrainingArguments
) -> None:
    """Run every stage that is still to be run: one, where the options name none."""
    arguments = model_args, data_args, training_args
    corruptions = check_transforms(data_args, training_args)
    repository = open_model_repository(training_args)
    config = merged_config(arguments)
    if repository is not None:
        config["hub_model_id"] = repository.name
    for stage in expand_stages(arguments):
        stage_repository = repository if stage[-1].push_to_hub else None
        run_experiment(*stage, corruptions=corruptions, config=config, repository=stage_repository)


def run_experiment(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: ClassificationTrainingArguments,
    corruptions: list[Corruption],
    config: dict,
    repository: Repository | None,
) -> None:
    """Train if asked to, evaluate every set, write what the run says of its model, and push it if asked to.

    `config` is the merged configuration of the whole run, saved for whoever repeats it.
    """
    if training_args.do_train:
        resume, overwrite = training_args.resume_from_checkpoint, training_args.overwrite
        check_checkpoints(training_args.output_dir, resume, overwrite=overwrite)
    experiment = prepare_experiment(model_args, data_args, training_args)
    trainer, windows, started = experiment.trainer, experiment.windows, time.time()
    if training_args.do_train:
        train(experiment, data_args, training_args, repository)
    trained = time.time()
    evaluations = [trainer.evaluate_set(windows[name], name) for name in windows] if training_args.do_eval else []
    corrupted = evaluate_corruptions(experiment, corruptions, data_args) if training_args.do_eval else []
    experiment.facts["seconds"] |= {"training": trained - started, "evaluation": time.time() - trained}
    if trainer.is_world_process_zero():
        write_run(experiment, evaluations, corrupted, model_args, training_args, config)
        if repository is not None:
            print(f"Pushed: {push_folder(training_args.output_dir, repository)}")


def train(
    experiment: Experiment,
    data_args: DataArguments,
    training_args: ClassificationTrainingArguments,
    repository: Repository | None,
) -> None:
    """Train from the start or from a checkpoint; afterwards the trainer holds the best weights, saved."""
    output_dir, resume = training_args.output_dir, training_args.resume_from_checkpoint
    trainer, learner = experiment.trainer, make_learner(experiment, data_args)
    if repository is not None:
        learner.add_callback(HubCheckpoints(repository, training_args.hub_strategy))
    if resume == "hub":
        with training_args.main_process_first(desc="downloading the checkpoint"):
            resume = fetch_checkpoint(repository, output_dir) if repository else "auto"
    checkpoint = find_checkpoint(output_dir, resume, overwrite=training_args.overwrite)
    learner.train(resume_from_checkpoint=checkpoint)
    trainer.state = learner.state
    trainer.save_model()
    trainer.save_state()


def write_run(
    experiment: Experiment,
    evaluations: list[EvaluatedSet],
    corrupted: list[CorruptedSet],
    model_args: ModelArguments,
    training_args: ClassificationTrainingArguments,
    config: dict,
) -> None:
    """Write results.json, predictions, pictures, TensorBoard summary, configuration and card; print the scores."""
    output_dir, corpus = Path(training_args.output_dir), experiment.corpus
    robustness = RobustnessReport(evaluations, corrupted, corpus.genres) if corrupted else None
    results = write_results(
        output_dir,
        genres=corpus.genres,
        data=corpus.facts,
        config=config,
        seed=training_args.seed,
        evaluations=evaluations,
        demo=corpus.facts["demo"],
        robustness=robustness and robustness.rows,
        robustness_means=robustness and robustness.means,
        **experiment.facts,
    )
    write_config(output_dir / "config.yaml", config)
    write_tensorboard_summary(output_dir, evaluations, corpus.genres, config)
    if training_args.do_train:
        shown = results if robustness is None else {**results, "robustness": robustness.describe()}
        write_model_card(output_dir, shown, base_model=model_args.model_name_or_path, command=launch_command())
    print(format_scores(evaluations))
    if robustness is not None:
        robustness.write(output_dir, results, page=not training_args.do_train, command=launch_command())
        print(f"\n{robustness.format_table()}")
    print(f"\nEverything is in {output_dir}: results.json, predictions, confusion matrices, TensorBoard events.")


def predict(
    model_args: ModelArguments, data_args: DataArguments, training_args: ClassificationTrainingArguments
) -> int:
    """Tag the user's files; return 1 if some could not be read, else 0."""
    model, feature_extractor = load_model(model_args, data_args, training_args, genres=None)
    window_samples = window_samples_for(model.config, feature_extractor, data_args.window_seconds)
    done, failures = predict_files(
        model,
        feature_extractor,
        training_args.predict_path,
        window_samples,
        hop_samples_for(window_samples, data_args.eval_hop_seconds, feature_extractor.sampling_rate),
        training_args.output_dir,
        batch_size=training_args.per_device_eval_batch_size,
        per_window=training_args.per_window,
        device=training_args.device,
    )
    skipped = f", {len(failures)} skipped" if failures else ""
    print(f"{done} files tagged{skipped}: {Path(training_args.output_dir, 'predictions.csv')}")
    return 1 if failures else 0
