"""One run of run_classification.py, from its options to its results:

1. check options and files
2. read the clips and split them by track
3. load the model
4. decode the audio, check it and the split, and cut it into windows
5. train
6. evaluate
7. measure robustness
8. write results, pictures and card
9. push

and after that, where it is asked for, tag the user's files. Steps 2 to 4 are in `hf_utils/training/experiment.py`. The
functions follow in this order.
"""

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerState

from hf_utils.arguments.model import ModelArguments
from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.arguments.training import ClassificationTrainingArguments
from hf_utils.augmentation.corruptions import Corruption
from hf_utils.cards.model_card import write_model_card
from hf_utils.config_files import write_config
from hf_utils.data.corpus import check_sources
from hf_utils.errors import UserError
from hf_utils.files import CONFIG_FILE, is_complete
from hf_utils.hub.checkpoint_push import HubCheckpoints, fetch_checkpoint, open_model_repository
from hf_utils.hub.repository import Repository, push_folder
from hf_utils.launch import launch_command
from hf_utils.models.adapters import merge_adapters
from hf_utils.models.temperature import write_temperature
from hf_utils.results.calibration import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE, fit_temperature
from hf_utils.results.confidence import tell_thresholds
from hf_utils.results.run_results import (
    EvaluatedSet,
    RunRecord,
    format_scores,
    warn_near_chance,
    write_confusions,
    write_results,
)
from hf_utils.training.corruption_error import Baseline, find_baseline, read_baselines
from hf_utils.training.experiment import Experiment, prepare_experiment
from hf_utils.training.linear_probe import choose_trainer
from hf_utils.training.mistakes_page import MISTAKES_FILE, write_mistakes
from hf_utils.training.past_runs import adopt_data_options, expand_stages
from hf_utils.training.prediction import predict
from hf_utils.training.resume import (
    KeepOptions,
    check_checkpoints,
    check_data,
    check_evaluations,
    check_features,
    check_options,
    describe_options,
    find_checkpoint,
    write_options,
)
from hf_utils.training.robustness import (
    RobustnessReport,
    check_transforms,
    evaluate_corruptions,
    try_corruptions,
)
from hf_utils.training.selection import describe_training, has_ended
from hf_utils.training.trainer import GenreTrainer, write_tensorboard_summary

logger = logging.getLogger(__name__)


def run(arguments: RunArguments) -> int:
    """Train, evaluate and tag files as the options ask; return the exit code of the script."""
    training_args = arguments.training
    if not training_args.do_train:
        arguments = adopt_data_options(arguments)
    if training_args.do_train or training_args.do_eval:
        train_and_evaluate(arguments)
    if training_args.do_predict and training_args.process_index == 0:
        if training_args.do_train:
            # The model that was trained, which brings its head and its features.
            trust = arguments.model.trust_remote_code
            trained = ModelArguments(model_name_or_path=training_args.output_dir, trust_remote_code=trust)
            arguments = dataclasses.replace(arguments, model=trained)
        return predict(arguments)
    return 0


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """What the stages of a run have in common.

    Attributes:
        config: the merged configuration of the whole run, saved for whoever repeats it.
        corruptions: under which the last stage is evaluated.
        baselines: to which its errors under them may be relative.
        repository: where the last stage is pushed to.
    """

    config: dict[str, Any]
    corruptions: list[Corruption]
    baselines: list[Baseline]
    repository: Repository | None


def train_and_evaluate(arguments: RunArguments) -> None:
    """Run every stage that is still to be run: one, where the options name none.

    A stage that is finished is passed over if the run is resumed, and this stage would be the same again.
    """
    # 1. Options and files, of all stages before the first of them.
    corruptions = check_transforms(arguments.data, arguments.training)
    repository = open_model_repository(arguments.training, arguments.given)
    config = arguments.config()
    if repository is not None:
        config["hub_model_id"] = repository.name
    plan = RunPlan(config, corruptions, read_baselines(arguments.data.corruptions), repository)
    stages = expand_stages(arguments)
    for stage in stages:
        check_sources(stage.data)
    for number, stage in enumerate(stages, start=1):
        folder, is_resumed = stage.training.output_dir, stage.training.resume_from_checkpoint is not None
        if arguments.training.stages and is_resumed and is_complete(folder):
            check_stage(stage, corruptions)
            logger.info("Stage %d is finished: %s", number, folder)
            continue
        is_pushed = stage.training.push_to_hub
        run_stage(stage, plan if is_pushed else dataclasses.replace(plan, repository=None))


