"""The test tracks that a model missed with the highest probability, to be listened to: `mistakes.html` of a run."""

from pathlib import Path

import numpy as np

from hf_utils.disclosure import show_source
from hf_utils.report.findings import describe_track
from hf_utils.report.mistakes import Choice, Listener, show_players
from hf_utils.report.page import Page, Player, Section, Text, write_html
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
    trainer = experiment.trainer
    listener = Listener(trainer.model, trainer.processing_class, experiment.windows[evaluated.name])
    players = [_play(listener, record, evaluated, index) for index in order.tolist()]
    blocks = [Text(f"{len(missed)} of {len(labels)} {evaluated.name} tracks were missed.")]
    if players:
        blocks += show_players("Those missed with the highest probability", players)
    model = record.model["name"] if record.training is None else str(output_dir)
    title = f"Mistakes of {show_source(model)} on {show_source(record.data['dataset'])}"
    banner = "Demo data: no number here is a result." if record.demo else ""
    path = Path(output_dir, MISTAKES_FILE)
    write_html(Page(title, banner, "", [Section(f"Set: {evaluated.name}", blocks)]), path)
    return path


def _play(listener: Listener, record: RunRecord, evaluated: EvaluatedSet, index: int) -> Player:
    label, top = int(evaluated.labels[index]), int(evaluated.predictions[index])
    choice, given = Choice(record.genres[top], record.genres[label], top, label), evaluated.probabilities[index]
    known = "" if record.demo else describe_track(evaluated.track_ids[index], choice.genre)
    lines = [*filter(None, [known]), choice.describe(given)]
    return listener.play(index, evaluated.logits[evaluated.track_index == index], choice, lines)
