"""The runs of a report in two small files, from which the report can be made again without their folders.

`results.csv` has a row for each test of each run, on the tracks as they are and under every corruption: what the run
is, what was done to the tracks, and the scores. `results_tracks.csv.gz` beside it has a row per run and track: the
probability of every genre, and the genre that was chosen under every corruption. Paired intervals need both.

Absolute paths are reduced to their last part. Of the options, those are kept in which the runs differ.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_utils.arguments.precedence import without_unused_length
from hf_utils.arguments.run_options import differing_options
from hf_utils.disclosure import show_source, show_value
from hf_utils.errors import UserError
from hf_utils.files import write_csv
from hf_utils.report.corrupted_tests import KEPT_SCORES, CorruptedTest, CorruptionKey, check_corrupted
from hf_utils.report.run_folders import Run, check_accuracy

KEPT_FILE, TRACKS_FILE = "results.csv", "results_tracks.csv.gz"
_SPLITS = ("train", "validation", "test")
_RUN_COLUMNS = ["run", "set", "model", "arm", "seed", "protocol", "split_seed", "num_folds", "fold", "dataset"]
_RUN_COLUMNS += [f"{split}_tracks" for split in _SPLITS]
_RUN_COLUMNS += ["genres", "demo", "knew_tracks", "planned_steps", "named", "options", "benchmark"]
_RUN_COLUMNS += ["mce", "relative_mce"]
_TEST_COLUMNS = [*CorruptionKey._fields, *KEPT_SCORES]
_TRACK_COLUMNS = ["run", "track_id", "label"]
_PROBABILITY, _UNDER = "p:", "under:"
# Columns of their own.
_TOLD = frozenset({"seed", "fold"})
# Probabilities come from float32, which has no more.
_DIGITS = 9


def write_kept_runs(folder: Path, runs: Sequence[Run], set_name: str) -> None:
    """Write both files into `folder`; as `read_kept_runs` reads them."""
    options = _distinct_options(runs)
    rows = []
    for number, (run, own) in enumerate(zip(runs, options, strict=True), start=1):
        facts = [number, set_name, run.model, run.arm, run.seed]
        facts += [run.protocol.get(key) for key in ("name", "seed", "num_folds", "fold")]
        facts += [show_source(run.dataset), *(run.real_tracks.get(split) for split in _SPLITS)]
        facts += [json.dumps(run.genres, ensure_ascii=False), int(run.demo), int(run.knew_tracks), run.planned_steps]
        facts += [int(run.is_named), json.dumps(own, ensure_ascii=False), run.benchmark]
        facts += [run.mce, run.relative_mce]
        rows.append([*facts, *[None] * len(CorruptionKey._fields), *(run.scores[name] for name in KEPT_SCORES)])
        for key, test in run.corrupted.items():
            rows.append([*facts, *key, *(test.scores[name] for name in KEPT_SCORES)])
    write_csv(folder / KEPT_FILE, [*_RUN_COLUMNS, *_TEST_COLUMNS], rows)
    genres = list(dict.fromkeys(genre for run in runs for genre in run.genres))
    names = list(dict.fromkeys(key.name for run in runs for key in run.corrupted))
    header = [*_TRACK_COLUMNS, *(_PROBABILITY + genre for genre in genres), *(_UNDER + name for name in names)]
    write_csv(folder / TRACKS_FILE, header, _track_rows(runs, genres, names))


def _track_rows(runs: Sequence[Run], genres: Sequence[str], names: Sequence[str]) -> Iterator[list]:
    for number, run in enumerate(runs, start=1):
        columns = [run.genres.index(genre) if genre in run.genres else None for genre in genres]
        tests = {key.name: test.chosen for key, test in run.corrupted.items()}
        for index, track_id in enumerate(run.track_ids):
            given = run.probabilities[index]
            row = [number, track_id, run.genres[run.labels[index]]]
            row += ["" if column is None else f"{given[column]:.{_DIGITS}g}" for column in columns]
            yield row + [run.genres[tests[name][index]] if name in tests else "" for name in names]


def _distinct_options(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return, for each run, the options in which any two of them differ; lists and mappings as text."""
    names = {name for run in runs[1:] for name in differing_options(runs[0].config, run.config, ignored=_TOLD)}
    configs = [without_unused_length(run.config) for run in runs]
    shown = [{name: config[name] for name in sorted(names) if config.get(name) is not None} for config in configs]
    return [
        {name: value if isinstance(value, (bool, int, float)) else show_value(value) for name, value in own.items()}
        for own in shown
    ]


