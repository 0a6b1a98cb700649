"""How a trained model fares on corrupted test tracks: measured, then told as rows, a table, a picture and a page.

Every track is corrupted whole, at its own sampling rate, and then resampled: every model hears the same noise. So it
is in the dataset that augment_dataset.py writes from the same file. Every score of a corruption is shown beside its
change against the clean test tracks. N tracks, B resamples.
"""

import contextlib
import dataclasses
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from hf_utils.arguments.data import DataArguments
from hf_utils.arguments.training import ClassificationTrainingArguments
from hf_utils.augmentation.corruptions import Corruption, read_corruptions
from hf_utils.augmentation.pipeline import read_augmentation
from hf_utils.cards.confidence_part import confidence_part
from hf_utils.cards.markup import code_block, render_template
from hf_utils.cards.model_card import RobustnessText, protocol_text, robustness_part
from hf_utils.data.track_files import BUILDING_PREFIX, TrackFiles
from hf_utils.data.waveforms import decode_clips, estimate_bytes, find_cache
from hf_utils.data.window_lengths import WindowLengths
from hf_utils.data.windows import EvaluationWindows
from hf_utils.disclosure import SHORTENED_NOTE, show_command, show_source
from hf_utils.errors import UserError
from hf_utils.files import (
    CARD_FILE,
    CORRUPTED_PICTURE_FILE,
    CORRUPTED_PREDICTIONS_FILE,
    CORRUPTED_SCORES_FILE,
    hash_content,
    write_atomically,
    write_csv,
)
from hf_utils.results.display import OVERALL, show_change, show_corruption, show_score
from hf_utils.results.intervals import percentile_interval, resample_tracks
from hf_utils.results.plots import encode_png, shorten
from hf_utils.results.run_results import EvaluatedSet, align_columns
from hf_utils.training.corruption_error import Baseline
from hf_utils.training.progress import ProgressBars
from hf_utils.training.trainer import GenreTrainer

logger = logging.getLogger(__name__)

_COMPARED_SCORES = ("accuracy", "roc_auc", "f1", "ece")
_NUM_RESAMPLES = 2000
_DIGEST_LENGTH = 12

_CLEAN = "#57606a"
_DPI = 100

# Processes cost a second to start: fewer clips than this are not worth one.
_CLIPS_PER_PROCESS = 16

# What a cache of all corruptions may take of the free disk; the decoded tracks, while they are needed, half as much.
_DISK_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class CorruptedSet:
    """The scores of the test tracks under one corruption; `evaluated` has them in the order of the clean ones."""

    corruption: Corruption
    evaluated: EvaluatedSet


def check_transforms(data_args: DataArguments, training_args: ClassificationTrainingArguments) -> list[Corruption]:
    """Return the corruptions to evaluate, after reading every file of transforms, also those of later stages.

    Raises:
        UserError: there is a mistake in one of them, or there are corruptions under which nothing is evaluated.
    """
    for changes in training_args.stages or [{}]:
        files = {name: changes[name] for name in ("augmentation", "noise_folder") if name in changes}
        last = dataclasses.replace(data_args, **files)
        if last.augmentation is not None:
            read_augmentation(last.augmentation, last.noise_folder)
    if data_args.corruptions is not None and not training_args.do_eval:
        raise UserError("corruptions is given, but not do_eval, which would use it")
    return read_corruptions(data_args.corruptions, last.noise_folder) if data_args.corruptions is not None else []


def try_corruptions(corruptions: Sequence[Corruption], clips: datasets.Dataset) -> None:
    """Try every corruption at the sampling rates of the test tracks, before anything long is started.

    Raises:
        UserError: one cannot work there.
    """
    if corruptions:
        test = clips.select([row for row, split in enumerate(clips["split"]) if split == "test"])
        for rate in sorted(TrackFiles(test).sampling_rates):
            for corruption in corruptions:
                corruption.try_out(rate)


