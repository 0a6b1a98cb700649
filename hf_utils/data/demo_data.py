"""The demonstration dataset: a folder of genre folders of FLAC files, synthesised, the same on every run.

    python -m hf_utils.data.demo_data --output_dir data/demo
    python -m hf_utils.data.demo_data --output_dir data/small --genres 3 --tracks_per_genre 6 --seconds 4

It shows that everything runs. No number from it is a result.

There are ten made-up styles. A style fixes tempo, rhythm, timbre, harmony and drive; every track draws its tempo, key,
chords, melody, timbre and balance within its style. Loudness is drawn without regard to the style, so that it tells
nothing of the genre. Shapes: T samples.
"""

import dataclasses
import json
import logging
import os
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hf_utils.audio import encode_flac
from hf_utils.errors import UserError
from hf_utils.files import write_atomically
from hf_utils.launch import module_parser
from hf_utils.seeding import derive_seed
from hf_utils.sound_check import MIN_SECONDS

logger = logging.getLogger(__name__)
SAMPLE_RATE = 22050
MARKER_NAME = "DEMO.md"
_MARKER_TEXT = """# Demonstration data

Synthesised "music" in made-up genres, written by `python -m hf_utils.data.demo_data`. It shows that everything runs.
No number from it is a result.

    {settings}
"""

# Raised whenever the same settings would give other samples.
_MUSIC_VERSION = 1

_MAJOR, _MINOR, _PENTATONIC = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9)
_TONIC_HZ = 110.0


def _saw(softness: float, num_partials: int = 12) -> tuple:
    return tuple((n, n**-softness) for n in range(1, num_partials + 1))


_SQUARE = tuple((n, 1 / n) for n in range(1, 20, 2))
_HOLLOW = tuple((n, n**-1.3) for n in range(1, 10, 2))
_BELL = ((1, 1.0), (2.76, 0.7), (5.4, 0.5), (8.93, 0.3))


@dataclasses.dataclass(frozen=True)
class _Style:
    """Rhythms are one bar, or a part that repeats: `x` is a note, `.` none.

    `partials` are (multiple of the note's frequency, amplitude); `decay_seconds` is the time to a third of the level.
    `harmony` are the steps of the scale, above a chord's root, that sound; `octave` shifts chords and melody; `drums`
    is their level; `drive` is the gain into saturation.
    """

    bpm: tuple[int, int]
    partials: tuple
    attack_seconds: float
    decay_seconds: float
    scale: tuple = _MAJOR
    harmony: tuple = (0, 2, 4)
    octave: int = 0
    beats: int = 4
    steps_per_beat: int = 4
    drums: float = 1.0
    kick: str = "."
    snare: str = "."
    hat: str = "."
    bass: str = "."
    chord: str = "x..............."
    lead: str = "."
    drive: float = 1.0
    echo: float = 0.0


STYLES = {
    "demo_ambient": _Style((60, 80), _saw(2.2, 5), 1.2, 2.0, harmony=(0, 4, 8), echo=0.5),
    "demo_ballad": _Style((60, 76), _saw(1.8), 0.01, 0.7, bass="x.......", chord="x...", lead="x...x.x."),
    "demo_bells": _Style((90, 120), _BELL, 0.002, 0.9, _PENTATONIC, (0,), octave=1, chord="x.......", lead="x.x.xxx."),
    "demo_chiptune": _Style((140, 165), _SQUARE, 0.002, 0.12, octave=1, bass="x.x.", chord="x.xxx.x.", lead="xxx."),
    "demo_dub": _Style(
        (66, 78), _saw(0.9), 0.005, 0.15, _MINOR, drums=0.6, kick="........x.......", snare="........x.......",
        bass="xx.xx.xxx.......", chord="..x...x...x...x.", echo=0.6,
    ),
    "demo_march": _Style(
        (104, 124), _saw(0.6), 0.04, 0.5, harmony=(0, 4), octave=1, drums=2.0, kick="x.......",
        snare="x...xxx.x.xxxxxx", bass="x...", chord="x...x...", lead="x..xx...",
    ),
    "demo_punk": _Style(
        (170, 200), _saw(1.0), 0.003, 0.6, _MINOR, (0, 4, 7), octave=-1, kick="x...x.x.", snare="....x...", hat="x.x.",
        bass="x.x.", chord="x.x.", drive=25.0,
    ),
    "demo_swing": _Style(
        (120, 165), _HOLLOW, 0.03, 0.3, harmony=(0, 2, 4, 6), steps_per_beat=3, drums=1.5, hat="x..x.x", bass="x..",
        chord=".....x......", lead="x.xx..x.x..x",
    ),
    "demo_techno": _Style(
        (124, 138), _saw(1.1), 0.005, 0.1, _MINOR, drums=2.0, kick="x...", hat="..x.", bass=".xxx", chord="...x..x.",
    ),
    "demo_waltz": _Style(
        (150, 190), _saw(1.0), 0.08, 0.25, octave=1, beats=3, steps_per_beat=2, bass="x.....", chord="..x.x.",
        lead="x.x.xx",
    ),
}  # fmt: skip


