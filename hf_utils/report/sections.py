"""What the report says of one table of runs: verdict, scores, pictures, findings, and numbers of others."""

from hf_utils.report.findings import (
    arm_settings,
    confused_pairs,
    describe_data,
    missed_tracks,
    mixed_cells,
    published_results,
)
from hf_utils.report.numbers import comparison_grid, percent, score_grid, verdict_sentence
from hf_utils.report.page import Bullets, Grid, Picture, Section, Text
from hf_utils.report.pictures import draw_comparisons, draw_confusions, draw_genre_changes, draw_robustness
from hf_utils.report.scores import BETTER, METRICS, NO_DIFFERENCE, WORSE, ScoredTable
from hf_utils.report.tables import Table

_NUM_PAIRS = 10
_NUM_TRACKS = 15
_SEPARATION = (
    "Rows of other tables are of another split, other genres or other test tracks: do not compare across tables."
)


def describe_table(scored: ScoredTable, index: int, *, is_one_of_several: bool) -> Section:
    """Return the section of a table; `index` tells its pictures from those of other tables."""
    table = scored.table
    blocks = []
    if table.demo:
        blocks.append(Text("Demo data: no number here is a result.", notice=True))
    if is_one_of_several:
        blocks.append(Text(_SEPARATION, notice=True))
    if data := describe_data(table):
        blocks.append(Text(f"Data: {data}."))
    blocks += [Text(warning, notice=True) for warning in mixed_cells(table)]
    blocks += _describe_verdict(scored, index)
    blocks += [score_grid(scored, metric) for metric in METRICS]
    if (picture := draw_robustness(scored)) is not None:
        heading = "Accuracy under corruptions, a line per arm (band: lowest and highest run)"
        blocks.append(Picture(heading, f"robustness-{index}.png", picture))
    blocks += _describe_genres(scored, index)
    blocks += _describe_tracks(table)
    blocks += _describe_settings(scored)
    blocks += _describe_published(table)
    return Section(title_of(table), blocks)


def title_of(table: Table) -> str:
    """Return protocol and size of the table's test data."""
    parts = [f"{len(table.track_ids)} test tracks", f"{len(table.genres)} genres"]
    if table.folds:
        tested = "all" if len(table.folds) == table.num_folds else ", ".join(map(str, table.folds))
        parts.insert(0, f"folds pooled: {tested} of {table.num_folds}")
    if table.split_seed is not None:
        parts.append(f"split seed {table.split_seed}")
    return f"Protocol {table.protocol}: {'; '.join(parts)}"


def _describe_verdict(scored: ScoredTable, index: int) -> list:
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
    blocks = [
        Text(f"Verdict on accuracy against {reference} of the same model, corrected for all comparisons: {summary}."),
        Bullets([verdict_sentence(comparison, reference) for comparison in comparisons]),
    ]
    if any(comparison.accuracy.num_seeds == 1 for comparison in comparisons):
        warning = "Where there is one run per arm, the verdict is about these two runs: other seeds may give another."
        blocks.append(Text(warning, notice=True))
    blocks.append(comparison_grid(scored))
    picture = draw_comparisons(comparisons, reference)
    return [*blocks, Picture(f"Differences of accuracy from {reference}", f"comparison-{index}.png", picture)]


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
    heading = "Others' numbers on the same protocol, as they report them (not run here)"
    return [Grid(heading, ["model", "method", "source", "accuracy, %"], rows, num_names=3)]