def check_stage(arguments: RunArguments, corruptions: Sequence[Corruption]) -> None:
    """Check that a finished stage would be the same again, and was evaluated as is asked for now.

    Raises:
        UserError: it had other options, other data or another evaluation, and as `prepare_experiment`.
    """
    folder = arguments.training.output_dir
    check_options(folder, describe_options(arguments))
    if arguments.training.do_eval:
        check_evaluations(folder, arguments, corruptions)
    experiment = prepare_experiment(arguments)
    check_features(folder, experiment.trainer.processing_class)
    check_data(folder, experiment.corpus.record)


def run_stage(arguments: RunArguments, plan: RunPlan) -> None:
    """Train if asked to, evaluate every set, write what the run says of its model, and push it if asked to."""
    training_args = arguments.training
    if training_args.do_train:
        check_checkpoints(arguments)
    # 2. to 4.
    experiment = prepare_experiment(arguments)
    try_corruptions(plan.corruptions, experiment.corpus.clips)
    trainer, seconds = experiment.trainer, {"data": experiment.seconds}
    # 5.
    started, training = time.time(), None
    if training_args.do_train:
        trainer = train(experiment, arguments, plan.repository)
        training = describe_training(training_args, trainer.state)
        batch = training_args.train_batch_size * training_args.world_size  # over all GPUs and processes
        training["windows_per_step"] = batch * training_args.gradient_accumulation_steps
        logger.info("%s", training["summary"])
    seconds["training"] = time.time() - started
    # 6. What was found is on disk before anything that may yet fail.
    started, robustness = time.time(), None
    evaluations = evaluate(experiment, trainer, training_args)
    seconds["evaluation"] = time.time() - started
    record = experiment.describe(arguments, plan.config, seconds, training)
    if trainer.is_world_process_zero():
        write_results(training_args.output_dir, record, evaluations, complete=False)
    # 7.
    if training_args.do_eval and plan.corruptions:
        clips, tracks = experiment.test_clips(), experiment.corpus.evaluations["test"]
        baseline = find_baseline(plan.baselines, plan.corruptions, tracks)
        corrupted = evaluate_corruptions(trainer, clips, experiment.lengths, plan.corruptions, arguments.data)
        robustness = RobustnessReport(evaluations, corrupted, record.genres, baseline)
        seconds["evaluation"] = time.time() - started
    if trainer.is_world_process_zero():
        # 8.
        if training_args.mistakes:
            [tested] = [found for found in evaluations if found.name == "test"]
            page = write_mistakes(training_args.output_dir, record, experiment, tested, training_args.mistakes)
            print(f"Mistakes to listen to: {page}")
        elif training_args.overwrite:  # that of the run before
            Path(training_args.output_dir, MISTAKES_FILE).unlink(missing_ok=True)
        write_run(arguments, record, evaluations, robustness)
        # 9.
        if plan.repository is not None:
            print(f"Pushed: {push_folder(training_args.output_dir, plan.repository)}")


def train(experiment: Experiment, arguments: RunArguments, repository: Repository | None) -> GenreTrainer:
    """Train from the start or from a checkpoint, and return the trainer that did; it evaluates what it has trained.

    Afterwards the experiment's model has the best weights, saved.
    """
    training_args, trainer = arguments.training, experiment.trainer
    output_dir, resume = training_args.output_dir, training_args.resume_from_checkpoint
    learning = choose_trainer(trainer, experiment.corpus.train, experiment.lengths.window_samples, arguments.data)
    options = describe_options(arguments)
    learning.add_callback(KeepOptions(options))
    if repository is not None:
        learning.add_callback(HubCheckpoints(repository, training_args.hub_strategy))
    if resume == "hub":
        with training_args.main_process_first(desc="downloading the checkpoint"):
            resume = fetch_checkpoint(repository, output_dir) if repository else "auto"
    # No process may look for checkpoints while another removes them.
    with training_args.main_process_first(local=False, desc="finding the checkpoint"):
        checkpoint = find_checkpoint(output_dir, resume, overwrite=training_args.overwrite)
    if checkpoint is not None:
        check_options(checkpoint, options)
        check_features(checkpoint, trainer.processing_class)
        check_data(checkpoint, experiment.corpus.record)
    learning.train(resume_from_checkpoint=checkpoint)
    expect_end(training_args, learning.state)
    trainer.state = learning.state
    trainer.save_model()
    merge_adapters(trainer.model)  # what is evaluated is what was saved, to the last bit
    trainer.save_state()
    if trainer.is_world_process_zero():
        write_options(output_dir, options)
    return learning


