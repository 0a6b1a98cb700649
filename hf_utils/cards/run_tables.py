"""The tables of a model card: scores, genres, data and settings of a run, from its results.json."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from hf_utils.arguments.options import collect_defaults
from hf_utils.arguments.precedence import override
from hf_utils.arguments.run_arguments import RUN_CLASSES
from hf_utils.arguments.run_options import differing_options
from hf_utils.cards.markup import Markdown, table
from hf_utils.cards.origins import trainings
from hf_utils.disclosure import is_secret, show_source, show_value
from hf_utils.results.display import show_score

_SCORES_OF_TRACKS = ("precision", "recall", "f1", "roc_auc", "log_loss", "ece")  # beside accuracy, in this order
# Options that say where a run lay and how it was kept, not what was trained. The card names the data elsewhere.
_NOT_SETTINGS = re.compile(
    r".*_dir|hub_.*|push_to_hub|logging_.*|report_to|dataloader_.*|num_proc|overwrite|do_.*|predict_path|per_window|unknown_below"
    r"|dataset_name|train_datasets|eval_datasets|model_name_or_path|model_revision|genres|save_.*|run_name|seed"
    r"|resume_from_checkpoint|window_seconds|eval_hop_seconds|max_steps|num_train_epochs|mistakes"
)
# Shown whatever they are; other options only where they differ from their default.
_ALWAYS_SHOWN = ("learning_rate", "per_device_train_batch_size")


def order_sets(sets: Mapping[str, Mapping]) -> dict[str, Mapping]:
    """Return `sets` with training, validation and test first, then the others as they come."""
    first = [name for name in ("train", "validation", "test") if name in sets]
    return {name: sets[name] for name in [*first, *(name for name in sets if name not in first)]}


def score_table(evaluations: Mapping[str, Mapping]) -> Markdown:
    """Return a row per evaluated set: counts, accuracy by every way of counting, and the other scores per track."""
    header = ["set", "tracks", "windows", "accuracy", "hard vote", "per window"]
    header += ["precision", "recall", "F1", "ROC-AUC", "log-loss", "ECE"]
    rows = []
    for name, entry in evaluations.items():
        track = entry["track"]
        error = math.sqrt(track["accuracy"] * (1 - track["accuracy"]) / entry["num_tracks"])
        accuracy = f"{show_score(track['accuracy'])} ± {show_score(error)}"
        others = [entry["track_hard"]["accuracy"], entry["window"]["accuracy"]]
        others += [track[score] for score in _SCORES_OF_TRACKS]
        rows.append([name, str(entry["num_tracks"]), str(entry["num_windows"]), accuracy, *map(show_score, others)])
        if calibrated := entry.get("track_calibrated"):
            scores = (show_score(calibrated[score]) for score in _SCORES_OF_TRACKS)
            rows.append([f"{name}, calibrated", "", "", show_score(calibrated["accuracy"]), "", "", *scores])
    return table(header, rows)


def genre_table(entry: Mapping, genres: Sequence[str]) -> Markdown:
    """Return a row per genre of one evaluated set, per track."""
    rows = []
    for genre in genres:
        scores = [entry["track"][f"{score}_{genre}"] for score in ("precision", "recall", "f1", "roc_auc")]
        rows.append([genre, f"{entry['track'][f'support_{genre}']:.0f}", *map(show_score, scores)])
    return table(["genre", "tracks", "precision", "recall", "F1", "ROC-AUC"], rows)


def data_table(results: Mapping) -> Markdown:
    """Return a row per split and evaluation set with its tracks by origin, and what the training mixes left out.

    What the model learned from in earlier trainings comes first.
    """
    data, history = results["data"], trainings(results)
    earlier = {f"train, {PurePosixPath(each['checkpoint']).name}": each["train"] for each in history[:-1]}
    sets = earlier | order_sets(data.get("splits", {}) | data.get("evaluation_sets", {}))
    origins = sorted({origin for each in sets.values() for origin in each["origins"]})
    rows = [[name, str(e["tracks"]), *(str(e["origins"].get(o, 0)) for o in origins)] for name, e in sets.items()]
    parts = [table(["split or set", "tracks", *origins], rows)]
    mix = [
        {"training": PurePosixPath(each["checkpoint"]).name, "source": show_source(name), **counts}
        for each in history
        for name, counts in each["sources"].items()
    ]
    if mix:
        header = list(dict.fromkeys(key for row in mix for key in row))[len(history) == 1 :]
        cells = [[_show_cell(row.get(key, "")) for key in header] for row in mix]
        titles = [{"fraction": "fraction asked for"}.get(key, key.replace("_", " ")) for key in header]
        parts += ["The training mix, by source:", table(titles, cells)]
    return Markdown("\n\n".join(parts))


def _show_cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings_table(results: Mapping) -> Markdown:
    """Return what was trained, how long, and the options that differ from their defaults; no secrets, no folders."""
    config, model = results["config"], results["model"]
    rate = model["sample_rate"]
    rows = [
        ("checkpoint", show_source(config.get("model_name_or_path", "")) + _at(model.get("revision"))),
        ("class", model["class"]),
        ("parameters", _count_parameters(model)),
        ("sampling rate", f"{rate:,} Hz"),
        ("window", f"{model['window_samples'] / rate:.4g} s ({model['window_samples']:,} samples)"),
        ("step between windows", f"{model['hop_samples'] / rate:.4g} s ({model['hop_samples']:,} samples)"),
        ("seed", str(results["seed"])),
        *_counted_lengths(config),
        *((name, show_value(config[name])) for name in _ALWAYS_SHOWN if name in config),
    ]
    for name, (_, value) in differing_options({**config, **collect_defaults(RUN_CLASSES)}, config).items():
        hidden = name in _ALWAYS_SHOWN or _NOT_SETTINGS.fullmatch(name) or is_secret(name)
        if not hidden and value not in (None, "", []):
            rows.append((name, show_value(value)))
    rows += [(f"time: {name}", _show_seconds(value)) for name, value in results["seconds"].items()]
    return table(["setting", "value"], rows)


def _count_parameters(model: Mapping) -> str:
    total, trainable = (f"{model['parameters'][name]:,}" for name in ("total", "trainable"))
    if "adapters" not in model:
        return f"{total}, of which {trainable} learned"
    summary = model["adapters"]["summary"]
    return f"{total}; {trainable} learned, of the head and of adapters that are merged now. {summary}"


def _at(revision: str | None) -> str:
    return f" at revision {revision}" if revision else ""


def _show_seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _counted_lengths(config: Mapping) -> list[tuple[str, str]]:
    """Return the option that decided how long training was, where it is not one of a stage."""
    counted = []
    for changes in config.get("stages") or [{}]:
        merged = override(config, changes, "in a stage")
        name = "max_steps" if (merged.get("max_steps") or -1) > 0 else "num_train_epochs"
        if name not in changes and name in config:  # a stage's own is shown with the stages
            counted.append((name, show_value(config[name])))
    return list(dict.fromkeys(counted))