def synthesise(style_name: str, number: int, seconds: float, seed: int) -> np.ndarray:
    """Return track `number` of a style: float32 (T,) at `SAMPLE_RATE`, which depends on the arguments only."""
    style = STYLES[style_name]
    rng = np.random.default_rng(derive_seed(seed, "demo", style_name, number))
    num_samples = round(seconds * SAMPLE_RATE)
    step_samples = SAMPLE_RATE * 60 / rng.uniform(*style.bpm) / style.steps_per_beat
    drums, tones = (
        _play_drums(style, step_samples, num_samples, rng),
        _play_tones(style, step_samples, num_samples, rng),
    )
    music = style.drums * rng.uniform(0.8, 1.25) * drums + tones
    if style.echo:
        delay = round(3 * step_samples)
        for turn in range(1, 5):
            music[turn * delay :] += style.echo**turn * tones[: max(num_samples - turn * delay, 0)]
    music /= np.abs(music).max()
    drive = style.drive * rng.uniform(0.8, 1.25)
    music = np.tanh(drive * music) / np.tanh(drive)
    music += rng.normal(0, 10 ** (rng.uniform(-65, -45) / 20), num_samples)
    level = 10 ** (rng.uniform(-24, -18) / 20) / np.sqrt(np.mean(music**2))
    return (music * min(level, 0.98 / np.abs(music).max())).astype(np.float32)


def _onsets(rhythm: str, step_samples: float, num_samples: int) -> list[tuple[int, int]]:
    """Return (step, first sample) of every note of a track."""
    steps = range(int(np.ceil(num_samples / step_samples)))
    return [(step, int(step * step_samples)) for step in steps if rhythm[step % len(rhythm)] == "x"]


def _add(track: np.ndarray, start: int, sound: np.ndarray, gain: float) -> None:
    part = track[start : start + len(sound)]
    part += gain * sound[: len(part)]


def _play_drums(style: _Style, step_samples: float, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    time = np.arange(SAMPLE_RATE // 4) / SAMPLE_RATE
    noise = rng.normal(size=time.size)
    sweep_hz = rng.uniform(45, 60) + 120 * np.exp(-time / 0.02)
    kick = np.sin(2 * np.pi * np.cumsum(sweep_hz) / SAMPLE_RATE) * np.exp(-time / rng.uniform(0.06, 0.12))
    body = np.sin(2 * np.pi * rng.uniform(170, 220) * time)
    snare = (0.5 * noise + 0.5 * body) * np.exp(-time / rng.uniform(0.04, 0.08))
    hat = np.diff(noise, 2, prepend=0, append=0) * np.exp(-time / rng.uniform(0.015, 0.04))
    track = np.zeros(num_samples)
    for rhythm, sound, gain in ((style.kick, kick, 1.2), (style.snare, snare, 0.9), (style.hat, hat, 0.12)):
        gain *= rng.uniform(0.7, 1.3)
        for _, start in _onsets(rhythm, step_samples, num_samples):
            _add(track, start, sound, gain * rng.uniform(0.8, 1.1))
    return track


def _play_tones(style: _Style, step_samples: float, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    amplitudes = rng.uniform(0.8, 1.25, len(style.partials))
    partials = [(ratio, level * jitter) for (ratio, level), jitter in zip(style.partials, amplitudes, strict=True)]
    key, decay_seconds = rng.integers(-3, 4), style.decay_seconds * rng.uniform(0.8, 1.25)
    roots = [0, *rng.permutation([2, 3, 4, 5]) % len(style.scale)]
    bar_steps = style.beats * style.steps_per_beat
    notes: dict[int, np.ndarray] = {}

    def play(track: np.ndarray, start: int, degree: int, gain: float) -> None:
        if degree not in notes:
            octave, position = divmod(degree, len(style.scale))
            hz = _TONIC_HZ * 2 ** (octave + (key + style.scale[position]) / 12)
            notes[degree] = _tone(hz, partials, style.attack_seconds, decay_seconds)
        _add(track, start, notes[degree], gain)

    octave, degree, track = len(style.scale), 0, np.zeros(num_samples)
    shift = style.octave * octave
    for step, start in _onsets(style.chord, step_samples, num_samples):
        for above in style.harmony:
            play(track, start, roots[step // bar_steps % len(roots)] + above + octave + shift, 0.3)
    for step, start in _onsets(style.bass, step_samples, num_samples):
        play(track, start, roots[step // bar_steps % len(roots)] - octave, 0.5)
    for _, start in _onsets(style.lead, step_samples, num_samples):
        degree = int(np.clip(degree + rng.integers(-2, 3), -3, 7))
        if rng.random() < 0.9:
            play(track, start, degree + 2 * octave + shift, 0.4)
    return track


def _tone(hz: float, partials: list, attack_seconds: float, decay_seconds: float) -> np.ndarray:
    time = np.arange(int((attack_seconds + 3 * decay_seconds) * SAMPLE_RATE)) / SAMPLE_RATE
    audible = [(ratio, level) for ratio, level in partials if ratio * hz < SAMPLE_RATE / 2]
    wave = sum(level * np.sin(2 * np.pi * ratio * hz * time) for ratio, level in audible)
    envelope = np.minimum(time / attack_seconds, 1) * np.exp(-time / decay_seconds)
    return wave * envelope * np.minimum((time[-1] - time) / 0.02, 1)  # no click at the end


def write_demo_data(
    output_dir: str | os.PathLike, genres: int, tracks_per_genre: int, seconds: float, seed: int
) -> None:
    """Write `<output_dir>/<genre>/<genre>.<number>.flac`, and `DEMO.md` first; what is there already is kept.

    Args:
        output_dir: a new folder, or one begun by the same settings, which is completed.
        genres: how many of `STYLES`, in their order.
        tracks_per_genre: from 1.
        seconds: length of a track.
        seed: other seeds give other tracks.

    Raises:
        UserError: a number is out of range, or the folder holds anything but a demo of these settings.
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
    parser = module_parser("hf_utils.data.demo_data", __doc__)
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