def expect_end(training_args: ClassificationTrainingArguments, state: TrainerState) -> None:
    """Raise UserError if a training was cut off, as a callback may do, before there was nothing left to train."""
    if not has_ended(training_args, state):
        raise UserError(
            f"the training was cut off at step {state.global_step} of {state.max_steps}, so it has no results. "
            "Continue it from its last checkpoint: the same command with --resume_from_checkpoint auto"
        )


def evaluate(
    experiment: Experiment, trainer: GenreTrainer, training_args: ClassificationTrainingArguments
) -> list[EvaluatedSet]:
    """Return what is found on every set, where that is asked for.

    After a training, `trainer` and the experiment's own get the temperature that fits the validation tracks, and so
    does the saved checkpoint.
    """
    names = list(experiment.windows) if training_args.do_eval else ["validation"] if training_args.do_train else []
    found = {name: trainer.evaluate_set(experiment.windows[name], name) for name in names}
    if training_args.do_train:
        temperature = find_temperature(found["validation"], experiment.corpus.facts)
        trainer.temperature = experiment.trainer.temperature = temperature
        if temperature is not None and trainer.is_world_process_zero():
            write_temperature(training_args.output_dir, temperature)
        trainer.accelerator.wait_for_everyone()  # a later stage reads the checkpoint
        found = {name: each.at_temperature(temperature, trainer.genres) for name, each in found.items()}
    return list(found.values()) if training_args.do_eval else []


def find_temperature(validation: EvaluatedSet, facts: Mapping[str, Any]) -> float | None:
    """Return the temperature that fits the validation tracks, or None, with the reason logged, where none can be told.

    `facts` are those of the data, as in results.json.
    """
    num_tracks = len(validation.labels)
    if num_known := facts.get("seen_tracks", {}).get("validation", {}).get("trained on"):
        logger.warning("No temperature is fitted: the weights were trained on %d of the validation tracks.", num_known)
        return None
    temperature = fit_temperature(validation.logits, validation.track_index, validation.labels)
    if temperature is None:
        logger.warning(
            "No temperature fits the %d validation tracks: the log-loss falls to the end of what was tried, %g to %g, "
            "as where all of them are right. Probabilities stay as the model gives them.",
            num_tracks,
            LOWEST_TEMPERATURE,
            HIGHEST_TEMPERATURE,
        )
    else:
        logger.info("Temperature %g, fitted to the %d validation tracks", temperature, num_tracks)
    return temperature


def write_run(
    arguments: RunArguments,
    record: RunRecord,
    evaluations: Sequence[EvaluatedSet],
    robustness: RobustnessReport | None,
) -> None:
    """Write results.json, predictions, pictures, TensorBoard summary, configuration and card; print the scores."""
    output_dir, do_train = Path(arguments.training.output_dir), arguments.training.do_train
    results = write_results(output_dir, record, evaluations, robustness=robustness, complete=False)
    if evaluations:
        print(format_scores(evaluations))
        print("", *tell_thresholds(results["confidence"]), sep="\n")
    warn_near_chance(evaluations)
    write_config(output_dir / CONFIG_FILE, record.config)
    pictures = write_confusions(output_dir, record, evaluations)
    write_tensorboard_summary(output_dir, evaluations, pictures, record.config)
    if do_train:
        shown = robustness and robustness.describe()
        write_model_card(output_dir, results, command=launch_command(), robustness=shown)
    if robustness is not None:
        robustness.write(output_dir, results, page=not do_train, command=launch_command())
        print(f"\n{robustness.format_table()}")
    write_results(output_dir, record, evaluations, robustness=robustness)
    scored = ", predictions, confusion matrices" if evaluations else ""
    print(f"\nEverything is in {output_dir}: results.json{scored}, TensorBoard events.")
