"""How long windows are, and how far apart, in samples."""

import dataclasses
import logging

from hf_utils.errors import UserError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class WindowLengths:
    """How tracks are cut for a model: at `sample_rate` Hz, into windows that, for evaluation, begin a hop apart."""

    sample_rate: int
    window_samples: int
    hop_samples: int

    def warn_of_short(self, num_short: int, num_clips: int) -> None:
        """Log that clips are shorter than a window, if any are: a model hears them several times over."""
        if num_short:
            logger.warning(
                "%d of %d clips are shorter than the window of %.4g s and are repeated to fill it. A shorter "
                "--window_seconds avoids that.",
                *(num_short, num_clips, self.window_samples / self.sample_rate),
            )


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
