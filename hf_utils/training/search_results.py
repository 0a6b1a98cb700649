"""What a search leaves: its best options as a YAML overlay, a table of its trials, and pictures.

Figures are made without pyplot, as in `plots`.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import optuna
import yaml
from optuna.study import StudyDirection
from optuna.trial import TrialState

from hf_utils.files import write_atomically, write_csv
from hf_utils.results.plots import encode_png


def write_trials(study: optuna.Study, output_dir: Path) -> Path | None:
    """Write trials.csv, and best.yaml once a trial has come to its end; return the path of the latter, or None."""
    trials = study.get_trials(deepcopy=False)
    names = sorted({name for trial in trials for name in trial.params})
    rows = [
        [t.number, t.state.name.lower(), t.value, t.user_attrs.get("pruned_because"), *map(t.params.get, names)]
        for t in trials
    ]
    write_csv(output_dir / "trials.csv", ["trial", "state", "score", "pruned_because", *names], rows)
    complete = _complete(study)
    if not complete:
        return None
    path, best, metric = (
        output_dir / "best.yaml",
        study.best_trial,
        study.user_attrs["config"]["metric_for_best_model"],
    )
    comment = (
        f"# The best of {len(trials)} trials, {len(complete)} of which came to their end: {metric} {best.value:.4f} "
        "on validation.\n# The best of many is high by chance, too: a new run, on its test set, says how good it is.\n"
    )
    write_atomically(path, comment + yaml.safe_dump(best.params, sort_keys=False))
    return path


def draw_search(study: optuna.Study, output_dir: Path) -> None:
    """Write search_history.png, and search_importances.png where scores differ."""
    write_atomically(output_dir / "search_history.png", encode_png(history_figure(study)))
    if len({trial.value for trial in _complete(study)}) > 1:
        importances = optuna.importance.get_param_importances(study)
        write_atomically(output_dir / "search_importances.png", encode_png(importance_figure(importances)))


def _complete(study: optuna.Study) -> list:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def history_figure(study: optuna.Study):
    """Return a Figure: the score of every trial in the order of the trials, and the best so far.

    Pruned trials stand at the last score that they reported.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="compressed", dpi=120)
    axes = figure.add_subplot()
    trials = study.get_trials(deepcopy=False)
    for state, marker, label in ((TrialState.COMPLETE, "o", "complete"), (TrialState.PRUNED, "x", "pruned")):
        chosen = [trial for trial in trials if trial.state == state]
        scores = [t.value if state == TrialState.COMPLETE else _last_report(t) for t in chosen]
        axes.scatter([trial.number for trial in chosen], scores, marker=marker, label=label)
    complete = _complete(study)
    best = np.maximum if study.direction == StudyDirection.MAXIMIZE else np.minimum
    so_far = best.accumulate([trial.value for trial in complete])
    axes.step([trial.number for trial in complete], so_far, where="post", color="black", label="best so far")
    axes.set(xlabel="trial", ylabel="score on validation")
    axes.legend()
    return figure


def _last_report(trial) -> float:
    return trial.intermediate_values[trial.last_step] if trial.last_step is not None else np.nan


def importance_figure(importances: Mapping[str, float]):
    """Return a Figure: the share of the differences between scores that each option explains."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1 + 0.4 * len(importances)), layout="compressed", dpi=120)
    axes = figure.add_subplot()
    names = list(importances)[::-1]
    axes.barh(names, [importances[name] for name in names])
    axes.set(xlabel="importance", xlim=(0, 1))
    return figure
