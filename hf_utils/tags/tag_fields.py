"""The genre of an audio file, and where it comes from, in the tags of its format.

| format                 | genre                | provenance                                |
|------------------------|----------------------|-------------------------------------------|
| MP3, WAV, AIFF         | TCON of ID3v2        | TXXX:GENRE_PROVENANCE                     |
| FLAC, Ogg Vorbis, Opus | Vorbis comment GENRE | Vorbis comment GENRE_PROVENANCE           |
| M4A, MP4               | ©gen                 | ----:com.apple.iTunes:GENRE_PROVENANCE    |

mutagen reads and writes them. It is under the GPL, version 2 or later; nothing else of this project needs it.
"""

import contextlib
import functools
import io
import os
import re
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import soundfile

from hf_utils.errors import UserError

try:
    from mutagen.aiff import AIFF
    from mutagen.apev2 import APENoHeaderError, APEv2
    from mutagen.flac import FLAC
    from mutagen.id3 import ID3, TCON, TXXX, ID3NoHeaderError, TextFrame
    from mutagen.mp3 import MP3, HeaderNotFoundError
    from mutagen.mp4 import MP4, AtomDataType, MP4FreeForm
    from mutagen.oggopus import OggOpus
    from mutagen.oggvorbis import OggVorbis
    from mutagen.wave import WAVE
except ImportError as error:
    raise UserError(
        "hf_utils.tags needs the package mutagen, which is under the GPL, version 2 or later, and so is installed by "
        "itself: pip install -r requirements-tags.txt"
    ) from error

_PROVENANCE = "GENRE_PROVENANCE"
_UTF8 = 3
_ID3_HEADER = struct.Struct(">3s3x4B")
# How files begin, ID3v2 tags in front passed over.
_BEGINNINGS = (
    (rb"RIFF....WAVE", WAVE),
    (rb"FORM....AIF[FC]", AIFF),
    (rb"fLaC", FLAC),
    (rb"OggS.{24,}?\x01vorbis", OggVorbis),
    (rb"OggS.{24,}?OpusHead", OggOpus),
    (rb"....ftyp", MP4),
)


class TagError(ValueError):
    """A file whose tags are left as they are. The message is only the reason: the caller knows the file."""


class Fields(NamedTuple):
    """What we write, as it is stored; an empty list where a file has no such field."""

    genre: list[str]
    provenance: list[str]


class TagFile(Protocol):
    """The tags of a file. `save` writes what was `put`.

    Attributes:
        fields: genre and provenance, as stored.
        genres: the genre as a reader shows it: ID3 stores some by number.
        others: all other tags, comparable.
    """

    fields: Fields
    genres: list[str]
    others: Any

    def put(self, fields: Fields) -> None: ...

    def save(self) -> None: ...


def open_tags(path: str) -> TagFile:
    """Return the tags of an audio file; what is in it, not its name, decides on the format.

    Raises:
        TagError: the file is of a format whose tags are not written here; its tags cannot be read, or could not all
            be kept; or its genre is in a place that is not written here.
        OSError: it cannot be read.
    """
    with explain_tag_errors():
        kind = _find_kind(path)
        if kind in (WAVE, AIFF):
            return _Id3ChunkFile(path, kind)
        if kind is MP4:
            return _Mp4File(path)
        return _VorbisFile(path, kind) if kind else _Mp3File(path)


def _find_kind(path: str) -> type | None:
    """Return which class of mutagen reads the file; None for MP3. Raises TagError if none does."""
    with open(path, "rb") as file:
        header = file.read(_ID3_HEADER.size)
        if header.startswith(b"ID3") and len(header) == _ID3_HEADER.size:
            _, *sizes = _ID3_HEADER.unpack(header)
            file.seek(functools.reduce(lambda total, part: total << 7 | part, sizes), io.SEEK_CUR)
            header = b""
        header += file.read(128)
    for beginning, kind in _BEGINNINGS:
        if re.match(beginning, header, re.DOTALL):
            return kind
    try:
        info = MP3(path).info
        # A frame or two can be found in the bytes of any other format by chance.
        is_mp3 = info.layer == 3 and not info.sketchy
    except HeaderNotFoundError:
        is_mp3 = False
    if not is_mp3:
        raise TagError("is of no format whose tags are written here: MP3, FLAC, Ogg Vorbis, Opus, M4A, WAV, AIFF")
    return None


@contextlib.contextmanager
def explain_tag_errors() -> Iterator[None]:
    """Raise TagError where mutagen cannot read or write."""
    try:
        yield
    except (TagError, OSError):
        raise
    except Exception as error:  # of damaged tags mutagen raises more than its MutagenError, such as IndexError
        reason = f"{type(error).__name__} {error}".strip()
        raise TagError(f"its tags cannot be read or written ({reason})") from error


