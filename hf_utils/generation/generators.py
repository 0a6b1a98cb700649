"""Music generators: which back end a checkpoint needs, and one batch of audio from it. B clips, C channels, T samples.

The back end follows from the checkpoint, not from a flag: a folder with a model_index.json is a pipeline of diffusers,
one whose config.json says `musicgen` is MusicGen in transformers. A checkpoint is identified by its commit on the Hub,
a folder by a digest of its files.
"""

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.errors import HfHubHTTPError
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from hf_utils.errors import UserError
from hf_utils.generation import diffusion, musicgen
from hf_utils.generation.sampling import NonFiniteError, Sampling
from hf_utils.models.checkpoints import LOADING_ERRORS
from hf_utils.models.weights import check_files

logger = logging.getLogger(__name__)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LICENSES = {
    "musicgen": "cc-by-nc-4.0",
    "AudioLDM2Pipeline": "cc-by-nc-sa-4.0",
    "AceStepPipeline": "mit",
    "LongCatAudioDiTPipeline": "mit",
}
# Of those that the Hub has no word for.
_LICENSE_NAMES = {
    "StableAudioPipeline": "Stability AI Community License",
    "StableAudio3Pipeline": "Stability AI Community License",
}


@dataclasses.dataclass(frozen=True)
class GeneratorCheckpoint:
    """A generator's checkpoint, identified without loading weights.

    Attributes:
        name: of the Hub or a folder, as the user gave it.
        kind: "musicgen", or the class of the pipeline of diffusers.
        revision: the commit on the Hub; for a folder, a digest of its files.
    """

    name: str
    kind: str
    revision: str

    @property
    def is_local(self) -> bool:
        """Whether the checkpoint is a folder."""
        return Path(self.name).is_dir()

    @property
    def hub_revision(self) -> str | None:
        """What loading functions take as `revision`."""
        return None if self.is_local else self.revision

    @property
    def license(self) -> str:
        """The licence of the published weights of this kind, as the Hub spells it; "other" if unknown."""
        return _LICENSES.get(self.kind, "other")

    @property
    def license_name(self) -> str:
        """The licence in words, for a reader."""
        return _LICENSE_NAMES.get(self.kind, self.license)

    @property
    def slug(self) -> str:
        """The last part of the name, fit for a track_id."""
        return re.sub(r"[^a-z0-9.-]+", "-", Path(self.name).name.lower()).strip("-") or self.kind.lower()


def identify_checkpoint(name: str, revision: str | None) -> GeneratorCheckpoint:
    """Return what a checkpoint is; downloads its configuration at most.

    Raises:
        UserError: it cannot be found, a file of it is not whole, or it is no music generator that is supported.
    """
    index = find_file(name, revision, "model_index.json")
    _check_files(name, revision)
    if index is not None:
        kind = json.loads(Path(index).read_text(encoding="utf-8")).get("_class_name")
        diffusion.find_pipeline_class(str(kind))
        return GeneratorCheckpoint(name, kind, resolve_revision(name, revision, "model_index.json"))
    commit = resolve_revision(name, revision, "config.json")
    config = musicgen.load_musicgen_config(name, None if Path(name).is_dir() else commit)
    return GeneratorCheckpoint(name, config.model_type, commit)


def find_file(name: str, revision: str | None, file: str) -> str | None:
    """Return the local path of a file of a checkpoint, downloaded if need be, or None if the checkpoint has none.

    Raises:
        UserError: there is no such checkpoint, or it cannot be reached.
    """
    if revision is not None and Path(name).is_dir():
        raise UserError(f"A revision ({revision!r}) is for checkpoints on the Hub; {name} is a folder.")
    try:
        return cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
    except (OSError, HfHubHTTPError, ValueError) as error:
        hint = "" if Path(name).exists() else f"\nIf {name!r} was meant to be a local folder: it does not exist here."
        raise UserError(f"Cannot load the checkpoint {name!r}: {error}{hint}") from error


def _check_files(name: str, revision: str | None) -> None:
    """Raise UserError if a file that is here, in a folder or downloaded, is not whole."""
    for file in ("model_index.json", "config.json"):
        if path := find_file(name, revision, file):
            folder, is_pipeline = Path(path).parent, file == "model_index.json"
            for part in (folder, *filter(Path.is_dir, folder.iterdir() if is_pipeline else ())):
                check_files(part, all_here=Path(name).is_dir())
            return


