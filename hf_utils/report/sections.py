"""What the report shows of each table of runs: the verdict in words, scores, pictures, findings."""

import math
from collections.abc import Sequence

from hf_utils.report.findings import (
    arm_settings,
    confounded_arms,
    confused_pairs,
    count_evaluations,
    describe_data,
    missed_tracks,
    mixed_cells,
    published_results,
)
from hf_utils.report.page import Bullets, Grid, Picture, Players, Section, Text, p_text, percent
from hf_utils.report.pictures import draw_comparisons, draw_confusions, draw_genre_changes
from hf_utils.report.run_folders import Table
from hf_utils.report.scores import BETTER, METRICS, NO_DIFFERENCE, WORSE, Comparison, Score, ScoredTable
from hf_utils.report.sweep_sections import describe_conflicts, describe_effects, describe_losses, describe_sweep
from hf_utils.report.sweeps import Sweep
from hf_utils.results.display import show_change

_TITLES = {"roc_auc": "ROC-AUC (macro, one genre against the rest)", "accuracy": "Accuracy, %", "f1": "Macro F1"}
_NUM_PAIRS = 10
_NUM_TRACKS = 15
_KNEW_TRACKS = (
    "The weights of these runs knew tracks that they were tested or chosen on (--allow_seen_tracks): the scores are "
    "too good. data.seen_tracks in each results.json counts the tracks."
)
_SEPARATION = (
    "Rows of other tables are of another split, other genres or other test tracks: do not compare across tables."
)


def describe_table(
    scored: ScoredTable,
    sweeps: Sequence[Sweep],
    players: Sequence[Text | Players],
    index: int,
    *,
    is_one_of_several: bool,
) -> Section:
    """Return the section of a table with its `sweeps`; `index` tells its pictures from those of other tables.

    `players` are of its missed tracks, with what must be known of them.
    """
    table = scored.table
    blocks = []
    if table.demo:
        blocks.append(Text("Demo data: no number here is a result.", notice=True))
    if table.knew_tracks:
        blocks.append(Text(_KNEW_TRACKS, notice=True))
    if is_one_of_several:
        blocks.append(Text(_SEPARATION, notice=True))
    if data := describe_data(table):
        blocks.append(Text(f"Data: {data}."))
    warnings = [*mixed_cells(table), *confounded_arms(table, scored.reference)]
    blocks += [Text(warning, notice=True) for warning in warnings]
    blocks += _describe_verdict(scored, sweeps)
    blocks.append(Text(count_evaluations(table)))
    blocks += _describe_comparisons(scored, index)
    blocks += [score_grid(scored, metric) for metric in METRICS]
    blocks += describe_conflicts(table)
    for number, sweep in enumerate(sweeps, start=1):
        blocks += describe_sweep(sweep, scored.reference, f"{index}-{number}")
    blocks += _describe_genres(scored, index)
    blocks += [*_describe_tracks(table), *players]
    blocks += _describe_settings(scored)
    blocks += _describe_published(table)
    return Section(title_of(table), blocks)


def title_of(table: Table) -> str:
    """Return protocol and size of the table's test data."""
    parts = [f"{len(table.track_ids)} tracks", f"{len(table.genres)} genres"]
    if table.folds:
        tested = "all" if len(table.folds) == table.num_folds else ", ".join(map(str, table.folds))
        parts.insert(0, f"folds pooled: {tested} of {table.num_folds}")
    if table.split_seed is not None:
        parts.append(f"split seed {table.split_seed}")
    if table.knew_tracks:
        parts.append("KNOWN TRACKS among them")
    return f"Protocol {table.protocol}: {'; '.join(parts)}"


def _describe_verdict(scored: ScoredTable, sweeps: Sequence[Sweep]) -> list:
    comparisons, reference = scored.comparisons, scored.reference
    if not comparisons:
        return [
            Text(f"Nothing to compare yet: no model has both the arm {reference} and another one with a common seed.")
        ]
    counts = {
        verdict: sum(comparison.verdict == verdict for comparison in comparisons)
        for verdict in (BETTER, WORSE, NO_DIFFERENCE)
    }
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    effects = describe_effects(comparisons, sweeps[0], reference) if sweeps else {}
    sentences = [
        effects.get((comparison.model, comparison.arm)) or verdict_sentence(comparison, reference)
        for comparison in comparisons
    ]
    blocks = [
        Text(
            f"Verdict on accuracy against {reference} of the same model, corrected for all comparisons: {summary}. "
            "Points are percentage points of accuracy, brackets hold 95 % intervals of the difference."
        ),
        Bullets([*sentences, *describe_losses(sweeps, reference)]),
    ]
    if any(comparison.accuracy.num_seeds == 1 for comparison in comparisons):
        warning = "Where there is one run per arm, the verdict is about these two runs: other seeds may give another."
        blocks.append(Text(warning, notice=True))
    return blocks