class _Id3File:
    """Frames are kept as they are, in the version of ID3v2 that they have (2.2 becomes 2.3, which has the same)."""

    _GENRE, _OWN = "TCON", f"TXXX:{_PROVENANCE}"

    def __init__(self, path: str, tags: ID3):
        self._path, self._tags = path, tags
        # Values are parted by zeros, as they are read; mutagen would join them by a slash.
        self._options = {"v2_version": 3 if tags.version[1] in (2, 3) else 4, "v23_sep": None}

    @property
    def fields(self) -> Fields:
        frames = (self._tags.get(key) for key in (self._GENRE, self._OWN))
        return Fields(*([*frame.text] if frame and str(frame) else [] for frame in frames))

    @property
    def genres(self) -> list[str]:
        return _drop_blank(self._tags[self._GENRE].genres if self._GENRE in self._tags else [])

    @property
    def others(self) -> Any:
        frames = {key: frame for key, frame in self._tags.items() if key not in (self._GENRE, self._OWN)}
        # Frames without a text are not written again.
        kept = {k: repr(frame) for k, frame in frames.items() if not isinstance(frame, TextFrame) or str(frame)}
        return kept, sorted(self._tags.unknown_frames)

    def put(self, fields: Fields) -> None:
        self._tags.setall(self._GENRE, [TCON(encoding=_UTF8, text=fields.genre)] if fields.genre else [])
        own = [TXXX(encoding=_UTF8, desc=_PROVENANCE, text=fields.provenance)] if fields.provenance else []
        self._tags.setall(self._OWN, own)


class _Id3ChunkFile(_Id3File):
    """WAV and AIFF have ID3v2 in a chunk."""

    def __init__(self, path: str, kind: type[WAVE] | type[AIFF]):
        file = kind(path, translate=False, load_v1=False)
        if file.tags is None:
            file.add_tags()
        super().__init__(path, file.tags)
        if listed := _read_listed_genre(path):
            raise TagError(f"has the genre {listed} in a RIFF INFO list, which is not written here")

    def save(self) -> None:
        with explain_tag_errors():
            self._tags.save(self._path, **self._options)


def _read_listed_genre(path: str) -> str:
    """Return the genre in the INFO list of a WAV file, which mutagen does not read."""
    try:
        with soundfile.SoundFile(os.fsencode(path)) as sound:  # as text it would have to be UTF-8
            return sound.genre.strip()
    except soundfile.SoundFileError:
        return ""


class _Mp3File(_Id3File):
    """ID3v2 in front. ID3v1 at the end is left as it is: who reads ID3v2 does not look at it."""

    def __init__(self, path: str):
        super().__init__(path, _load_id3(path))
        with contextlib.suppress(APENoHeaderError):
            if listed := _drop_blank([str(APEv2(path).get("Genre", ""))]):
                raise TagError(f"has the genre {listed[0]} in an APE tag, which is not written here")

    def save(self) -> None:
        written = io.BytesIO()
        with explain_tag_errors():
            self._tags.save(written, v1=0, **self._options)
        with open(self._path, "r+b") as file:
            file.seek(self._tags.size)
            rest = file.read()
            file.seek(0)
            file.write(written.getvalue())
            file.write(rest)
            file.truncate()


def _load_id3(path: str) -> ID3:
    """Return the ID3v2 tags of an MP3 file; where it has none, what its ID3v1 tag says."""
    with contextlib.suppress(ID3NoHeaderError):
        return ID3(path, translate=False, load_v1=False)
    with contextlib.suppress(ID3NoHeaderError):
        return ID3(path, translate=False)
    return ID3()


class _VorbisFile:
    _GENRE = "GENRE"

    def __init__(self, path: str, kind: type[FLAC] | type[OggVorbis] | type[OggOpus]):
        self._path, self._file = path, kind(path)
        if self._file.tags is None:
            self._file.add_tags()
        if lost := [key for key, value in self._file.tags if "\ufffd" in value]:
            raise TagError(f"has comments that are no UTF-8 and could not be kept: {', '.join(lost)}")

    @property
    def fields(self) -> Fields:
        return Fields(*([*self._file.tags.get(key, [])] for key in (self._GENRE, _PROVENANCE)))

    @property
    def genres(self) -> list[str]:
        return _drop_blank(self.fields.genre)

    @property
    def others(self) -> Any:
        return [(key, value) for key, value in self._file.tags if key.upper() not in (self._GENRE, _PROVENANCE)]

    def put(self, fields: Fields) -> None:
        # An empty list removes the key.
        self._file.tags[self._GENRE], self._file.tags[_PROVENANCE] = fields

    def save(self) -> None:
        with explain_tag_errors():
            self._file.save(self._path)


class _Mp4File:
    """A genre by number (gnre) is read as its name, and comes back as that."""

    _GENRE, _OWN = "\xa9gen", f"----:com.apple.iTunes:{_PROVENANCE}"

    def __init__(self, path: str):
        self._path, self._file = path, MP4(path)
        if self._file.tags is None:
            self._file.add_tags()

    @property
    def fields(self) -> Fields:
        own = [bytes(value).decode(errors="replace") for value in self._file.tags.get(self._OWN, [])]
        return Fields([*self._file.tags.get(self._GENRE, [])], own)

    @property
    def genres(self) -> list[str]:
        return _drop_blank(self.fields.genre)

    @property
    def others(self) -> Any:
        return {key: repr(value) for key, value in self._file.tags.items() if key not in (self._GENRE, self._OWN)}

    def put(self, fields: Fields) -> None:
        own = [MP4FreeForm(text.encode(), AtomDataType.UTF8) for text in fields.provenance]
        for key, values in ((self._GENRE, fields.genre), (self._OWN, own)):
            self._file.tags.pop(key, None)
            if values:
                self._file.tags[key] = values

    def save(self) -> None:
        with explain_tag_errors():
            self._file.save(self._path)


def _drop_blank(genres: list[str]) -> list[str]:
    return [genre.strip() for genre in genres if genre.strip()]
