"""One run of generate_music.py: this process's share of the clips, their scores, the card, the report and the push."""

import functools
import logging
from collections.abc import Mapping, Sequence

import torch
import transformers
from accelerate import PartialState

from hf_utils.arguments.generation import GenerationArguments
from hf_utils.data.shards import Shards, open_shards
from hf_utils.generation.continuation import load_training_clips
from hf_utils.generation.generators import load_generator
from hf_utils.generation.plan import (
    ENVIRONMENT,
    Recipe,
    describe_cost,
    folder_config,
    library_versions,
    name_scorers,
    real_clips,
)
from hf_utils.generation.scoring import Scorer, add_scores, check_scores, find_unscored
from hf_utils.generation.synthesis import BatchMaker, replace_duplicates, write_batches, write_card
from hf_utils.hub.repository import Repository, push_folder
from hf_utils.launch import expect_processes, setup_logging

logger = logging.getLogger(__name__)


def start_process() -> PartialState:
    """Return this process's place among all of them, with logging set up for it."""
    # With `cpu` unset, every process of torchrun on a machine without a GPU believes it is alone.
    state = PartialState(cpu=not torch.cuda.is_available())
    setup_logging(state.is_main_process)
    expect_processes(state.num_processes)
    if not state.is_main_process:
        transformers.logging.disable_progress_bar()
    return state


def open_dataset(args: GenerationArguments, recipe: Recipe, device: torch.device) -> Shards:
    """Return the shards of the output folder, new or begun.

    Raises:
        UserError: it was begun with other options or scored by other models, or `--report` names no audio model.
    """
    if args.report is not None:
        from hf_utils.generation.quality_report import check_embedder  # takes seconds, and most runs compare nothing

        check_embedder(args.report)
    config = folder_config(recipe, args, device)
    shards = open_shards(args.output_dir, config, {"train": recipe.num_batches}, ENVIRONMENT)
    check_scores(shards, name_scorers(args), overwrite=args.overwrite_scores)
    return shards


def make_dataset(
    args: GenerationArguments, recipe: Recipe, shards: Shards, state: PartialState, name: str | None
) -> bool:
    """Make this process's share of the clips, and score them once all are there; return whether it is to publish them.

    Nobody waits for anybody: a share follows from the numbers of the batches, and whoever sees all of them there
    finishes. Two that do so at the same moment write the same.

    Args:
        name: what the card tells `load_dataset` to take; None for the folder.

    Raises:
        BatchError: batches failed. All others are written.
    """
    part = args.shard_index * state.num_processes + state.process_index
    num_parts = args.num_shards * state.num_processes
    # Of processes that all find the clips there, one is enough.
    is_last = state.is_main_process or bool(shards.missing())
    wanted = name_scorers(args)
    # Before the clips, so that a mistake in their options does not show hours later.
    scorers = load_scorers(args, recipe, find_unscored(shards, wanted), state.device)
    if not shards.finished and not make_clips(args, recipe, shards, shards.missing(part, num_parts), state):
        return False
    add_scores(shards, recipe, scorers, wanted, part=part, num_parts=num_parts, show_progress=is_last)
    if not shards.finished:
        write_card(shards, recipe, real_clips(args, recipe), name)
    return is_last


def make_clips(
    args: GenerationArguments, recipe: Recipe, shards: Shards, batches: Sequence[int], state: PartialState
) -> bool:
    """Make `batches`, and what repeats if all others are there; return whether they are. Raises BatchError."""

    @functools.cache
    def load_maker() -> BatchMaker:
        generator = load_generator(recipe.checkpoint, recipe.sampling, recipe.dtype, state.device)
        return BatchMaker(recipe, generator, library_versions(recipe))

    logger.info("%s", describe_cost(recipe))
    if there := recipe.num_batches - len(shards.missing()):
        logger.info("%d of %d batches are there already.", there, recipe.num_batches)
    if batches:
        write_batches(shards, recipe, load_maker(), batches, show_progress=state.is_main_process)
    if missing := shards.missing():
        logger.info(
            "%d batches are not there yet: other processes make them, and the last one finishes.", len(missing)
        )
        return False
    if replaced := replace_duplicates(shards, recipe, load_maker):
        print(f"{replaced} clips repeated one of another batch and were made again.")
    return True


def load_scorers(
    args: GenerationArguments, recipe: Recipe, unscored: Mapping[int, Mapping[str, str]], device: torch.device
) -> dict[str, Scorer]:
    """Return what scores clips, by the columns that name the models; nothing is loaded that no clip needs."""
    needed, scorers = set().union(*unscored.values()), {}
    if needed:
        # Classifiers and their metrics take seconds to import, and most runs score nothing.
        from hf_utils.generation.scorers import ClapEmbedder, ClapScorer, ClassifierScorer
    if "clap_model" in needed:
        spoken = [recipe.prompts[genre].spoken for genre in recipe.genres]
        scorers["clap_model"] = ClapScorer(ClapEmbedder(args.clap_model, None, device), recipe.genres, spoken)
    if "classifier_model" in needed:
        scorers["classifier_model"] = ClassifierScorer(args.score_with, recipe.genres, device)
    return scorers


def publish(
    args: GenerationArguments, recipe: Recipe, shards: Shards, device: torch.device, repository: Repository | None
) -> None:
    """Say where a finished dataset is, compare it with real clips and push it, as far as asked for."""
    print(f"Finished: {shards.folder}; how to use it: {shards.folder / 'README.md'}")
    if args.report is not None:
        from hf_utils.generation.quality_report import write_quality_report  # as above

        real = load_training_clips(args, recipe.sample_rate)
        rate, seed = recipe.sample_rate, args.seed
        print(
            write_quality_report(shards.folder, recipe.genres, real, args.report, device, sample_rate=rate, seed=seed)
        )
    if repository is not None:
        print(f"Pushed: {push_folder(shards.folder, repository)}")
