"""Songs that were cut into pieces beforehand, found by their names: `jazz.00000.3` is a piece of `jazz.00000`.

Pieces of one song in two splits are a leak, so splits keep them together. These names are taken for pieces:

| rule   | pieces of a song                                | why                                                 |
|--------|-------------------------------------------------|-----------------------------------------------------|
| word   | so_what_part2, So What (chunk 4), seg03-so_what | a number with a word for a piece; also so_what_2of5 |
| time   | so_what_30s; so_what_0_30 and so_what_30_60     | times in the song; ranges must have one length      |
| number | jazz.00000.3, 000002_1, rock12-3, song7_0       | a number behind the number of a track               |
| zero   | so_what_0, so_what_1 ...                        | scripts count from 0, people count albums from 1    |

The number of a track has three digits or more and is no year, or it follows the genre or a word such as "track".
`zero` needs three songs of one genre, each numbered from 0 without a gap.

A song needs two pieces. These names are never pieces of a song: tracks of GTZAN; the genre and one number (rock-1 ...
rock-10); a name that several genres share (session_part1); and, except by `number` and ranges of time, a name that all
tracks of a genre share (my_set_clip_1 ...). Other numbers (album-01, CD1_03, `name (2)`) can also count the tracks of
an album or an artist: only the user can tell.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hf_utils.data.genre_spellings import fold_genre
from hf_utils.data.gtzan import track_facts

_PIECE_WORDS = (
    "segment|segm|seg|chunk|slice|split|clip|part|pt|piece|excerpt|snippet|fragment|frag|section|sect|window|win|"
    "frame|crop|cut"
)
_TRACK_WORDS = {"song", "track", "tune", "title", "audio", "file", "rec", "recording", "id", "no", "item"}
_ALBUM_WORDS = {"cd", "disc", "disk", "album", "vol", "volume", "side", "lp", "ep", "box", "set", "season", "year"}
_FEWEST_SONGS = 3
_FEWEST_DIGITS = 3


class _Piece(NamedTuple):
    """A name as a piece: its song, what that is called without folders, number or start of the piece, end if given."""

    name: str
    song: str
    title: str
    start: float
    end: float | None


class _Rule(NamedTuple):
    """The form of a name, and what must hold for all pieces of one song in a genre.

    Attributes:
        is_strong: whether the form leaves no doubt where one song makes up the whole genre.
    """

    form: re.Pattern
    holds: Callable[[list[_Piece], str], bool]
    is_strong: bool = False
    fewest_songs: int = 1


def _hold(pieces: list[_Piece], genre: str) -> bool:
    return True


def _have_one_length(pieces: list[_Piece], genre: str) -> bool:
    """The last piece may be shorter."""
    *others, last = sorted(pieces, key=lambda piece: piece.start)
    lengths = {round(piece.end - piece.start, 3) for piece in others}
    return len(lengths) == 1 and 0 < last.end - last.start <= max(lengths) + 1e-3


def _follow_the_number_of_a_track(pieces: list[_Piece], genre: str) -> bool:
    before, digits = re.fullmatch(r"(.*?)(\d+)", pieces[0].title).groups()
    words = re.findall(r"[^\W\d_]+", before.casefold())
    if words and (words[-1] in _TRACK_WORDS or fold_genre(before, [genre])):
        return True
    is_year = len(digits) == 4 and 1900 <= int(digits) < 2100
    return len(digits) >= _FEWEST_DIGITS and not is_year and not (words and words[-1] in _ALBUM_WORDS)


def _count_from_zero(pieces: list[_Piece], genre: str) -> bool:
    return sorted(piece.start for piece in pieces) == list(range(len(pieces)))


def _form(pattern: str) -> re.Pattern:
    """Compile a pattern in which `~` is a space or punctuation between the parts of a name."""
    return re.compile(pattern.replace("WORD", f"(?<![a-z])(?:{_PIECE_WORDS})s?").replace("~", r"[\s._\-(\[#]"), re.I)


_CERTAIN = (
    _Rule(_form(r"(?P<title>.*?)~*WORD~*(?P<start>\d+)(?:~*of~*\d+)?[)\]]*"), _hold),
    _Rule(_form(r"WORD~*(?P<start>\d+)[)\]]*~+(?P<title>.+)"), _hold),
    _Rule(_form(r"(?P<title>.*?)~+(?P<start>\d+)~*of~*\d+[)\]]*"), _hold),
    _Rule(_form(r"(?P<title>.*?)~+(?P<start>\d+(?:\.\d+)?)(?:s|sec|secs|ms)"), _hold),
    _Rule(_form(r"(?P<title>.*\d)[._\-]{1,2}(?P<start>\d{1,4})"), _follow_the_number_of_a_track, is_strong=True),
    _Rule(
        _form(r"(?P<title>.*?)~+(?P<start>\d+(?:\.\d+)?)s?(?:~|to)+(?P<end>\d+(?:\.\d+)?)s?"),
        _have_one_length,
        is_strong=True,
    ),
    _Rule(_form(r"(?:(?P<title>.+?)[._\-]{1,2})?(?P<start>\d{1,4})"), _count_from_zero, fewest_songs=_FEWEST_SONGS),
)
_POSSIBLE = _Rule(_form(r"(?P<title>.*?)~*(?P<start>\d{1,4})[)\]]?"), _hold)


def find_songs(names: Sequence[str], genres: Sequence[str], *, certain: bool = True) -> dict[str, str]:
    """Return {name of a piece: its song}, without the names that are no pieces.

    Args:
        names: of tracks.
        genres: the genre of each.
        certain: whether only the rules of this module count. Otherwise, a number at the end of a name is enough,
            unless it is all that differs between the tracks of a genre.
    """
    genre_of = dict(zip(names, genres, strict=True))
    sizes = Counter(genre_of.values())
    gtzan = track_facts()
    left = sorted(name for name in genre_of if name not in gtzan)
    songs: dict[str, str] = {}
    for rule in _CERTAIN if certain else (*_CERTAIN, _POSSIBLE):
        songs |= _apply(rule, left, genre_of, sizes)
        left = [name for name in left if name not in songs]
    return songs


def _apply(rule: _Rule, names: list[str], genre_of: dict[str, str], sizes: Counter) -> dict[str, str]:
    """Return {piece: song} of the names that follow one rule; `sizes` counts the tracks of every genre."""
    pieces_of: dict[str, list[_Piece]] = defaultdict(list)
    for name in names:
        if (piece := _read(rule.form, name)) is not None:
            pieces_of[piece.song].append(piece)
    by_genre: dict[str, dict[str, str]] = defaultdict(dict)
    num_songs = Counter()
    for song, pieces in pieces_of.items():
        genre, *others = {genre_of[piece.name] for piece in pieces}
        counts_tracks = others or fold_genre(pieces[0].title, sizes) or len({piece.start for piece in pieces}) == 1
        is_whole_genre = len(pieces) == sizes[genre] and not rule.is_strong
        if not counts_tracks and not is_whole_genre and rule.holds(pieces, genre):
            by_genre[genre] |= {piece.name: song for piece in pieces}
            num_songs[genre] += 1
    return {
        name: song
        for genre, songs in by_genre.items()
        if num_songs[genre] >= rule.fewest_songs
        for name, song in songs.items()
    }


def _read(form: re.Pattern, name: str) -> _Piece | None:
    """Return `name` as a piece, or None. Where a file has only a number, the song is its folder: `jazz/so_what/3`."""
    folder, slash, base = name.rpartition("/")
    match = form.fullmatch(base)
    if match is None:
        return None
    title = (match["title"] or "").rstrip(" ._-([#")
    song = f"{folder}{slash}{title}" if title else folder
    if not song:
        return None
    end = match.groupdict().get("end")
    return _Piece(name, song, title or folder.rpartition("/")[2], float(match["start"]), end and float(end))
