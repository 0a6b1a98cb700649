"""Tables of a model card, from results.json."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence

from hf_utils.cards.markup import Markdown, paragraphs, picture, table
from hf_utils.disclosure import is_secret, show_source, show_value

# Options that say where a run lay and how it was kept, not what was trained. The card names the data elsewhere.
_NOT_SETTINGS = re.compile(
    r".*_dir|hub_.*|push_to_hub|logging_.*|report_to|dataloader_.*|num_proc|overwrite|do_.*|predict_path|per_window"
    r"|dataset_name|train_datasets|eval_datasets|model_name_or_path|genres|save_.*|resume_from_checkpoint|run_name"
)


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
        accuracy = f"{show_number(track['accuracy'])} ± {show_number(error)}"
        others = [entry["track_hard"]["accuracy"], entry["window"]["accuracy"]]
        others += [track[score] for score in ("precision", "recall", "f1", "roc_auc", "log_loss", "ece")]
        rows.append([name, str(entry["num_tracks"]), str(entry["num_windows"]), accuracy, *map(show_number, others)])
    return table(header, rows)


def genre_table(entry: Mapping, genres: Sequence[str]) -> Markdown:
    """Return a row per genre of one evaluated set, per track."""
    rows = []
    for genre in genres:
        scores = [entry["track"][f"{score}_{genre}"] for score in ("precision", "recall", "f1", "roc_auc")]
        rows.append([genre, f"{entry['track'][f'support_{genre}']:.0f}", *map(show_number, scores)])
    return table(["genre", "tracks", "precision", "recall", "F1", "ROC-AUC"], rows)


def data_table(data: Mapping) -> Markdown:
    """Return a row per split and evaluation set with its tracks by origin, and what the training mix left out."""
    sets = order_sets(data.get("splits", {}) | data.get("evaluation_sets", {}))
    origins = sorted({origin for each in sets.values() for origin in each["origins"]})
    rows = [[name, str(e["tracks"]), *(str(e["origins"].get(o, 0)) for o in origins)] for name, e in sets.items()]
    parts = [table(["split or set", "tracks", *origins], rows)]
    if sources := data.get("train_mix", {}).get("sources"):
        mix = [{"source": show_source(name), **facts} for name, facts in sources.items()]
        parts += ["The training mix, by source:", _mapping_table(mix)]
    return Markdown("\n\n".join(parts))


def settings_table(results: Mapping) -> Markdown:
    """Return what was trained, how long, and every option that bears on it; no secrets, no folders of a machine."""
    facts = [*_flatten(results["model"]), *_flatten(results["seconds"], " (seconds)"), ("seed", str(results["seed"]))]
    hidden = {"seed", *_unused_lengths(results["config"])}
    options = [
        (name, show_value(value))
        for name, value in sorted(results["config"].items())
        if value not in (None, "", []) and not (_NOT_SETTINGS.fullmatch(name) or is_secret(name) or name in hidden)
    ]
    return table(["setting", "value"], [*facts, *options])


def _unused_lengths(config: Mapping) -> set[str]:
    """Return which options did not decide how long training was: steps win over epochs, a stage's over the run's."""
    unused = {"max_steps", "num_train_epochs"}
    for changes in config.get("stages") or [{}]:
        counted = "max_steps" if {**config, **changes}.get("max_steps", -1) > 0 else "num_train_epochs"
        unused -= {counted} - changes.keys()
    return unused


def robustness_part(robustness: Mapping | Sequence[Mapping]) -> Markdown:
    """Return the summary, picture and table of `results["robustness"]`, or the table alone of a list of rows."""
    if not isinstance(robustness, Mapping):
        robustness = {"rows": robustness}
    parts = []
    if "summary" in robustness:
        parts.append(paragraphs(robustness["summary"]))
    if "picture" in robustness:
        parts.append(picture("Scores under corruptions of the test tracks", robustness["picture"]))
    if rows := robustness.get("rows"):
        parts.append(_mapping_table(rows))
    return Markdown("\n\n".join(parts))


def show_number(value: float | None) -> str:
    """Return a score with three decimals, n/a where it is undefined."""
    return "n/a" if value is None else f"{value:.3f}"


def _mapping_table(rows: Sequence[Mapping]) -> Markdown:
    header = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_show_cell(row.get(key, "")) for key in header] for row in rows]
    return table([str(key).replace("_", " ") for key in header], cells)


def _flatten(facts: Mapping, unit: str = "", prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        shown = f"{prefix}{str(name).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flatten(value, unit, f"{shown}, ")
        else:
            yield shown + unit, f"{value:.4g}" if isinstance(value, float) else show_value(value)


def _show_cell(value) -> str:
    return show_number(value) if value is None or isinstance(value, float) else str(value)
