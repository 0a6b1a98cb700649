"""Text-to-audio pipelines of diffusers (AudioLDM2, Stable Audio, ACE-Step, LongCat). B clips, C channels, T samples.

diffusers is imported only when a checkpoint asks for it.
"""

import inspect
from collections.abc import Sequence

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from hf_utils.errors import UserError
from hf_utils.generation.sampling import Sampling, expect_finite
from hf_utils.models.weights import expect_filled, expect_finite_weights

# The names that pipelines have for the length of a clip.
DURATION_NAMES = ("audio_length_in_s", "audio_end_in_s", "audio_duration", "audio_duration_s", "duration")
# int(seconds * rate) inside the pipelines would lose a sample to rounding.
_ROUNDING_SECONDS = 1e-6


def find_pipeline_class(name: str) -> type:
    """Return the pipeline class of that name.

    Raises:
        UserError: diffusers is missing or too old for it, or it makes no audio of a chosen length from text.
    """
    try:
        import diffusers
    except ImportError as error:
        raise UserError(
            f"A {name} needs diffusers, which is not installed: pip install diffusers ({error})"
        ) from error
    pipeline = getattr(diffusers, name, None)
    if pipeline is None:
        raise UserError(f"diffusers {diffusers.__version__} has no {name}: another version may")
    names = inspect.signature(pipeline.__call__).parameters
    if "prompt" not in names or _duration_name(pipeline) is None:
        raise UserError(
            f"{name} is no text-to-audio pipeline: expected arguments prompt and one of {', '.join(DURATION_NAMES)}"
        )
    return pipeline


def _duration_name(pipeline: type) -> str | None:
    names = inspect.signature(pipeline.__call__).parameters
    return next((name for name in DURATION_NAMES if name in names), None)


def plan_diffusion(
    kind: str,
    *,
    clip_seconds: float,
    prompt_seconds: float = 0.0,
    guidance_scale: float | None = None,
    top_k: int | None = None,
    temperature: float | None = None,
    inference_steps: int | None = None,
) -> Sampling:
    """Return the sampling of a pipeline of class `kind`; what is None is the pipeline's own default.

    Raises:
        UserError: an option means nothing to a diffusion model.
    """
    for name, value in (("top_k", top_k), ("temperature", temperature), ("continue_from", prompt_seconds or None)):
        if value is not None:
            raise UserError(f"{name} is for MusicGen; {kind} is a diffusion pipeline, to which it means nothing")
    parameters = inspect.signature(find_pipeline_class(kind).__call__).parameters
    steps = parameters["num_inference_steps"].default if inference_steps is None else inference_steps
    if steps is None:
        raise UserError(f"{kind} has no default for the number of denoising steps: give --inference_steps (8 to 100)")
    guidance_scale = parameters["guidance_scale"].default if guidance_scale is None else guidance_scale
    return Sampling(clip_seconds, 0.0, guidance_scale, inference_steps=steps)


class DiffusionGenerator:
    """A pipeline with its weights; attributes as in `musicgen.MusicgenGenerator`."""

    def __init__(self, name: str, revision: str | None, sampling: Sampling, dtype: torch.dtype, device: torch.device):
        from diffusers import DiffusionPipeline

        encoders = _load_encoders(name, revision, dtype)
        pipeline = DiffusionPipeline.from_pretrained(name, revision=revision, dtype=dtype, **encoders)
        _expect_filled_components(name, pipeline)
        self._pipeline = pipeline.to(device)
        self._pipeline.set_progress_bar_config(disable=True)
        self.sample_rate = _sample_rate(self._pipeline)
        self.sampling = sampling
        self.dtype = dtype

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Compute in `dtype` from now on. float32 and back loses nothing of half-precision weights."""
        self._pipeline.to(dtype=dtype)
        self.dtype = dtype

    def generate(self, prompts: Sequence[str], seed: int, continued: np.ndarray | None = None) -> np.ndarray:
        """Return (B, C, T) float32.

        Raises:
            NonFiniteError: NaN or infinity in the audio.
            UserError: the pipeline refuses the length or another argument.
        """
        assert continued is None, "plan_diffusion would have refused to continue audio"
        parameters = inspect.signature(type(self._pipeline).__call__).parameters
        options = {
            _duration_name(type(self._pipeline)): self.sampling.clip_seconds + _ROUNDING_SECONDS,
            "num_inference_steps": self.sampling.inference_steps,
            "guidance_scale": self.sampling.guidance_scale,
            "generator": torch.Generator("cpu").manual_seed(seed),
        }
        if "lyrics" in parameters:
            # Without lyrics ACE-Step may sing gibberish.
            options["lyrics"] = ["[instrumental]"] * len(prompts)
        # Some schedulers and text encoders draw from the global generator.
        torch.manual_seed(seed)
        try:
            with torch.inference_mode():
                audio = self._pipeline(prompt=list(prompts), **options).audios
        except ValueError as error:
            raise UserError(f"{type(self._pipeline).__name__} refuses: {error}") from error
        audio = audio.float().cpu().numpy() if isinstance(audio, torch.Tensor) else np.asarray(audio, np.float32)
        return expect_finite(audio if audio.ndim == 3 else audio[:, None])


def _load_encoders(name: str, revision: str | None, dtype: torch.dtype) -> dict[str, PreTrainedModel]:
    """Return a pipeline's models of transformers by component.

    diffusers would load them, too, but leave at random whatever the file lacks.
    """
    from diffusers import DiffusionPipeline

    encoders = {}
    for component, source in DiffusionPipeline.load_config(name, revision=revision).items():
        library, kind = source if isinstance(source, list) and len(source) == 2 else (None, None)
        model_class = getattr(transformers, kind, None) if library == "transformers" and kind else None
        if isinstance(model_class, type) and issubclass(model_class, PreTrainedModel):
            encoders[component], info = model_class.from_pretrained(
                name,
                subfolder=component,
                revision=revision,
                dtype=dtype,
                ignore_mismatched_sizes=True,  # listed in `info`, and refused
                output_loading_info=True,
            )
            expect_filled(f"{name}/{component}", encoders[component], info)
    return encoders


def _expect_filled_components(name: str, pipeline) -> None:
    """Raise UserError if a model of diffusers has weights that its file lacks, or that are not finite."""
    models = {part: model for part, model in pipeline.components.items() if isinstance(model, torch.nn.Module)}
    for component, model in models.items():
        if missing := [key for key, parameter in model.named_parameters() if parameter.is_meta]:
            raise UserError(
                f"the weights of '{name}/{component}' do not fit its configuration: {len(missing)} missing, e.g. "
                f"{min(missing)}. The checkpoint is incomplete or mixed with another model's."
            )
        expect_finite_weights(f"{name}/{component}", model)


def _sample_rate(pipeline) -> int:
    for part in (getattr(pipeline, "vocoder", None), getattr(pipeline, "vae", None)):
        rate = getattr(getattr(part, "config", None), "sampling_rate", None)
        if rate:
            return int(rate)
    return int(pipeline.sample_rate)
