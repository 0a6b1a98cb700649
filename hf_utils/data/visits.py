"""Which tracks an epoch visits, how often, and which windows are mixed. N tracks, V visits of an epoch, K genres.

All of it is drawn from the run's seed, the epoch and the names of the tracks. It is the same for any number of
data-loader workers and processes, however the epoch is cut into batches, and after a resume.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hf_utils.seeding import derive_seed


class Visit(NamedTuple):
    """A window of a track that an epoch visits.

    Attributes:
        clip: number of the track.
        seed: of the window's start, and of every later random choice about it.
    """

    clip: int
    seed: int


@dataclasses.dataclass(frozen=True)
class VisitPlan:
    """How an epoch visits the tracks.

    Attributes:
        per_track: windows of each track.
        balanced: whether each genre is visited equally often: V is N * per_track, rounded to a multiple of K. The
            tracks of a genre take turns, in an order that is drawn anew in each epoch.
        mixup_alpha: of mixup (Zhang et al. 2018, arXiv 1710.09412): a window is mixed with another one of the same
            epoch, and keeps a share that is drawn from Beta(alpha, alpha); 0 for none. The paper pairs the windows of
            a batch. Here the partner is drawn from the seed of the window, so it does not depend on the batch; it is
            read for this purpose once more.
    """

    per_track: int = 1
    balanced: bool = False
    mixup_alpha: float = 0.0

    def list_visits(self, clips: Sequence[Mapping], seed: int, epoch: int) -> list[Visit]:
        """Return the V visits of an epoch; V is the same in each.

        Args:
            clips: rows with `track_id` and `label`.
            seed: of the run.
        """
        if self.balanced:
            turns = self._take_turns(clips, seed, epoch)
        else:
            turns = [(clip, number) for number in range(self.per_track) for clip in range(len(clips))]
        # The first visit has the seed that it had before there were others.
        parts = [(clip, (clips[clip]["track_id"], *([number] if number else []))) for clip, number in turns]
        return [Visit(clip, derive_seed(seed, epoch, *names)) for clip, names in parts]

    def _take_turns(self, clips: Sequence[Mapping], seed: int, epoch: int) -> list[tuple[int, int]]:
        """Return (number of a track, number of its visit) of as many visits for each genre."""
        genres = defaultdict(list)
        for clip, row in enumerate(clips):
            genres[row["label"]].append(clip)
        per_genre = max(1, round(len(clips) * self.per_track / len(genres)))
        turns = []
        for _, tracks in sorted(genres.items()):
            tracks.sort(key=lambda clip: derive_seed(seed, epoch, clips[clip]["track_id"], "turn"))
            turns += [(tracks[turn % len(tracks)], turn // len(tracks)) for turn in range(per_genre)]
        return turns

    def draw_partner(self, number: int, visits: Sequence[Visit]) -> tuple[int, float]:
        """Return the number of the visit that is mixed into visit `number`, and the share that the latter keeps.

        The only visit of an epoch is its own partner.
        """
        seed = visits[number].seed
        step = 1 + derive_seed(seed, "partner") % max(1, len(visits) - 1)
        share = np.random.default_rng(derive_seed(seed, "share")).beta(self.mixup_alpha, self.mixup_alpha)
        return (number + step) % len(visits), float(share)