def evaluate_corruptions(
    trainer: GenreTrainer,
    clips: datasets.Dataset,
    lengths: WindowLengths,
    corruptions: Sequence[Corruption],
    args: DataArguments,
) -> list[CorruptedSet]:
    """Return the scores of the test tracks, `clips`, under each corruption; under several processes, on every one.

    The corrupted tracks stay in the waveform cache, where the next checkpoint finds them, unless
    `args.cache_corruptions` is false or the disk has no room; then each corruption's are removed after its turn.

    Raises:
        UserError: a transform cannot work on a track, or the cache folder cannot be written.
    """
    if not corruptions:
        return []
    files = TrackFiles(clips)
    num_bytes = estimate_bytes(files, lengths.sample_rate, num_proc=1) * len(corruptions)
    num_proc = max(1, min(args.num_proc, len(clips) // _CLIPS_PER_PROCESS))
    bars = trainer.pop_callback(ProgressBars)  # a bar for every corruption is too many
    measured = []
    with (
        _cache_folder(trainer, args, num_bytes) as (folder, temporary),
        files.keep_decoded(find_cache(args.waveform_cache_dir), _DISK_SHARE / 2),
        _no_bars_of_datasets(),
    ):
        bar = tqdm(corruptions, desc="Corruptions", disable=None if trainer.is_world_process_zero() else True)
        for number, corruption in enumerate(bar, start=1):
            bar.set_postfix_str(corruption.name)
            with trainer.args.main_process_first(desc="corrupting"):
                tracks = decode_clips(
                    clips,
                    lengths.sample_rate,
                    cache_dir=folder,
                    num_proc=num_proc,
                    corruption=corruption,
                    files=files,
                )
            windows = EvaluationWindows(tracks, lengths.window_samples, lengths.hop_samples)
            measured.append(CorruptedSet(corruption, trainer.evaluate_set(windows, corruption.name)))
            if unchanged := sum(map(bool, tracks["remarks"][:])):
                logger.warning("%s leaves %d of %d tracks as they are.", corruption.name, unchanged, len(tracks))
            if bar.disable:  # as in a log file
                accuracy = measured[-1].evaluated.scores["track"]["accuracy"]
                text = "Corruption %d of %d, %s: accuracy %.3f"
                logger.info(text, number, len(corruptions), corruption.name, accuracy)
            if temporary:
                _empty(trainer, folder)
    if bars is not None:
        trainer.add_callback(bars)
    return measured


@contextlib.contextmanager
def _cache_folder(trainer, args: DataArguments, num_bytes: int) -> Iterator[tuple[Path, bool]]:
    """Give the folder for corrupted tracks, the same in every process, and whether it is there only for this run."""
    cache_dir = find_cache(args.waveform_cache_dir)
    made: list[str | None] = [None]
    if trainer.is_world_process_zero():
        cache_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache_dir).free
        if args.cache_corruptions and num_bytes > _DISK_SHARE * free:
            logger.warning(
                "The corrupted tracks are not kept: %.1f GB of them, where %.1f GB are free.",
                num_bytes / 1e9,
                free / 1e9,
            )
        if not args.cache_corruptions or num_bytes > _DISK_SHARE * free:
            made[0] = tempfile.mkdtemp(prefix=BUILDING_PREFIX, dir=cache_dir)
    (temporary,) = broadcast_object_list(made)
    try:
        yield (cache_dir, False) if temporary is None else (Path(temporary), True)
    finally:
        if temporary is not None and trainer.is_local_process_zero():
            shutil.rmtree(temporary, ignore_errors=True)


def _empty(trainer, folder: Path) -> None:
    trainer.accelerator.wait_for_everyone()  # every process has read its share
    if trainer.is_local_process_zero():
        for old in folder.iterdir():
            shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _no_bars_of_datasets() -> Iterator[None]:
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def robustness_figure(clean: Mapping, rows: Sequence[Mapping], title: str):
    """Return a matplotlib Figure of rows as in `RobustnessReport`.

    Bands and bars are the middle 95 % of a bootstrap over tracks; the dashed line is the accuracy on clean tracks.
    """
    from matplotlib.figure import Figure  # here, because it takes its time to import, and few runs draw it

    noises = _group(row for row in rows if row["snr_db"] is not None)
    others = _group(row for row in rows if row["snr_db"] is None)
    num_others = sum(map(len, others.values())) + 0.6 * len(others)
    widths = [width for width, kinds in ((4.6, noises), (4.6, others)) if kinds]
    height = max(4.2 if noises else 2.0, 1.1 + 0.2 * num_others)
    figure = Figure(figsize=(sum(widths), height), layout="constrained", dpi=_DPI)
    panels = iter(figure.subplots(1, len(widths), squeeze=False)[0])
    if noises:
        _draw_noises(next(panels), noises, clean)
    if others:
        _draw_others(next(panels), others, clean)
    figure.suptitle(title, parse_math=False, fontsize=11)
    return figure


def _draw_noises(axes, kinds: Mapping[str, list[Mapping]], clean: Mapping) -> None:
    _draw_clean(axes, clean, axes.axhline, axes.axhspan)
    for index, (kind, rows) in enumerate(kinds.items()):
        rows = sorted(rows, key=lambda row: -row["snr_db"])
        snrs = [row["snr_db"] for row in rows]
        accuracies, lows, highs = ([100 * row[f"accuracy{end}"] for row in rows] for end in ("", "_low", "_high"))
        axes.plot(snrs, accuracies, "os^Dv"[index % 5] + "-", color=f"C{index % 10}", markersize=5, label=_name(kind))
        axes.fill_between(snrs, lows, highs, color=f"C{index % 10}", alpha=0.15, linewidth=0)
    axes.set_xticks(sorted({row["snr_db"] for rows in kinds.values() for row in rows}))
    axes.invert_xaxis()  # from little noise to much
    axes.set(xlabel="music to noise (SNR), dB", ylabel="accuracy, %", ylim=(-2, 102))
    axes.grid(alpha=0.3)
    for text in axes.legend(loc="best", fontsize=8).get_texts():
        text.set_parse_math(False)


def _draw_others(axes, kinds: Mapping[str, list[Mapping]], clean: Mapping) -> None:
    _draw_clean(axes, clean, axes.axvline, axes.axvspan)
    places, names, place = [], [], 0.0
    for index, (kind, rows) in enumerate(kinds.items()):
        first = place
        for row in rows:
            low, mean, high = (100 * row[f"accuracy{end}"] for end in ("_low", "", "_high"))
            axes.plot([low, high], [place, place], color=f"C{index % 10}", linewidth=1.2, alpha=0.6)
            axes.plot(mean, place, "o", color=f"C{index % 10}", markersize=5)
            places.append(place)
            names.append(f"{_name(kind)}  {_name(row['severity'])}" if place == first else _name(row["severity"]))
            place += 1
        place += 0.6
    axes.set_yticks(places, names, parse_math=False, fontsize=8)
    axes.set(xlabel="accuracy, %", xlim=(-2, 102), ylim=(place - 0.6 - 0.4, -0.6))
    axes.grid(axis="x", alpha=0.3)


def _draw_clean(axes, clean: Mapping, draw_line, draw_span) -> None:
    low, mean, high = (100 * clean[f"accuracy{end}"] for end in ("_low", "", "_high"))
    draw_span(low, high, color=_CLEAN, alpha=0.08, linewidth=0)
    draw_line(mean, color=_CLEAN, linestyle="--", linewidth=1.2, label="clean")


def _group(rows) -> dict[str, list[Mapping]]:
    kinds: dict[str, list[Mapping]] = {}
    for row in rows:
        kinds.setdefault(row["kind"], []).append(row)
    return kinds


def _name(name: str) -> str:
    return shorten(show_corruption(name))


class RobustnessReport:
    """The test tracks under corruptions, against the same tracks as they are.

    Attributes:
        clean: the row of the clean tracks: kind "clean", no severity, no change.
        rows: one per corruption: kind, severity, snr_db (None where there is none), accuracy with the middle 95 % of
            its bootstrap over tracks (accuracy_low, accuracy_high), roc_auc and f1 (macro), ece, their `_change`s, and
            a digest of what was done to the tracks: rows with one digest are of the same corrupted tracks.
        means: {kind: mean of its severities' scores and changes}, and under `OVERALL` the mean of those.
        benchmark: name and version, such as "genre-c 1"; None for corruptions without them.
        sets: {kind: what was evaluated under each of its severities}.
        corruption_error: as `Baseline.compare` returns it; None without a baseline, or where corruptions are missing.
    """

    def __init__(
        self,
        evaluations: Sequence[EvaluatedSet],
        corrupted: Sequence[CorruptedSet],
        genres: Sequence[str],
        baseline: Baseline | None = None,
    ):
        (clean,) = (evaluated for evaluated in evaluations if evaluated.name == "test")
        self._clean, self._corrupted, self._genres = clean, corrupted, genres
        self._resamples = resample_tracks(len(clean.labels), _NUM_RESAMPLES, seed=0)
        self.benchmark = corrupted[0].corruption.benchmark
        self.clean = self._row(None, clean)
        self.rows = [self._row(c.corruption, c.evaluated) for c in corrupted]
        kinds = dict.fromkeys(c.corruption.kind for c in corrupted)
        self.sets = {kind: [c.evaluated for c in corrupted if c.corruption.kind == kind] for kind in kinds}
        errors = {c.corruption.definition: 1 - c.evaluated.scores["track"]["accuracy"] for c in corrupted}
        self.corruption_error = baseline and baseline.compare(1 - self.clean["accuracy"], errors)

    def _row(self, corruption: Corruption | None, evaluated: EvaluatedSet) -> dict[str, Any]:
        scores, clean = evaluated.scores["track"], self._clean.scores["track"]
        right = (evaluated.predictions == evaluated.labels).astype(float)
        low, high = percentile_interval(self._resamples @ right / len(right))
        return {
            "kind": corruption.kind if corruption else "clean",
            "severity": corruption and corruption.severity,
            "snr_db": corruption and corruption.snr_db,
            "accuracy": scores["accuracy"],
            "accuracy_low": low,
            "accuracy_high": high,
            **{name: scores[name] for name in _COMPARED_SCORES[1:]},
            **{f"{name}_change": scores[name] - clean[name] for name in _COMPARED_SCORES},
            "digest": corruption and hash_content(corruption.fingerprint.encode())[:_DIGEST_LENGTH],
        }

    @cached_property
    def means(self) -> dict[str, dict[str, float]]:
        """See the class."""
        names = [*_COMPARED_SCORES, *(f"{name}_change" for name in _COMPARED_SCORES)]
        kinds: dict[str, list[Mapping]] = {}
        for row in self.rows:
            kinds.setdefault(row["kind"], []).append(row)
        means = {kind: _mean(rows, names) for kind, rows in kinds.items()}
        return {**means, OVERALL: _mean(list(means.values()), names)}

    def format_table(self) -> str:
        """Return the table for the terminal, and under it the mean corruption error."""
        header, rows = self._table()
        return "\n".join([align_columns([header, *rows]), *self._error_sentences()])

    def _error_sentences(self) -> list[str]:
        """Return a sentence on the mean corruption error; none where there is no such error."""
        if self.corruption_error is None:
            return []
        found, kinds = self.corruption_error, self.corruption_error["kinds"]
        counted = sum(row["relative_ce"] is not None for row in kinds.values())
        relative = f", relative mCE {100 * found['relative_mce']:.1f} % (over {counted} of {len(kinds)} kinds)"
        return [
            f"Mean corruption error: mCE {100 * found['mce']:.1f} %{relative if counted else ''}, where 100 % is "
            f"{found['baseline']} ({found['data']})."
        ]

    def describe(self) -> RobustnessText:
        """Return what a card shows of it."""
        overall, clean = self.means[OVERALL], self.clean
        benchmark = f" ({self.benchmark})" if self.benchmark else ""
        summary = (
            f"The {len(self._clean.labels)} test tracks under {len(self.rows)} corruptions of {len(self.means) - 1} "
            f"kinds{benchmark}, with the same noise for every model. Accuracy: {show_score(clean['accuracy'])} on the "
            f"clean tracks, {show_score(overall['accuracy'])} as the mean over kinds. ROC-AUC: "
            f"{show_score(clean['roc_auc'])} and {show_score(overall['roc_auc'])}. The 95 % interval of accuracy is "
            "from a bootstrap over tracks; changes are against the clean tracks."
        )
        summary = " ".join([summary, *self._error_sentences()])
        return RobustnessText(summary, CORRUPTED_PICTURE_FILE, *self._table())

    def _table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows: the clean tracks, every corruption, the mean of every kind, and that of all."""
        rows = [self.clean]
        for kind, mean in self.means.items():
            of_kind = [row for row in self.rows if row["kind"] == kind]
            rows += of_kind
            if len(of_kind) != 1:
                rows.append({"kind": kind, "severity": "mean" if of_kind else None, **mean})
        header = ["test tracks", "accuracy", "95 %", "change", "ROC-AUC", "change", "F1", "ECE"]
        return header, [self._cells(row) for row in rows]

    def _cells(self, row: Mapping[str, Any]) -> list[str]:
        name = " ".join(map(show_corruption, filter(None, (row["kind"], row["severity"]))))
        interval = f"{row['accuracy_low']:.3f} to {row['accuracy_high']:.3f}" if "accuracy_low" in row else ""
        accuracy, roc_auc, f1, ece = (show_score(row[score]) for score in _COMPARED_SCORES)
        changes = ["" if row is self.clean else show_change(row[f"{s}_change"]) for s in ("accuracy", "roc_auc")]
        return [name, accuracy, interval, changes[0], roc_auc, changes[1], f1, ece]

    def write(self, output_dir: str | os.PathLike, results: Mapping, *, page: bool, command: str) -> None:
        """Write `robustness.csv`, `robustness_predictions.csv` (every track's genre and its probability), the picture.

        `page` asks for a `README.md`, too: for a folder that holds no checkpoint, only what was measured on one.
        """
        output_dir = Path(output_dir)
        write_csv(
            output_dir / CORRUPTED_SCORES_FILE,
            list(self.clean),
            [list(row.values()) for row in (self.clean, *self.rows)],
        )
        predictions = [
            [name, track_id, self._genres[label], self._genres[row.argmax()], row.max()]
            for name, evaluated in [
                ("clean", self._clean),
                *((c.corruption.name, c.evaluated) for c in self._corrupted),
            ]
            for track_id, label, row in zip(
                evaluated.track_ids, evaluated.labels, evaluated.probabilities, strict=True
            )
        ]
        header = ["corruption", "track_id", "label", "prediction", "probability"]
        write_csv(output_dir / CORRUPTED_PREDICTIONS_FILE, header, predictions)
        note = " (demo data, not a result)" if results["demo"] else ""
        model = results["model"]["name"] if page else str(output_dir)
        title = f"{show_source(model)}: {len(self._clean.labels)} test tracks{note}"
        write_atomically(
            output_dir / CORRUPTED_PICTURE_FILE, encode_png(robustness_figure(self.clean, self.rows, title))
        )
        if page:
            write_atomically(output_dir / CARD_FILE, self._page(results, command))

    def _page(self, results: Mapping, command: str) -> str:
        return render_template(
            "robustness.md",
            model=show_source(results["model"]["name"]),
            dataset=show_source(results["data"]["dataset"]),
            demo=results["demo"],
            robustness=robustness_part(self.describe()),
            confidence=confidence_part(results),
            protocol=results["protocol"]["name"],
            protocol_text=protocol_text(results),
            command=code_block(show_command(command), "bash"),
            command_note=SHORTENED_NOTE if show_command(command) != command else "",
        )


def _mean(rows: Sequence[Mapping], names: Sequence[str]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in names}
