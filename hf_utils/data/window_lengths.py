"""How long windows are, and how far apart, in samples."""

import dataclasses

from hf_utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class WindowLengths:
    """How tracks are cut for a model: at `sample_rate` Hz, into windows that, for evaluation, begin a hop apart."""

    sample_rate: int
    window_samples: int
    hop_samples: int


def hop_samples_for(window_samples: int, hop_seconds: float | None, sample_rate: int, *, share: float = 0.5) -> int:
    """Return the step between windows: unless given, a share of a window. Raises UserError for gaps."""
    if hop_seconds is None:
        return max(1, int(share * window_samples))
    hop_samples = round(hop_seconds * sample_rate)
    if not 0 < hop_samples <= window_samples:
        raise UserError(
            f"eval_hop_seconds or validation_hop_seconds is {hop_seconds}, expected more than 0 and at most the "
            f"window's {window_samples / sample_rate:g} s: beyond that some audio is never heard"
        )
    return hop_samples
