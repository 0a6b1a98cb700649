"""The test tracks that a model missed with the highest probability, to be listened to: `mistakes.html` of a run."""

from pathlib import Path

import numpy as np

from hf_utils.disclosure import show_source
from hf_utils.files import file_stem
from hf_utils.report.findings import describe_track
from hf_utils.report.mistakes import HOW_TO_LISTEN, RIGHTS, Choice, TrackPart, encode_excerpt, explain_part
from hf_utils.report.page import Page, Player, Players, Section, Text, percent, write_html
from hf_utils.results.run_results import EvaluatedSet, RunRecord
from hf_utils.training.experiment import Experiment

MISTAKES_FILE = "mistakes.html"


def write_mistakes(
    output_dir: str | Path, record: RunRecord, experiment: Experiment, evaluated: EvaluatedSet, most: int
) -> Path:
    """Write the page on at most `most` missed tracks of a set, with their excerpts; return where it is."""
    chosen, labels = evaluated.predictions, evaluated.labels
    missed = np.flatnonzero(chosen != labels)
    order = missed[np.argsort(-evaluated.probabilities[missed, chosen[missed]], kind="stable")][:most]
    players = [_make_player(record, experiment, evaluated, index) for index in order.tolist()]
    blocks = [Text(f"{len(missed)} of {len(labels)} {evaluated.name} tracks were missed.")]
    if players:
        blocks += [Text(RIGHTS, notice=True), Text(HOW_TO_LISTEN)]
        blocks.append(Players("Those missed with the highest probability", players))
    title = f"Mistakes of {show_source(record.model['name'])} on {show_source(record.data['dataset'])}"
    banner = "Demo data: no number here is a result." if record.demo else ""
    path = Path(output_dir, MISTAKES_FILE)
    write_html(Page(title, banner, "", [Section(f"Set: {evaluated.name}", blocks)]), path)
    return path


def _make_player(record: RunRecord, experiment: Experiment, evaluated: EvaluatedSet, index: int) -> Player:
    windows, rate = experiment.windows[evaluated.name], experiment.lengths.sample_rate
    track, label, top = evaluated.track_ids[index], int(evaluated.labels[index]), int(evaluated.predictions[index])
    choice = Choice(record.genres[top], record.genres[label], top, label)
    rows = np.flatnonzero(evaluated.track_index == index)
    row = int(rows[choice.find_window(evaluated.logits[rows])])
    samples, start = windows[row]["samples"], int(windows.start_samples[row])
    part = TrackPart(samples, rate, start / rate, min(len(samples), windows.clips[index]["num_samples"] - start))
    model, stem = experiment.trainer.model, file_stem(track)
    words, picture = explain_part(
        model, experiment.trainer.processing_class, part, choice, track=track, file_name=f"mistake-{stem}.png"
    )
    given = evaluated.probabilities[index]
    known = "" if record.demo else describe_track(track, choice.genre)
    surely = f"{choice.chosen} {percent(given[top], '.0f')} %, {choice.genre} {percent(given[label], '.0f')} %."
    return Player(
        heading=f"{track}: {choice.genre}, taken for {choice.chosen}",
        lines=[line for line in (surely, known, words) if line],
        label=f"Excerpt of {track}, {part.span}",
        file_name=f"{stem}.ogg",
        ogg=encode_excerpt(part.heard, rate),
        picture=picture,
    )
