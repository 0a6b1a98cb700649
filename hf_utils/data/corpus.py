"""Everything a run trains and evaluates on: which clips, in which split, decoded once, checked for leaks."""

import dataclasses
import logging
from collections import Counter

import datasets

from hf_utils.arguments.data import DataArguments
from hf_utils.data.bad_audio import drop_problems, leave_out_bad
from hf_utils.data.clips import genre_names, load_clips
from hf_utils.data.demo_data import is_demo
from hf_utils.data.leaks import check_leaks
from hf_utils.data.mixing import REAL, filter_clips, mix_training, parse_mix
from hf_utils.data.splits import assign_splits, keep_genres, select_split
from hf_utils.data.waveforms import decode_clips
from hf_utils.errors import UserError

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Corpus:
    """Decoded clips of a run.

    Attributes:
        genres: names in the order of the labels.
        train: the training mix; None in a run that only evaluates.
        evaluations: validation, test and the sets the user named, in this order.
        facts: what results.json and the card say of the data.
    """

    genres: list[str]
    train: datasets.Dataset | None
    evaluations: dict[str, datasets.Dataset]
    facts: dict


def load_split_clips(args: DataArguments, token: str | None = None) -> datasets.Dataset:
    """Return the clip table of `--dataset_name` with every clip's split.

    Audio is read only under `--on_bad_audio skip`, which leaves bad files out before the split is drawn.
    """
    clips = load_clips(
        args.dataset_name,
        config_name=args.dataset_config_name,
        revision=args.dataset_revision,
        audio_column=args.audio_column_name,
        label_column=args.label_column_name,
        token=token,
    )
    if args.genres:
        clips = keep_genres(clips, args.genres)
    if args.on_bad_audio == "skip":
        clips = leave_out_bad(clips, cache_dir=args.waveform_cache_dir, num_proc=args.num_proc)
    return assign_splits(
        clips,
        args.split_protocol,
        seed=args.split_seed,
        num_folds=args.num_folds,
        fold=args.fold,
        group_segments=args.group_segments,
    )


def decode_corpus(
    clips: datasets.Dataset, args: DataArguments, sample_rate: int, *, train: bool, seed: int, token: str | None = None
) -> Corpus:
    """Decode the splits, mix the training data, add the user's evaluation sets, and stop if anything leaks.

    Args:
        clips: from `load_split_clips`.
        sample_rate: of the model, in Hz.
        train: whether the training split is needed.
        seed: of the fractions drawn from further training datasets.

    Raises:
        UserError: bad audio under `--on_bad_audio error`, a leak, an empty split, a misspelt set.
    """
    genres = genre_names(clips)

    def decode(source: datasets.Dataset) -> datasets.Dataset:
        decoded = decode_clips(source, sample_rate, cache_dir=args.waveform_cache_dir, num_proc=args.num_proc)
        return drop_problems(decoded, args.on_bad_audio)

    def load(source: str) -> datasets.Dataset:
        return load_clips(source, genres=genres, token=token)

    wanted = {"train", "validation", "test"} if train else {"validation", "test"}
    tracks = decode(clips.select([row for row, split in enumerate(clips["split"]) if split in wanted]))
    splits = {name: select_split(tracks, name) for name in ("validation", "test")}
    named = {name: decode(load(source)) for name, source in parse_eval_datasets(args.eval_datasets).items()}
    facts = {
        "dataset": args.dataset_name,
        "demo": is_demo(args.dataset_name),
        "splits": {name: _counts(split) for name, split in splits.items()},
        "evaluation_sets": {name: _counts(split) for name, split in named.items()},
    }
    mix = None
    if train:
        mix, facts["train_mix"] = _mix(select_split(tracks, "train"), args, load, decode, seed)
        facts["splits"]["train"] = _counts(mix)
    known_train = select_split(clips, "train").remove_columns("audio") if mix is None else mix
    check_leaks({"train": known_train, **splits, **named}, args.group_segments)
    return Corpus(genres, mix, {**splits, **named}, facts)


def _mix(real: datasets.Dataset, args: DataArguments, load, decode, seed: int):
    """Return the training mix of `--train_datasets` and its facts; the clips of a source count as they were loaded."""
    fraction_real, made = _parse_sources(args)
    extras, counts = [], {}
    for source, fraction in made:
        clips = load(source)
        kept = filter_clips(clips, args.train_filter, source) if args.train_filter else clips
        decoded = decode(kept)
        extras.append((source, decoded, fraction))
        counts[source] = {
            "of": len(clips),
            "filtered_out": len(clips) - len(kept),
            "bad_audio": len(kept) - len(decoded),
        }
    mix, facts = mix_training(real, extras, real_fraction=fraction_real, seed=seed)
    for source, counted in counts.items():
        facts["sources"][source] |= counted
    return mix, facts


def check_sources(args: DataArguments) -> None:
    """Raise UserError for a misspelt training mix or evaluation set, so that nothing long is started for it."""
    _parse_sources(args)
    parse_eval_datasets(args.eval_datasets)


def _parse_sources(args: DataArguments) -> tuple[float, list[tuple[str, float]]]:
    """Return the fraction of the real training split, 0 for none, and (source, fraction) of the other datasets."""
    mix = parse_mix(args.train_datasets)
    real = [fraction for source, fraction in mix if source in (REAL, args.dataset_name)]
    made = [(source, fraction) for source, fraction in mix if source not in (REAL, args.dataset_name)]
    if len(real) > 1:
        raise UserError(f"train_datasets names {REAL} and {args.dataset_name}, which are the same clips: name one.")
    if args.train_filter and not made:
        raise UserError("train_filter chooses among made clips, but train_datasets names only the real ones.")
    return sum(real), made


def _counts(clips: datasets.Dataset) -> dict:
    return {"tracks": len(clips), "origins": dict(Counter(clips["origin"]))}


def parse_eval_datasets(items: list[str] | None) -> dict[str, str]:
    """Return {name: source} of `--eval_datasets name=source ...`. Raises UserError for anything else."""
    sets = {}
    for item in items or []:
        name, equals, source = item.partition("=")
        if not equals or not name or not source:
            raise UserError(f"--eval_datasets takes name=path, found {item!r}; for example: noisy=data/gtzan-c")
        if name in sets or name in ("train", "validation", "test") or not name.replace("-", "_").isidentifier():
            raise UserError(
                f"--eval_datasets: {name!r} cannot name a set; choose letters, digits, - and _, once each, and "
                "neither train, validation nor test."
            )
        sets[name] = source
    return sets
