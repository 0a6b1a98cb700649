"""Numbers of the report in words and tables: scores, differences, verdicts."""

import math

from hf_utils.report.page import Grid
from hf_utils.report.scores import BETTER, NO_DIFFERENCE, WORSE, Comparison, Score, ScoredTable

_TITLES = {"roc_auc": "ROC-AUC (macro, one genre against the rest)", "accuracy": "Accuracy, %", "f1": "Macro F1"}


def percent(value: float, form: str = ".1f") -> str:
    """Return a share as percent, or a dash for what is undefined."""
    if not math.isfinite(value):
        return "–"
    text = format(100 * value, form)
    return text.replace("-", "+") if float(text) == 0 else text  # no -0.0


def p_text(p: float) -> str:
    """Return a p-value to three digits."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict_sentence(comparison: Comparison, reference: str) -> str:
    """Return a comparison in words, with its interval, and with what could have been found where nothing was."""
    difference = comparison.accuracy
    words = {
        BETTER: f"better than {reference}",
        WORSE: f"worse than {reference}",
        NO_DIFFERENCE: f"no detectable difference from {reference}",
    }[comparison.verdict]
    sentence = (
        f"{comparison.model}, {comparison.arm}: {words} ({percent(difference.mean, '+.1f')} points, 95 % interval "
        f"{percent(difference.low, '+.1f')} to {percent(difference.high, '+.1f')}, corrected p "
        f"{p_text(comparison.p_corrected)})."
    )
    if comparison.verdict == NO_DIFFERENCE:
        sentence += f" A study of this size would mostly find {percent(difference.detectable)} points or more."
    return sentence


def comparison_grid(scored: ScoredTable) -> Grid:
    """Return every comparison with its tests, a row each."""
    rows = []
    for comparison in scored.comparisons:
        accuracy, roc_auc = comparison.accuracy, comparison.roc_auc
        rows.append(
            [
                comparison.model,
                comparison.arm,
                comparison.verdict,
                percent(accuracy.mean, "+.1f"),
                f"{percent(accuracy.low, '+.1f')} to {percent(accuracy.high, '+.1f')}",
                p_text(accuracy.p),
                p_text(comparison.p_corrected),
                percent(accuracy.detectable),
                f"{roc_auc.mean:+.3f} ({roc_auc.low:+.3f} to {roc_auc.high:+.3f})",
                str(accuracy.num_seeds),
            ]
        )
    header = ["model", "arm", "verdict", "accuracy, points", "95 % interval", "p", "p, Holm", "detectable, points"]
    header += ["ROC-AUC (95 % interval)", "seeds"]
    return Grid(f"Each arm against {scored.reference}", header, rows, num_names=3)


def score_grid(scored: ScoredTable, metric: str) -> Grid:
    """Return one metric: models as rows, arms as columns."""
    table, arms = scored.table, scored.table.arms(scored.reference)
    rows = []
    for model in table.models:
        cells = [(model, arm) for arm in arms]
        rows.append(
            [
                model,
                *(
                    _score_text(scored.scores[(*cell, metric)], len(table.cells[cell]), metric)
                    if cell in table.cells
                    else "–"
                    for cell in cells
                ),
            ]
        )
    heading = f"{_TITLES[metric]}: mean ± standard deviation over seeds [95 % interval over test tracks], (seeds)"
    return Grid(heading, ["model", *arms], rows)


def _score_text(score: Score, num_seeds: int, metric: str) -> str:
    if not math.isfinite(score.mean):
        return "–"
    factor, digits = (100, 1) if metric == "accuracy" else (1, 3)
    mean, low, high = (f"{factor * value:.{digits}f}" for value in (score.mean, score.low, score.high))
    deviation = "" if score.deviation is None else f" ± {factor * score.deviation:.{digits}f}"
    return f"{mean}{deviation} [{low} to {high}] ({num_seeds})"
