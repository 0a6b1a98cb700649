"""A few clips before and after their transforms, to listen to and to look at."""

import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hf_utils.audio import encode_flac
from hf_utils.augmentation.copies import CopyPlan
from hf_utils.augmentation.pipeline import AugmentedClip, bring_to_full_scale
from hf_utils.files import file_stem, write_atomically
from hf_utils.results.plots import encode_png

_FRAME_SAMPLES, _HOP_SAMPLES = 2048, 512
# Below the loudest point of the clip before; what is quieter is drawn black.
_RANGE_DB = 80


class Preview(NamedTuple):
    """A copy to listen to: the clip, what was applied to it, line by line, and the names of its files."""

    track_id: str
    applied: str
    files: list[str]


def write_preview(plan: CopyPlan, folder: Path, num_clips: int) -> list[Preview]:
    """Write `<copy>.before.flac`, `.after.flac` and `.png` of `num_clips` copies, spread over all of the plan.

    Raises:
        UserError: a clip cannot be used, or the folder cannot be written.
    """
    entries = [entry for shard in plan.shards for entry in shard if plan.copies[entry[1]].name is not None]
    chosen = np.linspace(0, len(entries) - 1, min(num_clips, len(entries))).astype(int)
    previews = []
    for row, copy_index in (entries[i] for i in chosen):
        clip, copy = plan.clips[row], plan.copies[copy_index]
        samples, sample_rate, _ = plan.read_clip(clip)
        before = bring_to_full_scale(samples, []).samples
        after, _ = copy.apply(before, sample_rate, clip["track_id"])
        stem = file_stem(f"{clip['track_id']}+{copy.name}-{copy.number}")
        files = {
            f"{stem}.before.flac": encode_flac(before, sample_rate),
            f"{stem}.after.flac": encode_flac(after.samples, sample_rate),
            f"{stem}.png": encode_png(_spectrograms(before, after, sample_rate, clip["track_id"])),
        }
        for name, content in files.items():
            write_atomically(folder / name, content)
        previews.append(Preview(clip["track_id"], describe_transforms(after), list(files)))
    return previews


def format_previews(previews: list[Preview], folder: Path) -> str:
    """Return the folder, and per copy what was applied and its files."""
    lines = [f"{len(previews)} clips before and after, with spectrograms, are in {folder}:"]
    for preview in previews:
        lines += ["", preview.track_id, textwrap.indent(f"{preview.applied}\n{'  '.join(preview.files)}", "  ")]
    return "\n".join(lines)


def describe_transforms(clip: AugmentedClip) -> str:
    """Return one line per transform, with its drawn parameters, and one for the gain where there was one."""
    lines = []
    for note in clip.transforms:
        drawn = ", ".join(f"{key} {_shortened(value)}" for key, value in note.items() if key != "transform")
        lines.append(f"{note['transform']}: {drawn}" if drawn else note["transform"])
    if clip.gain < 1:
        lines.append(f"whole clip lowered by {-20 * np.log10(clip.gain):.1f} dB")
    return "\n".join(lines) or "nothing was applied"


def _shortened(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else textwrap.shorten(str(value), 40)


def _spectrograms(before: np.ndarray, after: AugmentedClip, sample_rate: int, track_id: str):
    """Return a matplotlib Figure of two spectrograms with one colour scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained", dpi=120)
    levels = [_spectrogram_db(samples) for samples in (before, after.samples)]
    top = max(level.max() for level in levels)
    titles = (f"{track_id}\nbefore", "after\n" + describe_transforms(after))
    seconds, khz = before.size / sample_rate, sample_rate / 2000
    panels = figure.subplots(1, 2, sharey=True)
    for axes, level, title in zip(panels, levels, titles, strict=True):
        image = axes.imshow(
            level, origin="lower", aspect="auto", cmap="magma", vmin=top - _RANGE_DB, vmax=top,
            extent=(0, seconds, 0, khz), interpolation="antialiased",
        )  # fmt: skip
        axes.set_title(title, fontsize=8, loc="left", parse_math=False, wrap=True)
        axes.set_xlabel("time (s)")
    panels[0].set_ylabel("frequency (kHz)")
    figure.colorbar(image, ax=panels, label="power (dB)", fraction=0.03, pad=0.01)
    return figure


def _spectrogram_db(samples: np.ndarray) -> np.ndarray:
    """Return the power of Hann-windowed frames in dB, (frequencies, frames)."""
    samples = np.pad(samples, (0, max(_FRAME_SAMPLES - samples.size, 0)))
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME_SAMPLES)[::_HOP_SAMPLES]
    power = np.abs(np.fft.rfft(frames * np.hanning(_FRAME_SAMPLES))) ** 2
    return 10 * np.log10(power.T + 1e-10)
