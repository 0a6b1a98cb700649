"""Genres of the user's own files: any length, any readable format. W windows, K genres.

Files are finished in their order and noted in a journal, so that the same command continues after any end.
"""

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.cores import count_cores
from hf_utils.data.audio_lists import list_files, report_others
from hf_utils.data.decode_ahead import decode_ahead
from hf_utils.errors import UserError
from hf_utils.files import (
    ORIGIN_FILE,
    UNFINISHED_PREFIX,
    name_outputs,
    read_file_state,
    show_name,
    write_atomically,
    write_csv,
)
from hf_utils.models.families import is_multi_label
from hf_utils.models.loading import own_genres
from hf_utils.models.temperature import read_temperature
from hf_utils.models.window_pool import WindowPool
from hf_utils.sound_check import AudioError
from hf_utils.sound_files import AUDIO_SUFFIXES
from hf_utils.training.classifier import Classifier, load_model
from hf_utils.training.past_runs import adopt_data_options
from hf_utils.training.prediction_journal import JOURNAL_FILE, PredictionJournal, digest_model
from hf_utils.training.prediction_table import PREDICTIONS_FILE, PredictionTable, check_unknown, format_row
from hf_utils.training.started_files import start_ahead

logger = logging.getLogger(__name__)

TIMELINE_FOLDER = "timeline"

# To be raised when the same file and options give other results.
# 2: the precision of the model is that of an evaluation.
_JOURNAL_FORMAT = 2


def run_prediction(arguments: RunArguments) -> int:
    """Tag the user's files by a checkpoint that is only read, in windows of the run that trained it."""
    return predict(adopt_data_options(arguments)) if arguments.training.process_index == 0 else 0


def predict(arguments: RunArguments) -> int:
    """Tag the user's files; return 1 if some could not be read, else 0."""
    output_dir = arguments.training.output_dir
    done, failures = tag_files(arguments, output_dir, arguments.training.unknown_below)
    say_what_was_tagged(output_dir, done, len(failures))
    return 1 if failures else 0


@dataclasses.dataclass(frozen=True)
class TaggingOptions:
    """How files are tagged.

    Attributes:
        batch_size: of windows, all of one file.
        num_proc: how many processes decode files ahead.
        per_window: whether there is a timeline of every file, too.
        overwrite: whether predictions of another kind in the folder are replaced.
        unknown_below: the probability that the genre of a file needs, else it is `unknown`; None for any.
    """

    batch_size: int
    num_proc: int = 1
    per_window: bool = False
    overwrite: bool = False
    unknown_below: float | None = None


def tag_files(
    arguments: RunArguments, output_dir: str | os.PathLike, unknown_below: float | None = None
) -> tuple[int, list[tuple[str, str]]]:
    """Load the model and call `predict_files` as the options ask."""
    training_args, classifier = arguments.training, load_model(arguments, genres=None)
    classifier.model.to(training_args.device)
    options = TaggingOptions(
        batch_size=training_args.per_device_eval_batch_size,
        num_proc=count_decoders(arguments),
        per_window=training_args.per_window,
        # What is there was made by weights of this run that were not its last.
        overwrite=training_args.overwrite or training_args.do_train,
        unknown_below=unknown_below,
    )
    return predict_files(classifier, training_args.predict_path, output_dir, options)


def count_decoders(arguments: RunArguments) -> int:
    """Return how many processes decode. Where nothing is asked for, all cores feed a GPU.

    On two cores this process decodes by itself: beside the threads of the model, others halve the speed.
    """
    cores = count_cores()
    if "num_proc" in arguments.given:
        return arguments.data.num_proc
    if not arguments.training.use_cpu:
        return cores
    return 1 if cores <= 2 else arguments.data.num_proc


def say_what_was_tagged(output_dir: str | os.PathLike, num_tagged: int, num_skipped: int) -> None:
    """Print where the predictions are."""
    skipped = f", {num_skipped} skipped" if num_skipped else ""
    print(f"{num_tagged} file{'s' * (num_tagged != 1)} tagged{skipped}: {Path(output_dir, PREDICTIONS_FILE)}")


