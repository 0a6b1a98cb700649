"""Spelling variants of one genre, and labels as numbers of one list of names."""

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from hf_utils.errors import UserError

logger = logging.getLogger(__name__)


def spelling_key(name: str) -> str:
    """Return what spelling variants of one genre share: `Hip-Hop` and `hip_hop` give `hiphop`.

    Only case, spaces, `-` and `_` are passed over, and in which of its equal ways Unicode composes a letter: `R&B` and
    `RB`, `Drum'n'Bass` and `DrumNBass` are different genres.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
    return "".join(c for c in folded if not (c.isspace() or c in "-_")) or folded


def fold_genre(name: str, genres: Iterable[str]) -> str | None:
    """Return the one of `genres` that `name` is a spelling of, or None. The identical spelling comes first."""
    genres = list(genres)
    if name in genres:
        return name
    return next((genre for genre in genres if spelling_key(genre) == spelling_key(name)), None)


def choose_spellings(names: Iterable[str]) -> list[str]:
    """Return the genres among `names`, in their order: of several spellings of one the most frequent, then the first.

    The order is that of the first spelling of each genre.
    """
    spellings: dict[str, Counter] = {}
    for name in names:
        spellings.setdefault(spelling_key(name), Counter())[name] += 1
    return [min(counts, key=lambda name: (-counts[name], name)) for counts in spellings.values()]


def number_labels(names: Sequence[str | None], genres: Sequence[str]) -> list[int]:
    """Return the index in `genres` of every name. A notice is logged for each variant that was folded.

    Raises:
        UserError: clips without a label, or labels that are no spelling of any of `genres`.
    """
    counts = Counter(names)
    if None in counts:
        raise UserError(f"{counts[None]} of {len(names)} clips have no label. Label them or leave them out.")
    folded = {name: fold_genre(name, genres) for name in counts}
    if unknown := sorted(name for name, genre in folded.items() if genre is None):
        listing = ", ".join(f"{name!r} ({counts[name]} clips)" for name in unknown)
        raise UserError(f"Labels that are none of the genres: {listing}. Expected: {', '.join(genres)}.")
    for name, genre in sorted(folded.items()):
        if name != genre:
            logger.warning("Label %r is read as genre %r (%d clips).", name, genre, counts[name])
    index = {genre: number for number, genre in enumerate(genres)}
    return [index[folded[name]] for name in names]