def read_kept_runs(path: Path, set_name: str) -> list[Run]:
    """Return the runs in a results.csv that a report wrote, and its results_tracks.csv.gz.

    Raises UserError for other files, or if they do not fit together.
    """
    tests: dict[str, list[dict[str, str]]] = {}
    for row in _read_rows(path, {*_RUN_COLUMNS, *_TEST_COLUMNS}):
        tests.setdefault(row["run"], []).append(row)
    tracks: dict[str, list[dict[str, str]]] = {}
    for row in _read_rows(path.with_name(TRACKS_FILE), set(_TRACK_COLUMNS)):
        tracks.setdefault(row["run"], []).append(row)
    if tests.keys() != tracks.keys():
        raise UserError(f"{path} and {TRACKS_FILE} beside it have different runs: they are not of one report")
    sets = {row["set"] for rows in tests.values() for row in rows}
    if sets - {set_name}:
        raise UserError(f"{path} is of the set '{min(sets)}', not '{set_name}': give --set {min(sets)}")
    runs = []
    for number, rows in tests.items():
        try:
            runs.append(_read_run(f"{path}, run {number}", rows, tracks[number]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, run {number}: cannot be read ({type(error).__name__}: {error})") from None
    return runs


def _read_rows(path: Path, wanted: set[str]) -> list[dict[str, str]]:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}); {KEPT_FILE} needs {TRACKS_FILE} beside it") from None
    if missing := sorted(wanted - set(reader.fieldnames or ())):
        raise UserError(f"{path} has no column {missing[0]}: it is not what a report writes")
    return rows


def _read_run(folder: str, rows: Sequence[Mapping[str, str]], tracks: Sequence[Mapping[str, str]]) -> Run:
    [clean], corrupted = ([row for row in rows if bool(row["kind"]) == is_corrupted] for is_corrupted in (False, True))
    tracks = sorted(tracks, key=lambda track: track["track_id"])
    genres = json.loads(clean["genres"])
    labels = np.array([genres.index(track["label"]) for track in tracks])
    probabilities = np.array([[float(track[_PROBABILITY + genre]) for genre in genres] for track in tracks])
    tests = {}
    for row in corrupted:
        snr_db = _number(row["snr_db"])
        key = CorruptionKey(row["kind"], row["severity"], snr_db, row["digest"] or None)
        chosen = np.array([genres.index(track[_UNDER + key.name]) for track in tracks])
        tests[key] = CorruptedTest(chosen, _read_scores(row))
        check_corrupted(key, tests[key], labels)
    scores = _read_scores(clean)
    check_accuracy(probabilities, labels, scores["accuracy"], KEPT_FILE, TRACKS_FILE)
    protocol = {"name": clean["protocol"], "seed": _whole(clean["split_seed"])}
    config = json.loads(clean["options"])
    if clean["named"] == "1":
        config["run_name"] = f"{clean['model']}/{clean['arm']}"
    return Run(
        folder=folder,
        model=clean["model"],
        arm=clean["arm"],
        seed=int(clean["seed"]),
        protocol=protocol | {name: _whole(clean[name]) for name in ("num_folds", "fold")},
        genres=tuple(genres),
        demo=clean["demo"] == "1",
        config=config,
        track_ids=tuple(track["track_id"] for track in tracks),
        labels=labels,
        probabilities=probabilities,
        dataset=clean["dataset"],
        real_tracks={split: int(clean[f"{split}_tracks"]) for split in _SPLITS if clean[f"{split}_tracks"]},
        scores=scores,
        corrupted=tests,
        benchmark=clean["benchmark"],
        mce=_number(clean["mce"]),
        relative_mce=_number(clean["relative_mce"]),
        knew_tracks=clean["knew_tracks"] == "1",
        planned_steps=_whole(clean["planned_steps"]),
    )


def _read_scores(row: Mapping[str, str]) -> dict[str, float]:
    return {name: float(row[name]) for name in KEPT_SCORES}


def _number(text: str) -> float | None:
    return float(text) if text else None


def _whole(text: str) -> int | None:
    return int(text) if text else None
