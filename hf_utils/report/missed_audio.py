"""Players for the tracks that most runs of a table missed: their music, and the weights of runs that missed them.

Without them a report reads neither audio nor weights. K genres.
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
import scipy.special

from hf_utils.arguments.data import SPLITS
from hf_utils.data.clips import label_names, load_clips
from hf_utils.data.corpus import parse_eval_datasets
from hf_utils.data.genre_spellings import spelling_key
from hf_utils.data.waveforms import decode_clips, read_samples
from hf_utils.data.window_lengths import hop_samples_for
from hf_utils.data.windows import EvaluationWindows
from hf_utils.disclosure import show_source
from hf_utils.errors import UserError
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.families import expect_known_stats, window_samples_for
from hf_utils.models.features import run_windows
from hf_utils.models.loading import load_classifier
from hf_utils.report.findings import MissedTrack, missed_tracks
from hf_utils.report.mistakes import Choice, Listener, TrackPart, make_player, show_players
from hf_utils.report.page import Player, Players, Text
from hf_utils.report.run_folders import Run, Table

logger = logging.getLogger(__name__)

_NUM_PLAYED = 10
# What is heard of a track that no weights explain.
_MIDDLE_SECONDS, _MIDDLE_RATE_HZ = 5.0, 22_050
# By so much probabilities may differ that were computed on other hardware, in other precision.
_MOST_DIFFERENCE = 0.05


def play_missed(table: Table, set_name: str, music: str, prefix: str) -> list[Text | Players]:
    """Return what the page shows to listen to.

    Args:
        set_name: of the evaluated set that the table is of.
        music: a dataset with these tracks; "" for the one that the runs name.
        prefix: of the names of files, which tells them from those of other tables.

    Raises:
        UserError: there is no such dataset, or it holds none of the tracks.
    """
    missed = missed_tracks(table, _NUM_PLAYED)
    if not missed:
        return []
    runs = [run for cell in table.cells.values() for replicate in cell for run in replicate.runs]
    source, options = _find_source(runs[0], set_name, music)
    clips = _find_clips(missed, source, options)
    players: dict[str, Player] = {}
    for run, tracks in _share_out(runs, [track for track in missed if track.track_id in clips["track_id"]]):
        try:
            players |= _explain(run, tracks, clips, prefix)
        except UserError as error:
            logger.warning("%s: nothing is explained by its weights: %s", run.folder, error)
    players |= _play_middles([track for track in missed if track.track_id not in players], clips, source, prefix)
    heading = "The most often missed, to listen to"
    return show_players(heading, [players[track.track_id] for track in missed])


def _find_source(run: Run, set_name: str, music: str) -> tuple[str, dict[str, str | None]]:
    """Return the dataset of a set of a run, and how it is read."""
    if music:
        return music, {}
    if set_name not in SPLITS:
        source = parse_eval_datasets(run.config.get("eval_datasets")).get(set_name, "")
        options = {}
    else:
        source = run.dataset
        names = {"config_name": "dataset_config_name", "revision": "dataset_revision"}
        names |= {"audio_column": "audio_column_name", "label_column": "label_column_name"}
        options = {argument: run.config.get(option) for argument, option in names.items()}
    if not source:
        raise UserError(f"--audio: {run.folder} does not say where its music is: give its place by --music")
    return source, options


def _find_clips(missed: Sequence[MissedTrack], source: str, options: dict[str, str | None]) -> datasets.Dataset:
    """Return the clips of the tracks that are there, by name and genre."""
    try:
        clips = load_clips(source, **options)
    except UserError as error:
        raise UserError(f"--audio: {error}\nGive the place of the music by --music, or leave --audio out.") from error
    wanted = {(track.track_id, spelling_key(track.genre)) for track in missed}
    found = zip(clips["track_id"][:], label_names(clips), strict=True)
    rows = [row for row, (name, genre) in enumerate(found) if (name, spelling_key(genre)) in wanted]
    if not rows:
        raise UserError(
            f"--audio: {source} holds none of the {len(missed)} tracks to listen to, such as {missed[0].track_id} "
            f"({missed[0].genre}). Give the place of the music by --music, or leave --audio out."
        )
    return clips.select(rows)


def _share_out(runs: Sequence[Run], tracks: Sequence[MissedTrack]) -> Iterator[tuple[Run, list[MissedTrack]]]:
    """Yield runs whose weights are there, each with tracks that it missed; first the one that missed most of them."""
    runs = [run for run in runs if Path(run.folder).is_dir() and Checkpoint(run.folder).has_weights]
    left = list(tracks)
    while runs and (own := max((_missed_by(run, left) for run in runs), key=lambda found: len(found[1])))[1]:
        yield own
        left = [track for track in left if track not in own[1]]


def _missed_by(run: Run, tracks: Sequence[MissedTrack]) -> tuple[Run, list[MissedTrack]]:
    is_missed = dict(zip(run.track_ids, run.probabilities.argmax(axis=1) != run.labels, strict=True))
    return run, [track for track in tracks if is_missed.get(track.track_id, False)]


def _explain(run: Run, tracks: Sequence[MissedTrack], clips: datasets.Dataset, prefix: str) -> dict[str, Player]:
    """Return {name of the track: its player} by the weights of a run. Raises UserError if they cannot be used."""
    model, feature_extractor = load_classifier(Checkpoint(run.folder), list(run.genres), allow_new_head=False)
    expect_known_stats(feature_extractor)
    rate, window_samples = feature_extractor.sampling_rate, window_samples_for(model.config, feature_extractor, None)
    hop_samples = hop_samples_for(window_samples, run.config.get("eval_hop_seconds"), rate)
    with _decoded(clips, tracks, rate) as good:
        if not len(good):
            return {}
        listener = Listener(model, feature_extractor, EvaluationWindows(good, window_samples, hop_samples), prefix)
        by_name = {track.track_id: track for track in tracks}
        found = enumerate(listener.windows.track_ids)
        return {track_id: _play_explained(listener, index, by_name[track_id], run) for index, track_id in found}


def _play_explained(listener: Listener, index: int, track: MissedTrack, run: Run) -> Player:
    row, windows = run.track_ids.index(track.track_id), listener.windows
    given, label = run.probabilities[row], int(run.labels[row])
    top = int(given.argmax())
    choice = Choice(run.genres[top], run.genres[label], top, label)
    own = np.flatnonzero(windows.track_index == index).tolist()
    samples = (windows[at]["samples"] for at in own)
    logits = run_windows(listener.model, listener.feature_extractor, samples).numpy()
    lines = [*_describe(track), f"{run.model}, {run.arm}, seed {run.seed}: {choice.describe(given)}"]
    if np.abs(scipy.special.softmax(logits, axis=1).mean(axis=0) - given).max() <= _MOST_DIFFERENCE:
        return listener.play(index, logits, choice, lines)
    reason = (
        "It is not played: for the music of this name these weights give other probabilities, so it is another "
        "recording than the one that was tested, or they are other weights."
    )
    return Player(_title(track), [*lines, reason])


def _play_middles(
    tracks: Sequence[MissedTrack], clips: datasets.Dataset, source: str, prefix: str
) -> dict[str, Player]:
    """Return {name of the track: its player} of tracks that no weights explain."""
    is_there = set(clips["track_id"][:])
    players = {}
    for track in tracks:
        reason = "Its file cannot be read."
        if track.track_id not in is_there:
            reason = f"It is not in {show_source(source)}, by this name and genre."
        players[track.track_id] = Player(_title(track), [*_describe(track), reason])
    with _decoded(clips, tracks, _MIDDLE_RATE_HZ) as good:
        by_name, length = {track.track_id: track for track in tracks}, round(_MIDDLE_SECONDS * _MIDDLE_RATE_HZ)
        for clip in good:
            track, start = by_name[clip["track_id"]], max(clip["num_samples"] - length, 0) // 2
            samples = read_samples(clip, start, length)
            part = TrackPart(samples, _MIDDLE_RATE_HZ, start / _MIDDLE_RATE_HZ, len(samples))
            reason = f"No picture: no weights of a run that missed it are at hand. Its middle is heard, {part.span}."
            lines = [*_describe(track), reason]
            players[track.track_id] = make_player(_title(track), track.track_id, part, lines, prefix)
    return players


@contextlib.contextmanager
def _decoded(clips: datasets.Dataset, tracks: Sequence[MissedTrack], sample_rate: int) -> Iterator[datasets.Dataset]:
    """Give those tracks, decoded for as long as the block lasts, without files that cannot be used."""
    names = {track.track_id for track in tracks}
    wanted = clips.select([row for row, name in enumerate(clips["track_id"][:]) if name in names])
    if not len(wanted):
        yield wanted
        return
    with tempfile.TemporaryDirectory() as folder:
        decoded = decode_clips(wanted, sample_rate, cache_dir=folder)
        problems = decoded["problem"][:]
        for name, problem in zip(decoded["track_id"][:], problems, strict=True):
            if problem is not None:
                logger.warning("%s: %s", name, problem)
        yield decoded.select([row for row, problem in enumerate(problems) if problem is None])


def _title(track: MissedTrack) -> str:
    return f"{track.track_id}: {track.genre}, mostly taken for {track.chosen}"


def _describe(track: MissedTrack) -> list[str]:
    return [f"Missed by {track.missed} of {track.num_runs} runs.", *filter(None, [track.known])]
