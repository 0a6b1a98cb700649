"""Several checkpoints as one model: the mean of their probabilities for each track, or file. N tracks, K genres.

Every member keeps its own features, sampling rate and windows, so they may be of any families. One is in memory at a
time.
"""

import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.errors import UserError
from hf_utils.files import ORIGIN_FILE, file_stem
from hf_utils.models.families import is_multi_label
from hf_utils.models.loading import own_genres
from hf_utils.training.classifier import load_config
from hf_utils.training.past_runs import adopt_data_options
from hf_utils.training.prediction import say_what_was_tagged, tag_files, write_origin
from hf_utils.training.prediction_journal import JOURNAL_FILE, PredictionJournal
from hf_utils.training.prediction_table import (
    PREDICTIONS_FILE,
    PredictionTable,
    check_unknown,
    format_row,
    read_probabilities,
)

if TYPE_CHECKING:
    from hf_utils.results.run_results import EvaluatedSet, RunRecord

logger = logging.getLogger(__name__)

MEMBERS_FOLDER = "members"


def run_ensemble(arguments: RunArguments) -> int:
    """Evaluate or tag files by all checkpoints together; return the exit code of the script.

    Raises:
        UserError: they differ in genres or tested tracks, or something is asked that only one model can do.
    """
    members = [adopt_data_options(member) for member in _list_members(arguments)]
    if arguments.training.do_eval:
        evaluate_ensemble(arguments, members)
    if arguments.training.do_predict and arguments.training.process_index == 0:
        return predict_ensemble(arguments, members)
    return 0


def _list_members(arguments: RunArguments) -> list[RunArguments]:
    """Return the arguments of every member by itself."""
    for name, is_given in (
        ("do_train", arguments.training.do_train),
        ("corruptions", arguments.data.corruptions is not None),
        ("per_window", arguments.training.per_window),
        ("model_revision", arguments.model.model_revision is not None),
        ("push_to_hub", arguments.training.push_to_hub),
        ("mistakes", bool(arguments.training.mistakes)),
    ):
        if is_given:
            advice = "say --do_eval or --do_predict" if name == "do_train" else "leave it out"
            raise UserError(f"{name} works with one checkpoint: {advice}, or leave --ensemble_with out")
    names = [arguments.model.model_name_or_path, *arguments.model.ensemble_with]
    if len({os.path.realpath(name) if os.path.isdir(name) else name for name in names}) < len(names):
        raise UserError(f"ensemble_with: a checkpoint is there twice, and would count twice: {', '.join(names)}")
    models = [dataclasses.replace(arguments.model, model_name_or_path=name, ensemble_with=[]) for name in names]
    members = [dataclasses.replace(arguments, model=model) for model in models]
    first, *others = configs = [load_config(member) for member in members]
    for name, config in zip(names[1:], others, strict=True):
        if set(own_genres(config)) != set(own_genres(first)):
            raise UserError(
                f"{name} tells {', '.join(own_genres(config))} apart, expected the genres of {names[0]}: "
                f"{', '.join(own_genres(first))}"
            )
        if is_multi_label(config) != is_multi_label(first):
            raise UserError(f"one of {names[0]} and {name} is a tagger: its probabilities are no shares of one genre")
    check_unknown(arguments.training.unknown_below, own_genres(first))
    logger.info("An ensemble of %d checkpoints: the mean of their probabilities.", len(configs))
    return members


def evaluate_ensemble(arguments: RunArguments, members: Sequence[RunArguments]) -> None:
    """Write results.json, predictions and pictures as of one model.

    Raises:
        UserError: the members' sets hold other tracks.
    """
    # Here, because a prediction does not need what they import.
    from hf_utils.training.run import write_run

    # The music and the split are those of the members' runs; windows are each one's own.
    config, found = arguments.config() | members[0].data.source_options(), []
    for member in members:
        logger.info("Member %s", member.model.model_name_or_path)
        found.append(_evaluate_member(member, config))
    names, records = [member.model.model_name_or_path for member in members], [one.record for one in found]
    for name, one in zip(names[1:], found[1:], strict=True):
        _expect_same_tracks(name, one, names[0], found[0])
    genres = records[0].genres
    ordered = [[reorder_genres(found_set, one.record.genres, genres) for found_set in one.sets] for one in found]
    evaluations = [average_sets(sets, genres) for sets in zip(*ordered, strict=True)]
    if arguments.training.process_index == 0:
        write_run(arguments, _join_records(records), evaluations, None)


@dataclasses.dataclass(frozen=True)
class _EvaluatedMember:
    """What a member found by itself. `recordings` has, for each set, the digests of the samples of its tracks."""

    record: "RunRecord"
    sets: "list[EvaluatedSet]"
    recordings: list[list[str]]


def _evaluate_member(member: RunArguments, config: dict[str, Any]) -> _EvaluatedMember:
    from hf_utils.training.experiment import prepare_experiment

    experiment, started = prepare_experiment(member), time.time()
    sets = [experiment.trainer.evaluate_set(windows, name) for name, windows in experiment.windows.items()]
    recordings = [experiment.corpus.evaluations[name]["sha256"][:] for name in experiment.windows]
    seconds = {"data": experiment.seconds, "training": 0.0, "evaluation": time.time() - started}
    return _EvaluatedMember(experiment.describe(member, config, seconds, None), sets, recordings)