def predict_files(
    classifier: Classifier, path: str | os.PathLike, output_dir: str | os.PathLike, options: TaggingOptions
) -> tuple[int, list[tuple[str, str]]]:
    """Write the genre of a file, or of every music file in a folder and its subfolders, to a `PredictionTable`.

    Files are named relative to `path`; a probability is the mean over the file's windows. Those of a multi-label model
    are independent of each other and do not sum to 1. `per_window` also writes `timeline/<file>.csv`: start_seconds,
    end_seconds, prediction (whatever its probability), and the probabilities. Probabilities have 6 decimals, times 3.

    What a journal in `output_dir` has of the same model, windows and unchanged files is not done again, and ends up in
    the same bytes. A shorter clip than a window is repeated to fill it. Of a long file, only some blocks are in memory
    at a time.

    Returns (number of files in the table, [(file, reason)] of those that could not be read, which are logged as well).

    Raises:
        UserError: as `check_unknown`; the path is missing or holds no music; or `output_dir` holds other predictions
            and not `overwrite`.
    """
    config = classifier.model.config
    genres, temperature = own_genres(config), None if is_multi_label(config) else read_temperature(config)
    check_unknown(options.unknown_below, genres)
    output_dir, path = Path(output_dir), Path(path).expanduser().absolute()
    files = find_audio(path)
    timelines = {name: Path(TIMELINE_FOLDER, file).as_posix() for name, file in name_outputs(files, ".csv").items()}
    made_by = _describe(classifier)
    journal = _open_journal(output_dir, made_by, files, timelines if options.per_window else {}, options.overwrite)
    revision = getattr(config, "_commit_hash", None) or made_by["model"]
    origin = {"name": config.name_or_path, "revision": revision, "temperature": temperature, "journal": JOURNAL_FILE}
    write_origin(output_dir, path, [origin])
    window_seconds = classifier.lengths.window_samples / classifier.lengths.sample_rate
    table = PredictionTable(genres, temperature is not None, options.unknown_below)
    classifier.model.eval()
    if is_multi_label(config):
        logger.info("The model is a tagger: each label has a probability by itself, and they do not sum to 1.")
    else:
        how = "not calibrated: no temperature" if temperature is None else f"calibrated: temperature {temperature:g}"
        logger.info("Probabilities are %s.", how)
    failures, num_short = [], 0
    finished = journal.results
    missing = [name for name in files if name not in finished]
    states = {name: read_file_state(files[name]) for name in missing}
    decoded = decode_ahead([files[name] for name in missing], classifier.lengths.sample_rate, options.num_proc)
    pool = WindowPool(
        classifier.model, classifier.feature_extractor, batch_size=options.batch_size, precision=classifier.precision
    )
    with journal, contextlib.closing(decoded), pool:
        started = start_ahead(pool, decoded, classifier.lengths)
        bar = tqdm(missing, desc="Predicting", unit="file", disable=None)
        try:
            for name, file in zip(bar, started, strict=True):
                try:
                    times, probabilities = file.finish(config)
                except AudioError as error:
                    logger.warning("Skipped %s: %s", show_name(name), error)
                    failures.append((name, str(error)))
                    continue
                num_short += len(times) == 1 and float(times[0][1]) < window_seconds - 1e-3
                result = {"row": format_row(probabilities.mean(axis=0), genres)}
                if options.per_window:
                    result["timeline"] = timelines[name]
                    rows = ([*span, *format_row(row, genres)] for span, row in zip(times, probabilities, strict=True))
                    header = ["start_seconds", "end_seconds", "prediction", *genres]
                    write_csv(output_dir / timelines[name], header, rows)
                journal.add(name, states[name], result)
        finally:
            results = journal.results
            rows = {name: results[name]["row"] for name in files if name in results}
            table.write(output_dir / PREDICTIONS_FILE, rows)
    classifier.lengths.warn_of_short(num_short, len(missing) - len(failures))
    return len(rows), failures


def write_origin(output_dir: Path, path: Path, models: Sequence[Mapping[str, str]]) -> None:
    """Note beside the predictions what they are of, and by which models.

    Args:
        models: of each its name, its revision (the commit on the Hub; for a folder, a digest of the weights), its
            temperature if it has one, and the journal of its predictions, relative to `output_dir`.
    """
    origin = {"predict_path": str(path), "models": models}
    write_atomically(output_dir / ORIGIN_FILE, f"{json.dumps(origin, indent=2)}\n")


def find_audio(path: Path) -> dict[str, Path]:
    """Return `path` itself if it is a file, else the music files under it, by their names relative to it, in order.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        return {path.name: path}
    if not path.is_dir():
        raise UserError(f"{path} is neither a file nor a folder: --predict_path takes either.")
    found, others = list_files(path)
    if not found:
        raise UserError(f"{path} holds no music: expected files ending in {', '.join(sorted(AUDIO_SUFFIXES))}.")
    report_others(path, others)
    return {file.relative_to(path).as_posix(): file for file in found}


def _describe(classifier: Classifier) -> dict[str, Any]:
    """Return what the results are made by."""
    return {
        "format": _JOURNAL_FORMAT,
        "model": digest_model(classifier.model, classifier.feature_extractor),
        "precision": str(classifier.precision or classifier.model.dtype).removeprefix("torch."),
        **dataclasses.asdict(classifier.lengths),
    }


def _open_journal(
    output_dir: Path, made_by: dict[str, Any], files: dict[str, Path], timelines: dict[str, str], overwrite: bool
) -> PredictionJournal:
    """Return the journal in `output_dir`, with only what need not be done again.

    Raises:
        UserError: it is that of another prediction, and not to be replaced.
    """
    has_table = (output_dir / PREDICTIONS_FILE).exists() and not (output_dir / JOURNAL_FILE).exists()
    if has_table and not overwrite:
        raise UserError(
            f"{output_dir} holds a {PREDICTIONS_FILE} that is not of one checkpoint: choose another --output_dir, or "
            "add --overwrite to replace it."
        )
    journal = PredictionJournal(output_dir / JOURNAL_FILE, made_by)
    differences, known = list(journal.differences), journal.results
    if known and not known.keys() & files.keys():
        differences.append(f"other files, such as {show_name(next(iter(known)))}")
    if differences and not overwrite:
        raise UserError(
            f"{output_dir} holds predictions of another kind ({'; '.join(differences)}). Choose another --output_dir, "
            "or add --overwrite to replace them."
        )
    for name, result in known.items():
        timeline = timelines.get(name)
        is_written = timeline is None or timeline == result.get("timeline") and Path(output_dir, timeline).is_file()
        if differences or name not in files or not journal.has(name, files[name]) or not is_written:
            journal.forget(name)
            if "timeline" in result:
                Path(output_dir, result["timeline"]).unlink(missing_ok=True)
    if known:
        logger.info("%d of %d files are tagged already.", len(journal.results), len(files))
    unfinished = f"{UNFINISHED_PREFIX}*"  # of a killed process
    for file in [*output_dir.glob(unfinished), *Path(output_dir, TIMELINE_FOLDER).rglob(unfinished)]:
        file.unlink()
    return journal
