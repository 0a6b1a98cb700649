"""The plan of a synthetic dataset: from options to a recipe, and from a recipe to what each clip is and costs.

A batch is the unit of work, of resuming and of seeding. Clip i has genre i modulo the number of genres, so genres are
balanced exactly, and is in batch i // batch_size. The seed rule:

    prompt, parent      derive_seed(seed, "clip", i)
    audio of a batch    derive_seed(seed, "batch", batch, attempt)

Clips that a gate rejects are made again, in a separate batch, with the next attempt. Which these are follows from
the batch alone, and so the result is a function of the configuration, whatever the number of processes and machines.
Another batch size gives other clips: a generator draws for a whole batch at once.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import datasets
import torch

from hf_utils.arguments.generation import GenerationArguments
from hf_utils.arguments.training import has_bf16_hardware
from hf_utils.cards.dataset_card import UNKNOWN_CLIPS
from hf_utils.data.clips import genre_names
from hf_utils.data.corpus import load_split_clips
from hf_utils.data.genre_spellings import fold_genre
from hf_utils.data.gtzan import track_facts
from hf_utils.disclosure import show_source
from hf_utils.errors import UserError
from hf_utils.generation.continuation import Parents, load_training_clips, make_parents
from hf_utils.generation.generators import (
    GeneratorCheckpoint,
    identify_checkpoint,
    native_rate,
    plan_sampling,
    resolve_revision,
)
from hf_utils.generation.prompts import GenrePrompts, hash_prompts, load_prompts
from hf_utils.generation.sampling import Sampling
from hf_utils.seeding import derive_seed
from hf_utils.versions import installed_versions

# The columns of each kind of score, by the column that names the model and its revision. Their order is this one,
# whichever score came first.
SCORE_COLUMNS = {
    "clap_model": {"clap_genre": "string", "clap_margin": "float64", "clap_similarity": "float64"},
    "classifier_model": {"classifier_genre": "string", "classifier_score": "float64"},
}

# FLAC of music at 22,050 Hz, as a share of 16-bit PCM.
_FLAC_SHARE = 0.65

# What of `folder_config` the user does not choose.
ENVIRONMENT = ("device", "versions")
_PACKAGES = "torch transformers diffusers numpy soxr soundfile".split()


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that the clips depend on, except for the libraries.

    Attributes:
        clips_per_genre: exact.
        max_attempts: times that a clip is made at most.
        sample_rate: of the clips that are kept, in Hz.
        rms_db: their loudness in dBFS, unless full scale is in the way.
        parents: real clips to continue, or None.
    """

    checkpoint: GeneratorCheckpoint
    sampling: Sampling
    dtype: str
    genres: Sequence[str]
    prompts: Mapping[str, GenrePrompts]
    clips_per_genre: int
    batch_size: int
    seed: int
    max_attempts: int
    sample_rate: int
    rms_db: float
    parents: Parents | None = None

    @property
    def num_clips(self) -> int:
        """Number of clips of all genres."""
        return self.clips_per_genre * len(self.genres)

    @property
    def num_batches(self) -> int:
        """Number of batches; the last may be smaller."""
        return -(-self.num_clips // self.batch_size)

    @property
    def num_samples(self) -> int:
        """Length of a clip at `sample_rate`."""
        return int(self.sampling.clip_seconds * self.sample_rate + 1e-6)

    def batch_indices(self, batch: int) -> range:
        """Return the numbers of the clips of a batch."""
        return range(batch * self.batch_size, min((batch + 1) * self.batch_size, self.num_clips))

    def describe_clip(self, index: int) -> dict:
        """Return what clip `index` is to be: label, track_id, prompt, its parent (id and digest) and its start."""
        label, seed = index % len(self.genres), derive_seed(self.seed, "clip", index)
        kind = "-continued" if self.parents else ""
        clip = {
            "label": label,
            "track_id": f"{self.checkpoint.slug}{kind}-{self.seed}-{index:06d}",
            "prompt": self.prompts[self.genres[label]].draw(seed),
            "parent_id": None,
            "parent_sha256": None,
            "prompt_start_seconds": None,
        }
        return clip | (self.parents.choose(label, index // len(self.genres), seed) if self.parents else {})


def clip_features(genres: Sequence[str], scored: Collection[str] = ()) -> datasets.Features:
    """Return the columns of a synthetic clip; last those of the scores that it has, named as in `SCORE_COLUMNS`."""
    texts = (
        "track_id origin parent_id parent_sha256 prompt model model_revision dtype versions sha256 fingerprint "
        "rejected"
    ).split()
    whole = "seed batch batch_row batch_size attempt top_k tokens inference_steps source_rate".split()
    floats = "guidance_scale temperature prompt_seconds prompt_start_seconds gain_db".split()
    features = {"audio": datasets.Audio(decode=False), "label": datasets.ClassLabel(names=list(genres))}
    for names, dtype in ((texts, "string"), (whole, "int64"), (floats, "float64")):
        features |= {name: datasets.Value(dtype) for name in names}
    for model, columns in SCORE_COLUMNS.items():
        if model in scored:
            features |= {name: datasets.Value(dtype) for name, dtype in {model: "string", **columns}.items()}
    return datasets.Features(features)


def make_recipe(args: GenerationArguments, device: torch.device) -> Recipe:
    """Return what the options ask for; loads no weights.

    Raises:
        UserError: the generator, the prompts or the clips to continue are missing or contradict the options.
    """
    checkpoint = identify_checkpoint(args.model_name_or_path, args.model_revision)
    sampling = plan_sampling(
        checkpoint,
        clip_seconds=args.clip_seconds,
        prompt_seconds=args.prompt_seconds or 0.0,
        guidance_scale=args.guidance_scale,
        top_k=args.top_k,
        temperature=args.temperature,
        inference_steps=args.inference_steps,
    )
    genres, parents = args.genres, None
    if genres is None:
        genres = genre_names(load_split_clips(args)) if args.continue_from else _gtzan_genres()
    if args.continue_from is not None:
        rate = native_rate(checkpoint)
        real = load_training_clips(args, rate)
        parents = make_parents(real, genres, args.prompt_seconds, rate, args.seed)
    return Recipe(
        checkpoint,
        sampling,
        choose_dtype(args.dtype, device),
        genres,
        load_prompts(args.prompts, genres),
        args.clips_per_genre,
        args.batch_size,
        args.seed,
        args.max_attempts,
        args.sampling_rate,
        args.rms_db,
        parents,
    )


def _gtzan_genres() -> list[str]:
    return sorted({track["genre"] for track in track_facts().values()})


def real_clips(args: GenerationArguments, recipe: Recipe) -> dict[str, Any]:
    """Return the options that give the real clips to train on beside the generated ones, as far as they are known."""
    options = args.source_options()
    if args.continue_from is None and args.report is None:
        if not all(fold_genre(genre, _gtzan_genres()) for genre in recipe.genres):
            options["dataset_name"] = UNKNOWN_CLIPS
    return options


def choose_dtype(asked: str, device: torch.device) -> str:
    """Return fp32, bf16 or fp16; `auto` is bf16 where it is done in hardware. Raises UserError for fp16 on a CPU."""
    on_cpu = device.type == "cpu"
    if asked == "fp16" and on_cpu:
        raise UserError("dtype fp16 needs a GPU: use bf16 or fp32 on the processor")
    if asked == "auto":
        return "bf16" if has_bf16_hardware(on_cpu) else "fp32"
    return asked


def describe_cost(recipe: Recipe) -> str:
    """Return what the recipe takes, in numbers that hold on any machine."""
    minutes = recipe.num_clips * recipe.sampling.clip_seconds / 60
    disk = recipe.num_clips * recipe.num_samples * 2 * _FLAC_SHARE
    disk_text = f"{disk / 1e9:.2f} GB" if disk >= 1e8 else f"{disk / 1e6:.1f} MB"
    steps = recipe.sampling.steps
    genres = f"{len(recipe.genres)} genre{'s'[: len(recipe.genres) > 1]}"
    return (
        f"{recipe.num_clips} clips of {recipe.sampling.clip_seconds:g} s ({recipe.clips_per_genre} for each of "
        f"{genres}), {minutes:.1f} minutes of audio, some {disk_text} on disk; "
        f"{recipe.num_batches} batches of up to {recipe.batch_size} clips, {steps} steps each, "
        f"{recipe.num_batches * steps} steps in all ({recipe.checkpoint.kind}, {recipe.dtype})"
    )


def describe_prompts(recipe: Recipe, per_genre: int) -> str:
    """Return the prompts of the first `per_genre` clips of every genre."""
    lines = []
    for label, genre in enumerate(recipe.genres):
        clips = [recipe.describe_clip(label + k * len(recipe.genres)) for k in range(per_genre)]
        lines.append(genre)
        for clip in clips[: recipe.clips_per_genre]:
            parent = f"  (from {clip['parent_id']})" if clip["parent_id"] else ""
            lines.append(f"  {clip['track_id']}  {clip['prompt']}{parent}")
    return "\n".join(lines)


def library_versions(recipe: Recipe) -> dict[str, str | None]:
    """Return the versions of the libraries that decide about samples."""
    packages = [name for name in _PACKAGES if name != "diffusers" or recipe.checkpoint.kind != "musicgen"]
    return installed_versions(packages)


def folder_config(recipe: Recipe, args: GenerationArguments, device: torch.device) -> dict:
    """Return all that the clips depend on, JSON-ready; a folder goes on only with an equal one. Not the scores."""
    parents = recipe.parents
    return {
        "model": show_source(recipe.checkpoint.name),
        "model_revision": recipe.checkpoint.revision,
        "generator": recipe.checkpoint.kind,
        **dataclasses.asdict(recipe.sampling),
        "dtype": recipe.dtype,
        "device": device.type,
        "genres": list(recipe.genres),
        "prompts": hash_prompts(recipe.prompts),
        "clips_per_genre": recipe.clips_per_genre,
        "batch_size": recipe.batch_size,
        "seed": recipe.seed,
        "max_attempts": recipe.max_attempts,
        "sampling_rate": recipe.sample_rate,
        "rms_db": recipe.rms_db,
        "continue_from": show_source(args.continue_from) if parents else None,
        "parents": hashlib.sha256(json.dumps(parents.recordings).encode()).hexdigest()[:16] if parents else None,
        "versions": library_versions(recipe),
    }


def name_scorers(args: GenerationArguments) -> dict[str, str]:
    """Return which models score the clips, as name@revision, by the columns that name them in `SCORE_COLUMNS`."""
    asked = {"clap_model": args.clap_model, "classifier_model": args.score_with}
    return {
        column: f"{show_source(name)}@{resolve_revision(name, None, 'config.json')}"
        for column, name in asked.items()
        if name is not None
    }