def _expect_same_tracks(name: str, one: _EvaluatedMember, first_name: str, first: _EvaluatedMember) -> None:
    """Raise UserError if a member heard other tracks, or tracks of other genres, than the first."""
    for found, recordings, expected, expected_recordings in zip(
        one.sets, one.recordings, first.sets, first.recordings, strict=True
    ):
        right = [first.record.genres[label] for label in expected.labels]
        if found.track_ids != expected.track_ids or recordings != expected_recordings:
            difference = "holds other tracks than"
        elif [one.record.genres[label] for label in found.labels] != right:
            difference = "has other genres for the tracks than"
        else:
            continue
        raise UserError(
            f"{expected.name} of {name} {difference} that of {first_name}: an ensemble needs members of one split of "
            "one dataset. Leave the member out."
        )


def reorder_genres(found: "EvaluatedSet", genres: Sequence[str], wanted: Sequence[str]) -> "EvaluatedSet":
    """Return a set whose labels and outputs, of `genres`, are in the order `wanted` of the same genres."""
    order = np.array([genres.index(genre) for genre in wanted])
    return dataclasses.replace(
        found,
        labels=np.argsort(order)[found.labels],
        probabilities=found.probabilities[:, order],
        calibrated=None if found.calibrated is None else found.calibrated[:, order],
        logits=None,
    )


def _join_records(records: "Sequence[RunRecord]") -> "RunRecord":
    """Return what results.json says of the ensemble: as of its first member, with what the others add to it."""
    first = records[0]
    seen = {name: kinds for record in records for name, kinds in record.data.get("seen_tracks", {}).items()}
    return dataclasses.replace(
        first,
        model={**first.model, "temperature": None, "ensemble": [record.model for record in records]},
        data={**first.data, "seen_tracks": seen} if seen else first.data,
        seconds={part: sum(record.seconds[part] for record in records) for part in first.seconds},
        earlier=[earlier for record in records for earlier in record.earlier],
        licenses={name: ids for record in records for name, ids in record.licenses.items()},
    )


def average_sets(sets: "Sequence[EvaluatedSet]", genres: Sequence[str]) -> "EvaluatedSet":
    """Return the mean of what members found on one set, the same tracks and `genres` in the same order.

    Hard vote and window scores are undefined: windows differ. There are calibrated probabilities if every member has a
    temperature, each its own.
    """
    from hf_utils.results.metrics import metrics_for
    from hf_utils.results.run_results import EvaluatedSet

    mean = np.mean([found.probabilities for found in sets], axis=0)
    track = metrics_for(tuple(genres)).score(mean, sets[0].labels)
    undefined = dict.fromkeys(track, math.nan)
    scores = {"track": track, "track_hard": undefined, "window": undefined}
    num_windows = sum(found.num_windows for found in sets)
    joined = EvaluatedSet(sets[0].name, sets[0].track_ids, sets[0].labels, mean, scores, num_windows)
    if any(found.calibrated is None for found in sets):
        return joined
    return joined.with_calibrated(np.mean([found.calibrated for found in sets], axis=0), genres)


def predict_ensemble(arguments: RunArguments, members: Sequence[RunArguments]) -> int:
    """Tag the user's files; each member's own predictions, in `members`, are continued and kept.

    Returns 1 if some files could not be read, else 0.
    """
    output_dir, tables, skipped = Path(arguments.training.output_dir), [], set()
    names = [member.model.model_name_or_path for member in members]
    folders = [
        Path(output_dir, MEMBERS_FOLDER, f"{number}-{file_stem(Path(name).name)}")
        for number, name in enumerate(names, start=1)
    ]
    _make_room(output_dir, folders, overwrite=arguments.training.overwrite)
    for name, member, folder in zip(names, members, folders, strict=True):
        logger.info("Member %s", name)
        _, failures = tag_files(member, folder)
        skipped |= {file for file, _ in failures}
        tables.append(read_probabilities(folder / PREDICTIONS_FILE))
    (genres, first), *others = tables
    rows = {}
    for file in first:
        if all(file in found for _, found in others):
            mean = np.mean([[found[file][genre] for genre in genres] for _, found in tables], axis=0)
            rows[file] = format_row(mean, genres)
    models = _join_origins(output_dir, folders)
    is_calibrated = all(model["temperature"] is not None for model in models)
    table = PredictionTable(genres, is_calibrated, arguments.training.unknown_below)
    table.write(output_dir / PREDICTIONS_FILE, rows)
    say_what_was_tagged(output_dir, len(rows), len(skipped))
    return 1 if skipped else 0


def _join_origins(output_dir: Path, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Note what the ensemble's predictions are of, and all members with their journals; return the members."""
    models = []
    for folder in folders:
        origin = json.loads((folder / ORIGIN_FILE).read_text(encoding="utf-8"))
        place = folder.relative_to(output_dir)
        models += [{**model, "journal": str(place / model["journal"])} for model in origin["models"]]
    write_origin(output_dir, origin["predict_path"], models)
    return models


def _make_room(output_dir: Path, folders: Sequence[Path], *, overwrite: bool) -> None:
    """Remove what other predictions left in `output_dir`, if there is any.

    Raises:
        UserError: there is, and not `overwrite`.
    """
    journals = [output_dir / JOURNAL_FILE, *Path(output_dir, MEMBERS_FOLDER).glob(f"*/{JOURNAL_FILE}")]
    others = [path for path in journals if path.is_file() and path.parent not in folders]
    # Finished without one of these members.
    is_of_fewer = Path(output_dir, PREDICTIONS_FILE).exists() and not all(folder.is_dir() for folder in folders)
    if (others or is_of_fewer) and not overwrite:
        raise UserError(
            f"{output_dir} holds predictions of other checkpoints. Choose another --output_dir, or add --overwrite to "
            "replace them."
        )
    for path in others:
        for result in PredictionJournal(path, {}).results.values():
            if "timeline" in result:
                Path(path.parent, result["timeline"]).unlink(missing_ok=True)
        path.unlink()
        Path(path.parent, PREDICTIONS_FILE).unlink(missing_ok=True)
