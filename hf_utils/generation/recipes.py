"""What synthetic clips are made from, and which clip is which.

A batch is the unit of work, of resuming and of seeding. Clip i has genre i modulo the number of genres, so genres are
balanced exactly, and stands in batch i // batch_size. The seed rule:

    prompt, parent      derive_seed(seed, "clip", i)
    audio of a batch    derive_seed(seed, "batch", batch, attempt)

Clips that a gate rejects are made again, in a batch of their own, with the next attempt. Which these are follows from
the batch alone, and so the result is a function of the configuration, whatever the number of processes and machines.
Another batch size gives other clips: a generator draws for a whole batch at once.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import datasets

from hf_utils.generation.continuation import Parents
from hf_utils.generation.generators import Checkpoint
from hf_utils.generation.prompts import GenrePrompts
from hf_utils.generation.sampling import Sampling
from hf_utils.seeding import derive_seed

# The columns of each kind of score, by the column that names the model and its revision. Their order is this one,
# whichever score came first.
SCORES = {
    "clap_model": {"clap_genre": "string", "clap_margin": "float64", "clap_similarity": "float64"},
    "classifier_model": {"classifier_genre": "string", "classifier_score": "float64"},
}


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

    checkpoint: Checkpoint
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
        """Return what clip `index` shall be: label, track_id, prompt, parent_id and prompt_start_seconds."""
        label, seed = index % len(self.genres), derive_seed(self.seed, "clip", index)
        kind = "-continued" if self.parents else ""
        clip = {
            "label": label,
            "track_id": f"{self.checkpoint.slug}{kind}-{self.seed}-{index:06d}",
            "prompt": self.prompts[self.genres[label]].draw(seed),
            "parent_id": None,
            "prompt_start_seconds": None,
        }
        return clip | (self.parents.choose(label, index // len(self.genres), seed) if self.parents else {})


def clip_features(genres: Sequence[str], scored: Collection[str] = ()) -> datasets.Features:
    """Return the columns of a synthetic clip; last those of the scores that it has, named as in `SCORES`."""
    texts = "track_id origin parent_id prompt model model_revision dtype versions sha256 fingerprint rejected".split()
    whole = "seed batch batch_row batch_size attempt top_k tokens inference_steps source_rate".split()
    floats = "guidance_scale temperature prompt_seconds prompt_start_seconds gain_db".split()
    features = {"audio": datasets.Audio(decode=False), "label": datasets.ClassLabel(names=list(genres))}
    for names, dtype in ((texts, "string"), (whole, "int64"), (floats, "float64")):
        features |= {name: datasets.Value(dtype) for name in names}
    for model, columns in SCORES.items():
        if model in scored:
            features |= {name: datasets.Value(dtype) for name, dtype in {model: "string", **columns}.items()}
    return datasets.Features(features)
