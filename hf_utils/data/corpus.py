"""Everything a run trains and evaluates on: which clips, in which split, decoded once, checked for leaks."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import datasets

from hf_utils.arguments.data import SPLITS, DataArguments, SourceArguments
from hf_utils.config_files import read_config
from hf_utils.data.bad_audio import drop_problems, has_bad_header, leave_out_bad
from hf_utils.data.clips import genre_names, load_clips, read_column
from hf_utils.data.leaks import check_leaks
from hf_utils.data.mixing import REAL, filter_clips, mix_training, parse_mix
from hf_utils.data.split_record import SplitRecord
from hf_utils.data.splits import (
    assign_splits,
    find_lacking_genres,
    keep_genres,
    read_protocol,
    select_split,
    set_splits,
)
from hf_utils.data.waveforms import check_clips, decode_clips
from hf_utils.errors import UserError

logger = logging.getLogger(__name__)
_STUDIES = Path(__file__).parents[2] / "configs" / "study"


@dataclasses.dataclass
class Corpus:
    """Decoded clips of a run.

    Attributes:
        clips: the clip table of `--dataset_name`, with audio files and splits.
        genres: names in the order of the labels.
        train: the training mix; None in a run that only evaluates.
        evaluations: validation, test and the sets the user named, in this order.
        record: what the weights know after training; None in a run that only evaluates.
        facts: what results.json and the card say of the data.
    """

    clips: datasets.Dataset
    genres: list[str]
    train: datasets.Dataset | None
    evaluations: dict[str, datasets.Dataset]
    record: SplitRecord | None
    facts: dict


def load_split_clips(
    args: SourceArguments, token: str | None = None, past: SplitRecord | None = None
) -> datasets.Dataset:
    """Return the clip table of `--dataset_name` with every clip's split.

    Audio is read only under `--on_bad_audio skip`, which leaves bad files out before the split is drawn.

    Args:
        past: the record of the weights that are only evaluated: the genres are theirs.

    Raises:
        UserError: as `load_clips`, `keep_genres` and `assign_splits`; or the weights tell other genres apart.
    """
    clips = load_clips(
        args.dataset_name,
        config_name=args.dataset_config_name,
        revision=args.dataset_revision,
        audio_column=args.audio_column_name,
        label_column=args.label_column_name,
        genres=list(past.genres) if past and not args.genres else None,
        token=token,
    )
    if args.genres:
        clips = keep_genres(clips, args.genres)
        if past and set(genre_names(clips)) != set(past.genres):
            raise UserError(
                f"genres is {', '.join(args.genres)}, but {past.checkpoint} tells {', '.join(past.genres)} apart: "
                "leave the option out, or train on."
            )
    if args.on_bad_audio == "skip":
        clips = leave_out_bad(clips, cache_dir=args.waveform_cache_dir, num_proc=args.num_proc)
    return assign_splits(
        clips,
        args.split_protocol,
        seed=args.split_seed,
        num_folds=args.num_folds,
        fold=args.fold,
        group_segments=args.group_segments,
        only_evaluate=past is not None,
    )


def load_further_clips(
    args: DataArguments, genres: list[str], *, train: bool, token: str | None = None
) -> dict[str, datasets.Dataset]:
    """Return {source: its clip table} of the evaluation sets and, to train on, of the datasets of the mix.

    Raises:
        UserError: as `check_sources` and `load_clips`.
    """
    check_sources(args)
    made = [source for source, _ in _parse_sources(args)[1]] if train else []
    sources = dict.fromkeys([*parse_eval_datasets(args.eval_datasets).values(), *made])
    return {source: load_clips(source, genres=genres, token=token) for source in sources}


def check_headers(
    clips: datasets.Dataset, further: Mapping[str, datasets.Dataset], args: DataArguments, *, train: bool
) -> None:
    """Check what the headers of the files say, which is cheap, before a model is loaded for them.

    Raises:
        UserError: under `--on_bad_audio error`, where there is a file that no decoder opens: all bad files are listed.
    """
    tables = [_select_splits(clips, SPLITS if train else ("validation", "test"))]
    tables += [] if args.train_filter else further.values()  # what is filtered out may be bad
    for table in tables:
        if args.on_bad_audio == "error" and has_bad_header(table):
            checked = check_clips(table, cache_dir=args.waveform_cache_dir, num_proc=args.num_proc)
            drop_problems(checked, args.on_bad_audio)


def decode_corpus(
    clips: datasets.Dataset,
    args: DataArguments,
    sample_rate: int,
    *,
    train: bool,
    seed: int,
    further: Mapping[str, datasets.Dataset] | None = None,
    past: SplitRecord | None = None,
) -> Corpus:
    """Decode the splits, mix the training data, add the user's evaluation sets, and stop if anything leaks.

    Where nothing is trained, tracks that the weights were trained or tested with keep their side of that split.

    Args:
        clips: from `load_split_clips`.
        sample_rate: of the model, in Hz.
        train: whether the training split is needed.
        seed: of the fractions drawn from further training datasets.
        further: from `load_further_clips`; by default loaded here.
        past: what the weights know, if they are a run's.

    Raises:
        UserError: bad audio under `--on_bad_audio error`, a leak, an empty split, a misspelt set; tracks to evaluate
            on that the weights were trained on, unless `--allow_seen_tracks` permits them.
    """
    genres = genre_names(clips)

    def decode(source: datasets.Dataset) -> datasets.Dataset:
        return decode_clips(source, sample_rate, cache_dir=args.waveform_cache_dir, num_proc=args.num_proc)

    def decode_good(source: datasets.Dataset) -> datasets.Dataset:
        return drop_problems(decode(source), args.on_bad_audio)

    if further is None:
        further = load_further_clips(args, genres, train=train)
    # Further sets are compared with the training tracks by sound, which needs those decoded.
    wanted = SPLITS if train or args.eval_datasets else ("validation", "test")
    if past is not None and not train:
        clips, tracks = _follow(past, clips, wanted, args, decode)
    else:
        tracks = decode(_select_splits(clips, wanted))
    tracks = drop_problems(tracks, args.on_bad_audio)
    splits = {name: select_split(tracks, name) for name in wanted}
    named = {name: decode_good(further[source]) for name, source in parse_eval_datasets(args.eval_datasets).items()}
    evaluations = {"validation": splits["validation"], "test": splits["test"], **named}
    facts = {
        "dataset": args.dataset_name,
        "splits": {name: _counts(evaluations[name]) for name in ("validation", "test")},
        "lacking_genres": find_lacking_genres(tracks),
        "evaluation_sets": {name: _counts(clips) for name, clips in named.items()},
    }
    if past is not None:
        _warn_of_unknown_copies(named, clips, args.dataset_name, past)
        facts["seen_tracks"] = past.check_seen(evaluations, allow=args.allow_seen_tracks)
    if not train:
        if past is None:
            known = splits["train"] if "train" in splits else select_split(clips, "train").remove_columns("audio")
        else:
            known = past.select_trained(tracks)
        sides = {} if args.allow_seen_tracks or not len(known) else {"train": known}
        check_leaks({**sides, **evaluations}, args.group_segments)
        return Corpus(clips, genres, None, evaluations, None, facts)
    mix, facts["train_mix"] = _mix(splits["train"], args, further, decode_good, seed)
    facts["splits"]["train"] = _counts(mix)
    check_leaks({"train": mix, **evaluations}, args.group_segments)
    record = SplitRecord.of_run(read_protocol(clips), splits, mix, past)
    facts["split_digests"] = record.summarize()
    return Corpus(clips, genres, mix, evaluations, record, facts)


def _select_splits(clips: datasets.Dataset, names: Sequence[str]) -> datasets.Dataset:
    return clips.select([row for row, split in enumerate(clips["split"][:]) if split in names])


def _follow(
    past: SplitRecord,
    clips: datasets.Dataset,
    wanted: Sequence[str],
    args: DataArguments,
    decode: Callable[[datasets.Dataset], datasets.Dataset],
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Return clips and their decoded `wanted` splits; by the split of the weights, if it is their music.

    Raises:
        UserError: they are, but another split is asked for.
    """
    chosen = _select_splits(clips, wanted)
    if len(chosen) and past.holds_out(tracks := decode(chosen)):
        return clips, tracks
    everything = decode(clips)
    sides = past.assign(everything)
    if sides is None:
        return clips, _select_splits(everything, wanted)
    if asked := _list_asked(args, past.protocol):
        if args.allow_seen_tracks:
            return clips, _select_splits(everything, wanted)
        raise UserError(
            f"{args.dataset_name} is the music that {past.checkpoint} was trained with, but {', '.join(asked)} would "
            f"split it otherwise and test training tracks: leave that out for its split ({past.describe_split()}), or "
            "give --allow_seen_tracks if you mean it."
        )
    logger.warning(
        "%s is the music that %s was trained with: its split is taken over (%s), with %d of its %d test tracks.%s",
        *(args.dataset_name, past.checkpoint, past.describe_split(), sides.count("test"), len(past.splits["test"])),
        f" {sides.count(None)} tracks that it did not use are left out." if None in sides else "",
    )
    clips, everything = (set_splits(table, sides, past.protocol) for table in (clips, everything))
    return clips, _select_splits(everything, wanted)


