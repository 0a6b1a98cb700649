"""Fine-tune, evaluate and use an audio model as a music genre classifier: one model, one training mix, one split.

    accelerate launch run_classification.py configs/ast.yaml
    accelerate launch run_classification.py --model_name_or_path ntu-spml/distilhubert --dataset_name path/to/genres
    accelerate launch run_classification.py configs/convnext.yaml configs/train/noisy.yaml --seed 1
    python run_classification.py --model_name_or_path runs/ast --do_predict --predict_path ~/Music

Options come from any number of YAML files, left to right, and then from the command line.
"""

import logging
import time
from pathlib import Path

from transformers import EarlyStoppingCallback, set_seed

from hf_utils.arguments import ClassificationTrainingArguments, DataArguments, ModelArguments
from hf_utils.corpus import Corpus, decode_corpus, load_split_clips
from hf_utils.data import genre_names
from hf_utils.features import WindowCollator, fit_feature_stats, make_spec_augment, wants_training_stats
from hf_utils.freezing import freeze
from hf_utils.hub import Repository, push_folder
from hf_utils.hub_checkpoints import HubCheckpoints, fetch_checkpoint, open_model_repository
from hf_utils.launch import expect_processes, find_checkpoint, launch_command, run_script, setup_logging
from hf_utils.model_card import write_model_card
from hf_utils.models import load_classifier, window_samples_for
from hf_utils.parsing import merged_config, parse_arguments, write_config
from hf_utils.past_runs import adopt_data_options
from hf_utils.prediction import predict_files
from hf_utils.results import EvaluatedSet, format_scores, write_results
from hf_utils.splits import describe_splits, read_protocol
from hf_utils.stages import expand_stages
from hf_utils.training import GenreTrainer, balanced_class_weights, write_tensorboard_summary
from hf_utils.windows import EvaluationWindows, TrainingWindows, hop_samples_for

logger = logging.getLogger(__name__)

SPECTROGRAM_OPTIONS = (
    "spectrogram sampling_rate num_mel_bins n_fft hop_length min_frequency_hz max_frequency_hz".split()
)


