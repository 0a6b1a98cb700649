"""One run of augment_dataset.py: what to copy and how, this machine's share of the copies, the card and the push."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from hf_utils.arguments.augmentation import AugmentationArguments
from hf_utils.augmentation.augmented_card import describe_augmented
from hf_utils.augmentation.copies import Copy, CopyPlan, write_shards
from hf_utils.augmentation.corruptions import Corruption, build_corruptions
from hf_utils.augmentation.pipeline import PIPELINE_VERSION, TRANSFORM_PACKAGES, build_augmentation
from hf_utils.augmentation.preview import format_previews, write_preview
from hf_utils.data.bad_audio import drop_problems
from hf_utils.data.corpus import load_split_clips
from hf_utils.data.shards import Shards, open_shards
from hf_utils.data.splits import describe_splits, read_protocol, select_split
from hf_utils.data.track_files import TrackFiles
from hf_utils.data.waveforms import check_clips
from hf_utils.disclosure import show_source
from hf_utils.hub.repository import Repository, open_dataset_repository, push_folder
from hf_utils.versions import installed_versions

DEFAULT_SEED = 42
# What changes bytes.
_PACKAGES = sorted({*TRANSFORM_PACKAGES, "av", "pyarrow", "soundfile", "soxr"})

logger = logging.getLogger(__name__)


def preview_copies(args: AugmentationArguments) -> None:
    """Write a few clips before and after, and print where."""
    folder = Path(f"{args.output_dir}-preview")
    print(format_previews(write_preview(plan_copies(args), folder, args.preview), folder))


def write_copies(args: AugmentationArguments) -> None:
    """Write this machine's share of the dataset; if it is whole then, finish it and push it if asked to."""
    plan = plan_copies(args)
    config = describe_config(args, plan)
    shards = open_shards(args.output_dir, config, plan.shards_per_split)
    if shards.missing():
        check_clips_and_transforms(args, plan)
    repository = open_dataset_repository(args)
    name = repository.name if repository else show_source(str(shards.folder))
    if shards.finished or make_copies(args, plan, shards, config, name):
        publish_copies(shards, repository)


def read_copies(args: AugmentationArguments) -> list[Copy]:
    """Return the ways of copying that the augmentation file and the options ask for. Raises UserError for mistakes."""
    originals = [Copy(None)] if args.include_original else []
    if args.has_kinds:
        corruptions = build_corruptions(args.content, args.augmentation, args.noise_folder)
        return [*originals, *(Copy(corruption.name, corruption) for corruption in corruptions)]
    augmentation = build_augmentation(args.content, args.augmentation, args.noise_folder)
    seed = DEFAULT_SEED if args.seed is None else args.seed
    name = Path(args.augmentation).stem
    return [*originals, *(Copy(name, augmentation, seed, number) for number in range(args.copies))]


def plan_copies(args: AugmentationArguments) -> CopyPlan:
    """Return the plan of the new dataset. Raises UserError for mistakes in its files, or a split without clips."""
    copies = read_copies(args)
    clips = load_split_clips(args, args.hub_token)
    logger.info("%s", describe_splits(clips))
    for split in args.splits:
        select_split(clips, split)
    return CopyPlan(clips, args.splits, copies, shard_size=args.shard_size, sampling_rate=args.sampling_rate)


def check_clips_and_transforms(args: AugmentationArguments, plan: CopyPlan) -> None:
    """List everything that is remarkable about the clips, and try the transforms at their sampling rates.

    Raises:
        UserError: clips cannot be used, or a transform cannot work, so that nothing long is started for it.
    """
    clips = plan.list_clips()
    drop_problems(check_clips(clips, num_proc=args.num_proc), "error")
    rates = {args.sampling_rate} if args.sampling_rate else TrackFiles(clips).sampling_rates
    for copy in plan.copies:
        if copy.transform is not None:
            for rate in sorted(rates):
                copy.transform.try_out(rate)


def describe_config(args: AugmentationArguments, plan: CopyPlan) -> dict[str, Any]:
    """Return everything that the clips depend on, and nothing that they do not, for config.json and the card."""
    chosen = plan.list_clips()
    tracks = zip(chosen["track_id"], chosen["label"], chosen["split"], TrackFiles(chosen).digests, strict=True)
    tracks = sorted(tracks)
    seeds = {copy.seed for copy in plan.copies} - {None}
    return {
        "dataset": show_source(args.dataset_name),
        "dataset_config_name": args.dataset_config_name,
        "dataset_revision": args.dataset_revision,
        "protocol": read_protocol(plan.clips),
        "splits": args.splits,
        "clips": len(chosen),
        "columns": list(plan.features),
        "tracks_sha256": hashlib.sha256(json.dumps(tracks).encode()).hexdigest(),
        "augmentation": Path(args.augmentation).stem,
        "copies": args.copies,
        "include_original": args.include_original,
        "sampling_rate": args.sampling_rate,
        "seed": seeds.pop() if seeds else None,
        "shard_size": args.shard_size,
        **_describe_transforms(plan.copies),
        "versions": {"hf_utils.augmentation": str(PIPELINE_VERSION), **installed_versions(_PACKAGES)},
    }


def _describe_transforms(copies: list[Copy]) -> dict[str, Any]:
    """Return `transforms`, and `recordings` where there are any; of corruptions, `kinds` with those of each.

    Of a benchmark with a name, `benchmark` is its name and version.
    """
    chains = {copy.name: copy.transform for copy in copies if copy.name}
    if all(isinstance(chain, Corruption) for chain in chains.values()):
        kinds = {name: chain.augmentation.config for name, chain in chains.items()}
        (benchmark,) = {chain.benchmark for chain in chains.values()}
        return {"kinds": kinds, **({"benchmark": benchmark} if benchmark else {})}
    return next(iter(chains.values())).config


def make_copies(
    args: AugmentationArguments, plan: CopyPlan, shards: Shards, config: dict[str, Any], name: str
) -> bool:
    """Make this machine's share of the missing shards; return whether all are there, and the card is written.

    `name` is what the card tells `load_dataset` to take.
    """
    total = len(shards.paths)
    if there := total - len(shards.missing()):
        logger.info("%d of %d shards are there already.", there, total)
    mine = shards.missing(args.shard_index, args.num_shards)
    write_shards(plan, shards, mine, num_proc=args.num_proc)
    if missing := shards.missing():
        print(
            f"{len(missing)} of {total} shards are not there yet: other machines make them, and the last one finishes "
            "the folder. Without --num_shards this command makes them all."
        )
        return False
    description = args.content.get("description")
    shards.finish(describe_augmented(plan, shards, config, args.source_options(), description, name))
    return True


def publish_copies(shards: Shards, repository: Repository | None) -> None:
    """Say where the finished dataset is, and push it if asked to."""
    megabytes = sum(path.stat().st_size for path in shards.paths) / 1e6
    print(f"Finished: {shards.folder}, {megabytes:.0f} MB; how to use it: {shards.folder / 'README.md'}")
    if repository is not None:
        print(f"Pushed: {push_folder(shards.folder, repository)}")