def resolve_revision(name: str, revision: str | None, file: str) -> str:
    """Return the commit of a checkpoint that has `file`; for a folder, a digest of all its files.

    Other weights under one name make other music, and a folder has no commit.

    Raises:
        UserError: there is no such checkpoint or file, or it cannot be reached.
    """
    path = find_file(name, revision, file)
    if path is None:
        if Path(name).is_dir():
            raise UserError(f"The checkpoint {name!r} has no {file}.")
        raise UserError(
            f"The checkpoint {name!r} has no {file} that could be read. Check its name, and the network (or "
            "HF_HUB_OFFLINE): what is not in the cache comes from the Hub, also for a preview."
        )
    if Path(name).is_dir():
        return _digest_folder(Path(name))
    return extract_commit_hash(path, None) or revision or "main"


def _digest_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    # The training state and curves of a run's folder are no part of its model, nor are its earlier checkpoints.
    files = {path for pattern in ("*.json", "*.safetensors", "*.bin") for path in folder.rglob(pattern)}
    for path in sorted(files - set(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/**/*"))):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:16]


def plan_sampling(checkpoint: GeneratorCheckpoint, **options) -> Sampling:
    """Return how clips are sampled; `options` are those of `musicgen.plan_musicgen`, None for a default.

    Raises:
        UserError: the clip is too long, or an option means nothing to this generator.
    """
    if checkpoint.kind == "musicgen":
        config = musicgen.load_musicgen_config(checkpoint.name, checkpoint.hub_revision)
        return musicgen.plan_musicgen(config, **options)
    return diffusion.plan_diffusion(checkpoint.kind, **options)


def native_rate(checkpoint: GeneratorCheckpoint) -> int:
    """Return the sampling rate in Hz that a MusicGen works at, without loading its weights."""
    config = musicgen.load_musicgen_config(checkpoint.name, checkpoint.hub_revision)
    return config.audio_encoder.sampling_rate


def load_generator(checkpoint: GeneratorCheckpoint, sampling: Sampling, dtype: str, device: torch.device):
    """Return a `musicgen.MusicgenGenerator` or `diffusion.DiffusionGenerator` with its weights on `device`."""
    backend = musicgen.MusicgenGenerator if checkpoint.kind == "musicgen" else diffusion.DiffusionGenerator
    try:
        return backend(checkpoint.name, checkpoint.hub_revision, sampling, DTYPES[dtype], device)
    except torch.OutOfMemoryError as error:
        raise UserError(f"The weights of {checkpoint.name} do not fit on {device}: {error}") from error
    except UserError:
        raise
    except LOADING_ERRORS as error:
        _check_files(checkpoint.name, checkpoint.hub_revision)  # those that were downloaded meanwhile
        raise UserError(f"Cannot load the generator {checkpoint.name!r}: {error}") from error


def generate_batch(
    generator, prompts: Sequence[str], seed: int, continued: np.ndarray | None = None
) -> tuple[np.ndarray, str]:
    """Return audio (B, C, T), float32 at `generator.sample_rate`, and the dtype that it was made in.

    A batch in which anything is not finite is made again in float32; if that fails too, it comes back as it is, and
    the gates reject it. Out of memory, nothing is halved in silence: the batch size is part of the seed rule.

    Args:
        prompts: B texts.
        seed: of the whole batch.
        continued: (B, T) mono audio at `generator.sample_rate` that the clips go on from.

    Raises:
        UserError: out of memory, or the generator refuses the length.
    """
    name = next(name for name, dtype in DTYPES.items() if dtype == generator.dtype)
    try:
        try:
            return generator.generate(prompts, seed, continued), name
        except NonFiniteError as error:
            if name == "fp32":
                return error.audio, name
            logger.warning("A batch in %s gave %s: it is made again in fp32.", name, error)
        generator.set_dtype(torch.float32)
        try:
            return generator.generate(prompts, seed, continued), "fp32"
        except NonFiniteError as error:
            return error.audio, "fp32"
        finally:
            generator.set_dtype(DTYPES[name])
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(len(prompts), generator.sampling) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise _out_of_memory(len(prompts), generator.sampling) from error


def _out_of_memory(batch_size: int, sampling: Sampling) -> UserError:
    advice = (
        f"--batch_size {batch_size // 2} and a new --output_dir (clips of another batch size are other clips, so this "
        "folder cannot go on with it), or a device with more memory"
        if batch_size > 1
        else "--dtype bf16, shorter clips, a smaller checkpoint, or a device with more memory"
    )
    return UserError(
        f"Out of memory with a batch of {batch_size} clips of {sampling.clip_seconds:g} s. Finished batches are kept. "
        f"Use {advice}."
    )