def _describe_comparisons(scored: ScoredTable, index: int) -> list:
    if not scored.comparisons:
        return []
    heading = f"Differences of accuracy from {scored.reference}"
    picture = draw_comparisons(scored.comparisons, scored.reference)
    return [comparison_grid(scored), Picture(heading, f"comparison-{index}.png", picture)]


def _describe_genres(scored: ScoredTable, index: int) -> list:
    table, blocks = scored.table, []
    if (picture := draw_genre_changes(table, scored.reference)) is not None:
        heading = f"Change of every genre's recall from {scored.reference}, in points"
        blocks.append(Picture(heading, f"genres-{index}.png", picture))
    for number, model in enumerate(table.models):
        heading = f"Confusion of {model}, in percent of the true genre's tracks (rows: true, columns: chosen)"
        picture = draw_confusions(table, model, scored.reference)
        blocks.append(Picture(heading, f"confusion-{index}-{number}.png", picture))
    return blocks


def _describe_tracks(table: Table) -> list:
    pairs = [
        [pair.genre, pair.chosen, f"{pair.count} of {pair.total}", percent(pair.count / pair.total)]
        for pair in confused_pairs(table, _NUM_PAIRS)
    ]
    tracks = [
        [track.track_id, track.genre, track.chosen, track.known, f"{track.missed} of {track.num_runs}"]
        for track in missed_tracks(table, _NUM_TRACKS)
    ]
    blocks = []
    if pairs:
        header = ["true genre", "chosen", "predictions", "%"]
        blocks.append(Grid("Most confused genres, over all runs", header, pairs, num_names=2))
    if tracks:
        header = ["track", "genre", "mostly taken for", "what is known of it", "missed by runs"]
        blocks.append(Grid("Most often missed tracks", header, tracks, num_names=4))
    return blocks


def _describe_settings(scored: ScoredTable) -> list:
    settings = arm_settings(scored.table, scored.reference)
    rows = [[arm, line] for arm, lines in settings.items() for line in lines]
    if not rows:
        return []
    heading = f"What the arms are: options that differ from {scored.reference}"
    return [Grid(heading, ["arm", "option"], rows, num_names=2)]


def _describe_published(table: Table) -> list:
    rows = [
        [
            row["model"],
            row["method"],
            row["source"],
            row["accuracy_percent"] + (f" ± {row['deviation_points']}" if row["deviation_points"] else ""),
        ]
        for row in published_results(table)
    ]
    if not rows:
        return []
    heading = "Others' numbers on the same split of GTZAN's own clips, as they report them (not run here)"
    return [Grid(heading, ["model", "method", "source", "accuracy, %"], rows, num_names=3)]


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
                str(accuracy.num_seeds),
                percent(accuracy.mean, "+.1f"),
                f"{percent(accuracy.low, '+.1f')} to {percent(accuracy.high, '+.1f')}",
                p_text(accuracy.p),
                p_text(comparison.p_corrected),
                percent(accuracy.detectable),
                f"{show_change(roc_auc.mean)} ({show_change(roc_auc.low)} to {show_change(roc_auc.high)})",
            ]
        )
    header = ["model", "arm", "verdict", "seeds", "accuracy, points", "95 % interval", "p", "p, Holm"]
    header += ["detectable, points", "ROC-AUC (95 % interval)"]
    return Grid(f"Each arm against {scored.reference}", header, rows, num_names=3)


def score_grid(scored: ScoredTable, metric: str) -> Grid:
    """Return one metric: models as rows, arms as columns; below a model, all of its seeds together."""
    table, arms = scored.table, scored.table.arms(scored.reference)
    rows = []
    for model in table.models:
        for name, scores in ((model, scored.scores), (f"{model}, all seeds together", scored.scores_together)):
            found = [scores.get((model, arm, metric)) for arm in arms]
            if any(found):
                num_seeds = [len(table.cells.get((model, arm), ())) for arm in arms]
                rows.append([name, *(_score_text(*pair, metric) for pair in zip(found, num_seeds, strict=True))])
    heading = f"{_TITLES[metric]}: mean ± standard deviation over seeds [95 % interval over tracks], (seeds)"
    return Grid(heading, ["model", *arms], rows)


def _score_text(score: Score | None, num_seeds: int, metric: str) -> str:
    if score is None or not math.isfinite(score.mean):
        return "–"
    factor, digits = (100, 1) if metric == "accuracy" else (1, 3)
    mean, low, high = (f"{factor * value:.{digits}f}" for value in (score.mean, score.low, score.high))
    deviation = "" if score.deviation is None else f" ± {factor * score.deviation:.{digits}f}"
    return f"{mean}{deviation} [{low} to {high}] ({num_seeds})"
