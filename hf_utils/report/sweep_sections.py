"""What the report shows of arms under corruptions: what each costs and gains in words, tables and pictures."""

import math
from collections.abc import Sequence

import numpy as np

from hf_utils.report.page import Grid, Picture, Text, p_text, percent
from hf_utils.report.pictures import draw_sweep
from hf_utils.report.run_folders import Table
from hf_utils.report.scores import BETTER, NO_DIFFERENCE, WORSE, Cell, Comparison, Score
from hf_utils.report.sweeps import Sweep, list_conflicts


def describe_effects(comparisons: Sequence[Comparison], sweep: Sweep, reference: str) -> dict[Cell, str]:
    """Return a sentence per arm of the sweep: what it costs or gains on clean tracks, under noise, and over all.

    `comparisons` are those of the clean tracks.
    """
    sentences = {}
    for comparison in comparisons:
        cell = (comparison.model, comparison.arm)
        effects = [_describe_effect("on clean tracks", comparison)]
        for condition in filter(None, [*sweep.noises, sweep.overall]):
            place = f"in the {condition.name}" if condition is sweep.overall else f"under {condition.name}"
            found = [c for c in sweep.comparisons[condition] if (c.model, c.arm) == cell]
            effects += [_describe_effect(place, under) for under in found]
        if len(effects) > 1:
            sentences[cell] = f"{', '.join(cell)}, against {reference}: {'; '.join(effects)}."
    return sentences


def describe_losses(sweeps: Sequence[Sweep], reference: str) -> list[str]:
    """Return a sentence per loss that was found, but for those that `describe_effects` tells of the first sweep.

    A page about what arms gain must not leave to its tables what they cost elsewhere.
    """
    sentences = []
    for sweep in sweeps:
        told = [*sweep.noises, sweep.overall] if sweep is sweeps[0] else []
        sentences += [
            f"{comparison.model}, {comparison.arm}, against {reference}: "
            f"{_describe_effect(f'under {condition.name}', comparison)}, {_name_seeds(sweep)}."
            for condition, comparisons in sweep.comparisons.items()
            for comparison in comparisons
            if comparison.verdict == WORSE and condition not in told
        ]
    return sentences


def _describe_effect(place: str, comparison: Comparison) -> str:
    """Return what a comparison found, in words that its interval and its corrected p-value allow."""
    difference = comparison.accuracy
    interval = _interval(comparison)
    if comparison.verdict != NO_DIFFERENCE:
        verb = "gains" if comparison.verdict == BETTER else "costs"
        return f"{place} it {verb} {percent(abs(difference.mean))} points ({interval})"
    mean = percent(difference.mean, "+.1f")
    if difference.low <= 0 <= difference.high:
        detectable = percent(difference.detectable)
        return f"{place} no difference found ({mean}, {interval}; one of {detectable} points would mostly be found)"
    counted = f"corrected p {p_text(comparison.p_corrected)}"
    return f"{place} no difference found once all comparisons are counted ({mean}, {interval}; {counted})"


def describe_sweep(sweep: Sweep, reference: str, index: str) -> list[Text | Grid | Picture]:
    """Return tables and pictures of a sweep; `index` tells its pictures from others."""
    benchmark = f" of {' and '.join(sweep.benchmarks)}" if sweep.benchmarks else ""
    about = f"under {sweep.num_corruptions} corruptions{benchmark} ({_name_seeds(sweep)})"
    blocks = []
    if len(sweep.seeds) == 1 and any(sweep.comparisons.values()):
        text = f"What is found {about} is about these runs: other seeds may give another."
        blocks.append(Text(text, notice=True))
    if sweep.noises or sweep.overall:
        blocks.append(_noise_grid(sweep, reference, about))
    blocks += _error_grid(sweep, reference, about)
    if any(sweep.comparisons.values()):
        blocks.append(_comparison_grid(sweep, reference, about))
    for number, model in enumerate(sweep.table.models):
        heading = f"{model} {about}: accuracy with 95 % intervals over test tracks"
        blocks.append(Picture(heading, f"robustness-{index}-{number}.png", draw_sweep(sweep, model, reference)))
        blocks.append(_model_grid(sweep, model, reference, about))
    blocks.append(_calibration_grid(sweep, reference, about))
    return blocks


def describe_conflicts(table: Table) -> list[Text]:
    """Return a notice where runs were tested under other corruptions of the same name."""
    names = list_conflicts(table)
    if not names:
        return []
    text = (
        f"Not compared: {', '.join(names)}. Runs were tested under different corruptions of these names: another "
        "definition, or other versions of the packages that make them. Evaluate the older runs again."
    )
    return [Text(text, notice=True)]


def _name_seeds(sweep: Sweep) -> str:
    return f"{'seed' if len(sweep.seeds) == 1 else 'seeds'} {', '.join(map(str, sweep.seeds))}"


