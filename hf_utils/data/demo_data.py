"""The demonstration dataset: a folder of genre folders of FLAC files, synthesised, the same on every run.

    python -m hf_utils.data.demo_data --output_dir data/demo
    python -m hf_utils.data.demo_data --output_dir data/small --genres 3 --tracks_per_genre 6 --seconds 4

It shows that everything runs. No number from it is a result.
"""

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from tqdm import tqdm

from hf_utils.audio import MIN_SECONDS, encode_flac
from hf_utils.data.demo_music import SAMPLE_RATE, STYLES, synthesise
from hf_utils.errors import UserError
from hf_utils.files import write_atomically

logger = logging.getLogger(__name__)

MARKER_NAME = "DEMO.md"
_MARKER_TEXT = """# Demonstration data

Synthesised "music" in made-up genres, written by `python -m hf_utils.data.demo_data`. It shows that everything runs.
No number from it is a result.

    {settings}
"""
# Raised whenever the same settings would give other samples.
_MUSIC_VERSION = 1


def write_demo_data(
    output_dir: str | os.PathLike, genres: int, tracks_per_genre: int, seconds: float, seed: int
) -> None:
    """Write `<output_dir>/<genre>/<genre>.<number>.flac`, and `DEMO.md` first; what is there already is kept.

    Args:
        output_dir: a new folder, or one begun by the same settings, which is completed.
        genres: how many of the styles of `demo_music`, in their order.
        tracks_per_genre: from 1.
        seconds: length of a track.
        seed: other seeds give other tracks.

    Raises:
        UserError: a number is out of range, or the folder holds anything else than a demo of these settings.
    """
    if not 1 <= genres <= len(STYLES) or tracks_per_genre < 1 or not MIN_SECONDS <= seconds <= 600:
        raise UserError(
            f"expected 1 to {len(STYLES)} genres, 1 or more tracks per genre and {MIN_SECONDS:g} to 600 seconds, "
            f"found {genres}, {tracks_per_genre} and {seconds:g}"
        )
    folder = Path(output_dir)
    _claim(folder, dict(genres=genres, tracks_per_genre=tracks_per_genre, seconds=float(seconds), seed=seed))
    tracks = [
        (genre, number, folder / genre / f"{genre}.{number:05d}.flac")
        for genre in list(STYLES)[:genres]
        for number in range(tracks_per_genre)
    ]
    missing = [track for track in tracks if not track[2].is_file()]
    disable = None if missing else True  # None: on a terminal there is a bar
    for genre, number, path in tqdm(missing, desc="Synthesising demo music", unit="track", disable=disable):
        write_atomically(path, encode_flac(synthesise(genre, number, seconds, seed), SAMPLE_RATE))
    logger.info("%s: %d demo tracks, %d of them new", folder, len(tracks), len(missing))


def _claim(folder: Path, settings: dict) -> None:
    """Write the marker, or check that it is ours."""
    text = _MARKER_TEXT.format(settings=json.dumps({**settings, "version": _MUSIC_VERSION}))
    marker = folder / MARKER_NAME
    if marker.is_file():
        if marker.read_text(encoding="utf-8") != text:
            raise UserError(f"{folder} holds demo data of other settings (see {marker}). Remove it or choose another.")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is no demo data. Choose another --output_dir.")
    else:
        write_atomically(marker, text)


def is_demo(source: str) -> bool:
    """Return whether a dataset is a folder that `write_demo_data` wrote."""
    return Path(source, MARKER_NAME).is_file()


def main(argv: list[str] | None = None) -> int:
    """Write the dataset that the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog="python -m hf_utils.data.demo_data",
    )
    parser.add_argument("--output_dir", required=True, metavar="FOLDER", help="new, or begun by the same command")
    parser.add_argument("--genres", type=int, default=10, help="1 to 10 (default: %(default)s)")
    parser.add_argument("--tracks_per_genre", type=int, default=12, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=12, help="length of a track (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        write_demo_data(**vars(parser.parse_args(argv)))
    except UserError as error:
        logger.error("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