def _warn_of_unknown_copies(
    named: Mapping[str, datasets.Dataset], clips: datasets.Dataset, source: str, past: SplitRecord
) -> None:
    """Log the sets with copies of tracks that are not at hand, and whose digests they lack: copies sound otherwise."""
    known = set(clips["track_id"][:])
    for name, copies in named.items():
        parents = zip(copies["parent_id"][:], read_column(copies, "parent_sha256"), strict=True)
        unknown = sum(parent is not None and parent not in known and digest is None for parent, digest in parents)
        if unknown:
            logger.warning(
                "%s: %d of %d tracks are copies of tracks that %s does not have, so whether %s was trained on those "
                "cannot be told. Give the music that they were made from by --dataset_name.",
                *(name, unknown, len(copies), source, past.checkpoint),
            )


def _list_asked(args: DataArguments, protocol: Mapping) -> list[str]:
    """Return the options of the split that were given and are not those of `protocol`."""
    found = {
        "split_protocol": protocol["name"],
        "split_seed": protocol["seed"],
        "num_folds": protocol["num_folds"],
        "fold": protocol["fold"],
    }
    defaults = {field.name: field.default for field in dataclasses.fields(args)}
    return [name for name, value in found.items() if getattr(args, name) not in (defaults[name], value)]


def _mix(real: datasets.Dataset, args: DataArguments, further: Mapping[str, datasets.Dataset], decode, seed: int):
    """Return the training mix of `--train_datasets` and its facts; the clips of a source count as they were loaded."""
    fraction_real, made = _parse_sources(args)
    extras, counts = [], {}
    for source, fraction in made:
        clips = further[source]
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
    """Raise UserError for a misspelt or missing source of training or evaluation, so that nothing long is started."""
    made = [("train_datasets", source) for source, _ in _parse_sources(args)[1]]
    sets = [("eval_datasets", source) for source in parse_eval_datasets(args.eval_datasets).values()]
    for option, source in (*made, *sets):
        path = Path(source).expanduser()
        # A name that is no folder here may be one on the Hub, unless it lies in a folder that is here.
        if path.exists():
            continue
        if command := _find_command(source):
            raise UserError(f"{option}: {source} is not there yet. This makes it: {command}")
        if path.parent != Path() and path.parent.is_dir():
            raise UserError(
                f"{option}: {source} is not there (looked in {path.parent.absolute()}). Correct the name, or make it "
                "first: augment_dataset.py writes noisy or corrupted copies, and generate_music.py generated clips, "
                "into their --output_dir."
            )


def _find_command(source: str) -> str | None:
    """Return the command that the shipped studies have for making a dataset of this name."""
    for file in sorted(_STUDIES.glob("*.yaml")):
        for part in read_config(file).get("prepare") or []:
            if Path(part["folder"]) == Path(source):
                return " ".join(part["command"].split())
    return None


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