def _noise_grid(sweep: Sweep, reference: str, about: str) -> Grid:
    conditions = [sweep.clean, *sweep.noises, *filter(None, [sweep.overall])]
    rows = [
        [model, arm, *(_score_text(sweep.accuracy[model, arm, condition]) for condition in conditions)]
        for model in sweep.table.models
        for arm in sweep.table.arms(reference)
        if (model, arm) in sweep.table.cells
    ]
    heading = f"Accuracy, %, {about}: mean ± standard deviation over seeds"
    return Grid(heading, ["model", "arm", *(condition.name for condition in conditions)], rows, num_names=2)


def _error_grid(sweep: Sweep, reference: str, about: str) -> list[Grid]:
    """Return the mean corruption errors of the cells that have one; no table where none has."""
    rows = []
    for model in sweep.table.models:
        for arm in sweep.table.arms(reference):
            errors = sweep.corruption_errors((model, arm)) if (model, arm) in sweep.table.cells else []
            if errors:
                rows.append([model, arm, *map(_error_text, np.array(errors, dtype=float).T)])
    heading = f"Mean corruption error, % of the baseline's, {about}: mean ± standard deviation over seeds"
    return [Grid(heading, ["model", "arm", "mCE", "relative mCE"], rows, num_names=2)] if rows else []


def _comparison_grid(sweep: Sweep, reference: str, about: str) -> Grid:
    """Return the comparisons of the first family: noise, and the mean over kinds."""
    conditions = [*sweep.noises, *filter(None, [sweep.overall])] or sweep.others
    rows = [
        [
            comparison.model,
            comparison.arm,
            condition.name,
            comparison.verdict,
            percent(comparison.accuracy.mean, "+.1f"),
            _interval(comparison),
            p_text(comparison.accuracy.p),
            p_text(comparison.p_corrected),
            percent(comparison.accuracy.detectable),
        ]
        for condition in conditions
        for comparison in sweep.comparisons[condition]
    ]
    rows.sort(key=lambda row: row[:2])  # stable: the conditions of an arm keep their order
    header = ["model", "arm", "tested under", "verdict", "accuracy, points", "95 % interval", "p", "p, Holm"]
    heading = f"Each arm against {reference} {about}, corrected for {len(rows)} comparisons"
    return Grid(heading, [*header, "detectable, points"], rows, num_names=4)


def _model_grid(sweep: Sweep, model: str, reference: str, about: str) -> Grid:
    """Return every condition of a model as rows: the arms' accuracies, and their differences from the reference."""
    arms = [arm for arm in sweep.table.arms(reference) if (model, arm) in sweep.table.cells]
    compared = {
        (comparison.arm, condition): comparison
        for condition, comparisons in sweep.comparisons.items()
        for comparison in comparisons
        if comparison.model == model
    }
    pairs = [arm for arm in arms if any((arm, condition) in compared for condition in sweep.conditions)]
    rows = []
    for condition in sweep.conditions:
        accuracies = [percent(sweep.accuracy[model, arm, condition].mean) for arm in arms]
        rows.append([condition.name, *accuracies, *(_change(compared.get((arm, condition))) for arm in pairs)])
    header = ["tested under", *arms, *(f"{arm} against {reference}" for arm in pairs)]
    heading = f"{model} {about}: accuracy, %, and differences with 95 % intervals (*: a verdict after Holm)"
    return Grid(heading, header, rows)


def _change(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    star = "" if comparison.verdict == NO_DIFFERENCE else " *"
    return f"{percent(comparison.accuracy.mean, '+.1f')} ({_interval(comparison)}){star}"


def _calibration_grid(sweep: Sweep, reference: str, about: str) -> Grid:
    arms = sweep.table.arms(reference)
    rows = [
        [model, condition.name, *(_error_text(sweep.ece.get((model, arm, condition))) for arm in arms)]
        for model in sweep.table.models
        for condition in sweep.conditions
    ]
    heading = f"Calibration error (ECE), points, {about}: mean ± standard deviation over seeds"
    return Grid(heading, ["model", "tested under", *arms], rows, num_names=2)


def _error_text(errors: np.ndarray | None) -> str:
    if errors is None or not np.isfinite(errors).all():
        return "–"
    deviation = f" ± {percent(float(np.std(errors, ddof=1)))}" if len(errors) > 1 else ""
    return percent(float(errors.mean())) + deviation


def _score_text(score: Score) -> str:
    deviation = "" if score.deviation is None else f" ± {percent(score.deviation)}"
    return percent(score.mean) + deviation


def _interval(comparison: Comparison) -> str:
    low, high = comparison.accuracy.low, comparison.accuracy.high
    return f"{percent(low, '+.1f')} to {percent(high, '+.1f')}" if math.isfinite(low) else "–"