def main(argv: list[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code."""
    description, _, examples = __doc__.partition("\n\n")
    model_args, data_args, training_args = parse_arguments(
        (ModelArguments, DataArguments, ClassificationTrainingArguments),
        argv,
        description=description,
        examples=examples,
    )
    setup_logging(training_args.process_index == 0)
    expect_processes(training_args.world_size)
    if not training_args.do_train:
        data_args = adopt_data_options(data_args, model_args.model_name_or_path)
    arguments = model_args, data_args, training_args
    repository = open_model_repository(training_args)
    if training_args.do_train or training_args.do_eval:
        config = merged_config(arguments)
        if repository is not None:
            config["hub_model_id"] = repository.name
        for stage in expand_stages(arguments):
            run_experiment(*stage, config=config, repository=repository if stage[-1].push_to_hub else None)
    if training_args.do_predict and training_args.process_index == 0:
        return run_prediction(model_args, data_args, training_args)
    return 0


def run_experiment(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: ClassificationTrainingArguments,
    config: dict,
    repository: Repository | None,
) -> None:
    """Train if asked to, evaluate every set, write what the run says of its model, and push it if asked to.

    `config` is the merged configuration of the whole run, saved for whoever repeats it.
    """
    started = time.time()
    set_seed(training_args.seed)
    with training_args.main_process_first(desc="reading the dataset"):
        clips = load_split_clips(data_args, training_args.hub_token)
    logger.info("%s", describe_splits(clips))
    model, feature_extractor = load_model(model_args, data_args, training_args, genre_names(clips))
    window_samples = window_samples_for(model.config, feature_extractor, data_args.window_seconds)
    hop_samples = hop_samples_for(window_samples, data_args.eval_hop_seconds, feature_extractor.sampling_rate)
    fit_stats = wants_training_stats(feature_extractor, model_args.feature_stats, do_train=training_args.do_train)
    with training_args.main_process_first(desc="decoding"):
        corpus = decode_corpus(
            clips,
            data_args,
            feature_extractor.sampling_rate,
            train=training_args.do_train,
            seed=training_args.seed,
            token=training_args.hub_token,
        )
    decoded = time.time()
    if fit_stats:
        num_workers = training_args.dataloader_num_workers
        fit_feature_stats(feature_extractor, corpus.train, window_samples, num_workers=num_workers)
    windows = {
        name: EvaluationWindows(tracks, window_samples, hop_samples) for name, tracks in corpus.evaluations.items()
    }
    trainable, total = freeze(model, model_args.freeze, model_args.unfrozen_layers)
    logger.info("%s: %s of %s parameters learn", type(model).__name__, f"{trainable:,}", f"{total:,}")
    trainer = make_trainer(model, feature_extractor, corpus, windows, window_samples, data_args, training_args)
    if training_args.do_train:
        train(trainer, training_args, repository)
    trained = time.time()
    evaluations = [trainer.evaluate_set(windows[name], name) for name in windows] if training_args.do_eval else []
    facts = {
        "protocol": read_protocol(clips),
        "model": {
            "name": model_args.model_name_or_path,
            "revision": model_args.model_revision,
            "class": type(model).__name__,
            "parameters": {"trainable": trainable, "total": total},
            "sample_rate": feature_extractor.sampling_rate,
            "window_samples": window_samples,
            "hop_samples": hop_samples,
        },
        "seconds": {"data": decoded - started, "training": trained - decoded, "evaluation": time.time() - trained},
    }
    if trainer.is_world_process_zero():
        write_run(corpus, evaluations, facts, model_args, training_args, config)
        if repository is not None:
            print(f"Pushed: {push_folder(training_args.output_dir, repository)}")


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
    windows: dict[str, EvaluationWindows],
    window_samples: int,
    data_args: DataArguments,
    training_args: ClassificationTrainingArguments,
) -> GenreTrainer:
    """Return the Trainer over the corpus: selection is on validation alone."""
    spec_augment = make_spec_augment(
        model.config,
        feature_extractor,
        window_samples,
        time_seconds=data_args.spec_augment_time_seconds,
        frequency_bins=data_args.spec_augment_freq_bins,
    )
    balanced = training_args.class_weights == "balanced" and corpus.train is not None
    patience = training_args.early_stopping_patience
    return GenreTrainer(
        model=model,
        args=training_args,
        genres=corpus.genres,
        class_weights=balanced_class_weights(corpus.train["label"], len(corpus.genres)) if balanced else None,
        train_dataset=corpus.train and TrainingWindows(corpus.train, window_samples, seed=training_args.seed),
        eval_dataset=windows["validation"],
        data_collator=WindowCollator(feature_extractor, spec_augment=spec_augment),
        processing_class=feature_extractor,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=patience)] if patience else None,
    )


def train(
    trainer: GenreTrainer, training_args: ClassificationTrainingArguments, repository: Repository | None
) -> None:
    """Train from the start or from a checkpoint; afterwards the trainer holds the best weights, saved."""
    output_dir, resume = training_args.output_dir, training_args.resume_from_checkpoint
    if repository is not None:
        trainer.add_callback(HubCheckpoints(repository, training_args.hub_strategy))
    if resume == "hub":
        with training_args.main_process_first(desc="downloading the checkpoint"):
            resume = fetch_checkpoint(repository, output_dir) if repository else "auto"
    checkpoint = find_checkpoint(output_dir, resume, overwrite=training_args.overwrite)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()


def write_run(
    corpus: Corpus, evaluations: list[EvaluatedSet], facts: dict, model_args, training_args, config: dict
) -> None:
    """Write results.json, predictions, pictures, TensorBoard summary, configuration and card; print the scores."""
    output_dir = Path(training_args.output_dir)
    results = write_results(
        output_dir,
        genres=corpus.genres,
        data=corpus.facts,
        config=config,
        seed=training_args.seed,
        evaluations=evaluations,
        demo=corpus.facts["demo"],
        **facts,
    )
    write_config(output_dir / "config.yaml", config)
    write_tensorboard_summary(output_dir, evaluations, corpus.genres, config)
    if training_args.do_train:
        write_model_card(output_dir, results, base_model=model_args.model_name_or_path, command=launch_command())
    print(format_scores(evaluations))
    print(f"\nEverything is in {output_dir}: results.json, predictions, confusion matrices, TensorBoard events.")


def run_prediction(
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
    print(f"{done} files tagged: {Path(training_args.output_dir, 'predictions.csv')}")
    for path, reason in failures:
        print(f"skipped {path}: {reason}")
    return 1 if failures else 0


if __name__ == "__main__":
    run_script(main)
