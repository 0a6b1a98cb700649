"""The temperature of a checkpoint, by which its probabilities are honest: see `hf_utils.results.calibration`.

It is in config.json, and beside that nowhere: not in the model while it is trained, since it is of the weights that
come out.
"""

import json
import math
import os
from pathlib import Path

from transformers import PreTrainedConfig

from hf_utils.errors import UserError
from hf_utils.files import write_atomically

# Not `temperature`: transformers takes that for an option of text generation, and drops it.
TEMPERATURE_FIELD = "calibration_temperature"


def read_temperature(config: PreTrainedConfig) -> float | None:
    """Return the temperature of a checkpoint; None for one without it.

    Raises:
        UserError: it is no number above 0.
    """
    temperature = getattr(config, TEMPERATURE_FIELD, None)
    if temperature is None:
        return None
    is_number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    if not is_number or not math.isfinite(temperature) or temperature <= 0:
        raise UserError(
            f"{TEMPERATURE_FIELD} in the config.json of {config.name_or_path} is {temperature!r}, expected a number "
            "above 0: take it out, or train again"
        )
    return float(temperature)


def forget_temperature(config: PreTrainedConfig) -> None:
    """Remove the temperature from a configuration in memory."""
    if hasattr(config, TEMPERATURE_FIELD):
        delattr(config, TEMPERATURE_FIELD)


def write_temperature(folder: str | os.PathLike, temperature: float) -> None:
    """Add the temperature to the config.json of a saved checkpoint."""
    path = Path(folder, "config.json")
    config = json.loads(path.read_text(encoding="utf-8")) | {TEMPERATURE_FIELD: temperature}
    write_atomically(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
