"""Real training clips that a generator goes on from. T samples."""

import dataclasses
from collections.abc import Mapping, Sequence

import datasets
import numpy as np

from hf_utils.arguments.data import SourceArguments
from hf_utils.data.bad_audio import drop_problems
from hf_utils.data.clips import genre_names
from hf_utils.data.corpus import load_split_clips
from hf_utils.data.genre_spellings import fold_genre
from hf_utils.data.splits import select_split
from hf_utils.data.waveforms import decode_clips, read_samples
from hf_utils.errors import UserError
from hf_utils.listing import listing
from hf_utils.seeding import derive_seed


def load_training_clips(args: SourceArguments, sample_rate: int) -> datasets.Dataset:
    """Return the decoded training split of the real clips that `args` name."""
    clips = select_split(load_split_clips(args), "train")
    decoded = decode_clips(clips, sample_rate, cache_dir=args.waveform_cache_dir, num_proc=args.num_proc)
    return drop_problems(decoded, args.on_bad_audio)


@dataclasses.dataclass(frozen=True)
class Parents:
    """The clips of each genre, in a shuffled order, and how much of one is heard.

    Attributes:
        by_genre: rows of decoded clips (`waveforms.decode_clips`) per label.
        prompt_samples: at the generator's rate, which the clips are decoded at.
    """

    by_genre: Sequence[Sequence[Mapping]]
    prompt_samples: int
    sample_rate: int

    def choose(self, label: int, occurrence: int, seed: int) -> dict:
        """Return parent_id, parent_sha256 and prompt_start_seconds of the `occurrence`-th clip of a genre.

        Parents take turns, so that none is used twice before all were used once.
        """
        parent = self.by_genre[label][occurrence % len(self.by_genre[label])]
        start = derive_seed(seed, "start") % (parent["num_samples"] - self.prompt_samples + 1)
        known = {"parent_id": parent["track_id"], "parent_sha256": parent["sha256"]}
        return known | {"prompt_start_seconds": start / self.sample_rate}

    def read(self, clips: Sequence[Mapping]) -> np.ndarray:
        """Return what each of B clips goes on from, (B, T) float32."""
        parents = {row["track_id"]: row for rows in self.by_genre for row in rows}
        starts = [round(clip["prompt_start_seconds"] * self.sample_rate) for clip in clips]
        return np.stack(
            [
                read_samples(parents[clip["parent_id"]], start, self.prompt_samples)
                for clip, start in zip(clips, starts, strict=True)
            ]
        )

    @property
    def recordings(self) -> list[str]:
        """Digests of all parents, in order: what the clips depend on."""
        return [row["sha256"] for rows in self.by_genre for row in rows]


def make_parents(
    clips: datasets.Dataset, genres: Sequence[str], prompt_seconds: float, sample_rate: int, seed: int
) -> Parents:
    """Return the parents among decoded training clips.

    Raises:
        UserError: a clip is outside the training split or not real, or a genre has none that is long enough.
    """
    outside = [
        row["track_id"]
        for row in clips.select_columns(["track_id", "split", "origin"])
        if row["split"] != "train" or row["origin"] != "real"
    ]
    if outside:
        raise UserError(
            f"continue_from: {len(outside)} are no real clips of the training split ({listing(outside)}). "
            "Continuations would carry validation or test music into training."
        )
    prompt_samples, names = round(prompt_seconds * sample_rate), genre_names(clips)
    by_genre: list[list[Mapping]] = [[] for _ in genres]
    for row in clips.to_list():
        genre = fold_genre(names[row["label"]], genres)
        if genre is not None and row["num_samples"] >= prompt_samples:
            by_genre[genres.index(genre)].append(row)
    if missing := [genre for genre, rows in zip(genres, by_genre, strict=True) if not rows]:
        raise UserError(
            f"continue_from: no training clip of {prompt_seconds:g} s or more for {', '.join(missing)}; the dataset "
            f"has {', '.join(names)}"
        )
    for rows in by_genre:
        rows.sort(key=lambda row: derive_seed(seed, "parent", row["track_id"]))
    return Parents(by_genre, prompt_samples, sample_rate)
