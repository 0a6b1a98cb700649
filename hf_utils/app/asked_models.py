"""Classifiers, and what they say of a recording: the same as `--do_predict`. W windows, K genres."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.audio import Recording
from hf_utils.disclosure import show_source
from hf_utils.models.families import is_multi_label
from hf_utils.models.loading import own_genres
from hf_utils.models.temperature import read_temperature
from hf_utils.models.window_pool import WindowPool
from hf_utils.training.classifier import load_config, load_model
from hf_utils.training.prediction_table import PredictionTable, check_unknown, format_row
from hf_utils.training.started_files import start_file


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one classifier says of a recording.

    Attributes:
        prediction: the likeliest genre, or `unknown`.
        likeliest: the likeliest genre, whatever its probability.
        probabilities: float64 (K,), as in a table of predictions.
        spans: start and end of each window, in seconds.
        windows: probabilities of each window, float64 (W, K).
    """

    prediction: str
    likeliest: str
    probabilities: np.ndarray
    spans: list[tuple[float, float]]
    windows: np.ndarray


class AskedModel:
    """A classifier that answers, with the windows, temperature and rounding of `--do_predict`.

    Attributes:
        name: as visitors may see it.
        genres: K names.
        traits: what there is to know about its answers, in words.
    """

    def __init__(self, arguments: RunArguments, name: str = ""):
        """Load a classifier by the options of `--do_predict`.

        Args:
            name: of `show_names`. (default: as if it were alone)

        Raises:
            UserError: as `load_model`, or as `check_genres`.
        """
        check_genres(arguments)  # before its weights are loaded
        self._classifier = load_model(arguments, genres=None)
        self._classifier.model.to(arguments.training.device).eval()
        self._batch_size = arguments.training.per_device_eval_batch_size
        config, lengths = self._classifier.model.config, self._classifier.lengths
        unknown_below = arguments.training.unknown_below
        temperature = None if is_multi_label(config) else read_temperature(config)
        self.name, self.genres = name or show_source(arguments.model.model_name_or_path), own_genres(config)
        self._table = PredictionTable(self.genres, temperature is not None, unknown_below)
        calibrated = "not calibrated" if temperature is None else f"calibrated (temperature {temperature:.3g})"
        self.traits = [
            f"hears {lengths.window_samples / lengths.sample_rate:.3g} s at once",
            "each label by itself" if is_multi_label(config) else calibrated,
            *([] if unknown_below is None else [f"unknown below {100 * unknown_below:.3g} %"]),
        ]

    def ask(self, recording: Recording) -> Answer:
        """Return the answer for a recording. Raises AudioError if the model's outputs are not finite."""
        model, lengths = self._classifier.model, self._classifier.lengths
        extractor, precision = self._classifier.feature_extractor, self._classifier.precision
        with WindowPool(model, extractor, batch_size=self._batch_size, precision=precision) as pool:
            started = start_file(pool, recording.blocks(lengths.sample_rate), lengths)
            times, windows = started.finish(model.config)
        row = format_row(windows.mean(axis=0), self.genres)
        spans = [(float(start), float(end)) for start, end in times]
        return Answer(self._table.judge(row)[0], row[0], np.array(row[1:], np.float64), spans, windows)


def show_names(sources: Sequence[str]) -> list[str]:
    """Return the names of models as visitors may see them: of paths as few last parts as tell them apart."""
    names, num_parts = [show_source(source) for source in sources], 1
    paths = [Path(source) for source in sources]
    while len(set(names)) < len(set(paths)):
        num_parts += 1
        names = [Path(*path.parts[-num_parts:]).as_posix() for path in paths]
    return names


def check_genres(arguments: RunArguments) -> None:
    """Raise UserError if the genres of a classifier cannot be read, or as `check_unknown`."""
    check_unknown(arguments.training.unknown_below, own_genres(load_config(arguments)))
