"""What run_classification.py does with its options: search, train and evaluate, predict."""

import time
from pathlib import Path

from hf_utils.arguments.data import DataArguments
from hf_utils.arguments.model import ModelArguments
from hf_utils.arguments.parsing import merged_config
from hf_utils.arguments.training import ClassificationTrainingArguments, SearchArguments
from hf_utils.augmentation.corruptions import Corruption
from hf_utils.cards.model_card import write_model_card
from hf_utils.config_files import write_config
from hf_utils.data.windows import hop_samples_for
from hf_utils.hub.checkpoint_push import HubCheckpoints, fetch_checkpoint, open_model_repository
from hf_utils.hub.repository import Repository, push_folder
from hf_utils.launch import launch_command
from hf_utils.models.families import window_samples_for
from hf_utils.results.robustness_report import RobustnessReport
from hf_utils.results.run_results import EvaluatedSet, format_scores, write_results
from hf_utils.training.experiment import Experiment, load_model, make_learner, prepare_experiment
from hf_utils.training.prediction import predict_files
from hf_utils.training.resume import check_checkpoints, find_checkpoint
from hf_utils.training.robustness import CorruptedSet, check_transforms, evaluate_corruptions
from hf_utils.training.stages import expand_stages
from hf_utils.training.trainer import write_tensorboard_summary


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
