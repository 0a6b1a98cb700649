"""Write the report on many runs: tables, pictures and a verdict, also while runs are going on.

    python -m hf_utils.report runs/gtzan --output report/
    python -m hf_utils.report report/results.csv --output again/     # the same page, without the folders of the runs
    python -m hf_utils.report runs/gtzan --output report/ --audio    # the most often missed tracks, to listen to

Reads `results.json`, `predictions_<set>.csv` and `robustness_predictions.csv` at any depth of the folders. Writes
`report.html` (opens offline, everything inside), `report.md` with its pictures, and three tables: `results.csv` (a row
for each test of each run) and `results_tracks.csv.gz` (a row for each track of each run), from which the report can be
made again, and `comparisons.csv`. With --audio, excerpts of recordings are in the folder `audio`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from hf_utils.errors import UserError
from hf_utils.files import write_csv
from hf_utils.launch import module_parser
from hf_utils.report.findings import confounded_arms
from hf_utils.report.kept_runs import read_kept_runs, write_kept_runs
from hf_utils.report.page import Grid, Page, Players, Section, Text, percent, write_page
from hf_utils.report.run_folders import REFERENCE_ARM, LeftOut, Table, make_tables, read_runs
from hf_utils.report.scores import ScoredTable, score_and_compare
from hf_utils.report.sections import describe_table, title_of
from hf_utils.report.sweeps import Sweep, make_sweeps

NUM_RESAMPLES = 2000
_DEMO_BANNER = "Demo data: no number here is a result."
_METHOD = (
    "Scores are per track: the mean of its windows' probabilities. ± is the standard deviation over training seeds. "
    "The interval in brackets is a bootstrap over tracks (2,000 resamples) of the mean over seeds; for pooled "
    "folds, ROC-AUC counts only pairs of tracks that one model scored.",
    "'All seeds together' is the ensemble of the runs of all seeds: per track, the mean of their probabilities. It is "
    "another system than any of its runs, so it is in no comparison.",
    "An arm is compared with its reference on the same tracks and seeds. With one run per arm the test is McNemar's "
    "exact one, and the interval is only over tracks. With several, the standard error has two parts: the paired "
    "bootstrap over tracks, and the variance over seeds, for which the largest of three estimates counts (of this "
    "comparison, of the model's arms, of the table), because two or three seeds can agree by luck. The interval and p "
    "are Student's. In simulated studies without any difference this finds one in fewer than 5 % of the studies.",
    "Under corruptions every run hears the same noise on the same track. These comparisons are corrected as two more "
    "families: noise with the mean over kinds, and all other corruptions. The mean over kinds is over the severities "
    "of each kind first, and then over the kinds. Intervals of two arms may overlap where a difference is found, "
    "because it is taken track by track. With one run per arm the test of the mean over kinds is the paired t-test.",
    "ECE is the expected calibration error over 15 bins of confidence (Guo et al. 2017): less is better. It is of "
    "probabilities without temperature. It has no interval, because resampling tracks makes it larger.",
    "p-values are corrected for the number of comparisons in the table (Holm); a verdict needs a corrected p below "
    "0.05. Intervals are not corrected, so one may leave out zero where the verdict is 'no detectable difference'. "
    "That verdict does not say that there is none: 'detectable' is the difference which a study of this size would "
    "find in 80 % of repetitions.",
)


def write_report(
    sources: Sequence[str | Path],
    output: str | Path,
    *,
    reference: str = REFERENCE_ARM,
    set_name: str = "test",
    num_resamples: int = NUM_RESAMPLES,
    note: str = "",
    music: str | None = None,
) -> list[ScoredTable]:
    """Write the report on the runs in `sources` into the folder `output`; return its tables.

    A source is a folder with runs at any depth, or the results.csv of another report.

    `note` is printed at its top: what a reader must know of the data.

    `music` is the dataset that players of missed tracks are cut from, "" the one that the runs name; None for none.

    Raises UserError if a source does not exist, holds no run at all, or is another kind of file; or if `music` does.
    """
    kept = [Path(source) for source in sources if Path(source).is_file()]
    runs, left_out = read_runs([source for source in sources if Path(source) not in kept], set_name)
    runs += [run for path in kept for run in read_kept_runs(path, set_name)]
    tables, doubled = make_tables(runs)
    left_out += doubled
    if not tables and not left_out:
        raise UserError(
            f"No run is in {', '.join(map(str, sources))}: no results.json and no checkpoint at any depth."
        )
    players = [_find_players(table, set_name, music, f"{index}-") for index, table in enumerate(tables, start=1)]
    scored = [score_and_compare(table, reference, num_resamples=num_resamples) for table in tables]
    sweeps = [make_sweeps(table, reference, num_resamples=num_resamples) for table in tables]
    sections = [
        describe_table(*parts, index, is_one_of_several=len(scored) > 1)
        for index, parts in enumerate(zip(scored, sweeps, players, strict=True), start=1)
    ]
    if not sections:
        sections.append(Section("No finished run yet", [Text("The table appears with the first finished run.")]))
    sections += _describe_left_out(left_out)
    sections.append(Section("How to read this page", [Text(text) for text in _METHOD]))
    banner = _DEMO_BANNER if any(table.demo for table in tables) else ""
    page = Page(f"Genre classification: {len(runs)} runs, evaluated on {set_name}", banner, note, sections)
    write_page(page, Path(output))
    unused = {item.folder for item in doubled}
    write_kept_runs(Path(output), [run for run in runs if run.folder not in unused], set_name)
    _write_comparisons(Path(output, "comparisons.csv"), scored, sweeps)
    return scored


def _find_players(table: Table, set_name: str, music: str | None, prefix: str) -> list[Text | Players]:
    if music is None:
        return []
    from hf_utils.report.missed_audio import play_missed  # here, because other reports need no torch

    return play_missed(table, set_name, music, prefix)


def _describe_left_out(left_out: Sequence[LeftOut]) -> list[Section]:
    if not left_out:
        return []
    rows = [[item.folder, item.reason] for item in left_out]
    title = f"Not in the tables, or not wholly: {len(left_out)} runs that are not finished or not usable"
    return [Section(title, [Grid("Runs and reasons", ["folder", "reason"], rows, num_names=2)])]


def _write_comparisons(path: Path, scored_tables: Sequence[ScoredTable], sweeps: Sequence[Sequence[Sweep]]) -> None:
    """Write a row for each comparison of the page; differences of accuracy are shares, not percent."""
    header = ["table", "demo", "tested_under", "model", "arm", "reference", "seeds"]
    header += ["difference", "low", "high", "p", "p_holm", "detectable", "verdict"]
    rows = []
    for scored, of_table in zip(scored_tables, sweeps, strict=True):
        families = [("no corruption", scored.comparisons)]
        families += [(condition.name, found) for sweep in of_table for condition, found in sweep.comparisons.items()]
        for name, comparisons in families:
            for comparison in comparisons:
                found = comparison.accuracy
                row = [title_of(scored.table), int(scored.table.demo), name, comparison.model, comparison.arm]
                row += [scored.reference, found.num_seeds, found.mean, found.low, found.high, found.p]
                rows.append([*row, comparison.p_corrected, found.detectable, comparison.verdict])
    write_csv(path, header, rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report that the command line asks for; return the exit code."""
    parser = module_parser("hf_utils.report", __doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUNS", help="folders with runs at any depth, or a report's results.csv"
    )
    parser.add_argument("--output", default="report", metavar="FOLDER", help="where to write (default: report)")
    parser.add_argument(
        "--reference", default=REFERENCE_ARM, metavar="ARM", help="arm that the others are compared with"
    )
    parser.add_argument("--set", default="test", metavar="NAME", help="evaluated set to report on (default: test)")
    parser.add_argument("--note", default="", metavar="TEXT", help="what a reader must know of the data: at the top")
    parser.add_argument(
        "--audio",
        action="store_true",
        help="play the most often missed tracks, and show what decided, by the weights in the folders: writes "
        "excerpts of the recordings, which may not be yours to pass on, into the folder audio beside the page",
    )
    parser.add_argument(
        "--music", metavar="DATASET", help="with --audio: where these tracks are (default: where the runs had them)"
    )
    args = parser.parse_args(argv)
    if args.music is not None and not args.audio:
        parser.error("--music is given, but not --audio, which would use it")
    options = {"reference": args.reference, "set_name": args.set, "note": args.note}
    try:
        tables = write_report(args.runs, args.output, **options, music=(args.music or "") if args.audio else None)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for scored in tables:
        print(title_of(scored.table))
        for comparison in scored.comparisons:
            points = percent(comparison.accuracy.mean, "+.1f")
            print(f"  {comparison.model}, {comparison.arm}: {comparison.verdict} ({points} points)")
        for warning in confounded_arms(scored.table, scored.reference):
            print(f"  Warning: {warning}")
    print(f"Report: {Path(args.output, 'report.html')}; report.md and tables beside it")
    return 0
