"""MusicGen in transformers (Copet et al. 2023, arXiv 2306.05284). B clips, C channels, T samples.

Lengths follow from the delay pattern: a step adds one token per codebook, and each codebook of a channel begins one
step after the one before, so N frames take N + (codebooks per channel) - 1 steps.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForTextToWaveform, AutoProcessor, LogitsProcessor, LogitsProcessorList
from transformers.models.encodec.modeling_encodec import EncodecDecoderOutput

from hf_utils.errors import UserError
from hf_utils.generation.sampling import NonFiniteError, Sampling, expect_finite
from hf_utils.models.weights import expect_filled

# The length of its training examples; positions beyond it are accepted in silence, and the music falls apart.
MAX_SECONDS = 30.0
# Of the paper and of audiocraft. transformers would take its own 50 for top_k.
GUIDANCE_SCALE, TOP_K, TEMPERATURE = 3.0, 250, 1.0
# EnCodec's widest layer has 64 values for every sample: 35 clips of 30 s are more than 2^31, which CUDA's padding
# refuses. It gains nothing from larger batches, and its memory grows with them.
DECODED_AT_ONCE = 16


def load_musicgen_config(name: str, revision: str | None):
    """Return the configuration of a MusicGen. Raises UserError for another model."""
    # A warning about the pad token, which is one past the codebook by design.
    transformers.logging.get_logger("transformers.configuration_utils").setLevel("ERROR")
    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot load the generator {name!r}: {error}") from error
    if config.model_type == "musicgen_melody":
        raise UserError(
            f"{name} is a MusicGen Melody, which wants a melody: use musicgen-small, -medium, -large or -stereo-*"
        )
    if config.model_type != "musicgen":
        raise UserError(
            f"{name} is a {config.model_type}, expected a MusicGen or a text-to-audio pipeline of diffusers"
        )
    return config


def plan_musicgen(
    config,
    *,
    clip_seconds: float,
    prompt_seconds: float = 0.0,
    guidance_scale: float | None = None,
    top_k: int | None = None,
    temperature: float | None = None,
    inference_steps: int | None = None,
) -> Sampling:
    """Return the sampling of a MusicGen of this `config`. Raises UserError if clip and prompt exceed `MAX_SECONDS`."""
    if inference_steps is not None:
        raise UserError("inference_steps is for diffusion models; the steps of MusicGen follow from clip_seconds")
    if clip_seconds + prompt_seconds > MAX_SECONDS:
        raise UserError(
            f"clip_seconds is {clip_seconds:g}"
            + (f" and prompt_seconds {prompt_seconds:g}" if prompt_seconds else "")
            + f", expected at most {MAX_SECONDS:g} s together: MusicGen was trained on {MAX_SECONDS:g} s, and what it "
            "makes beyond that falls apart, though no error says so"
        )
    codebooks = config.decoder.num_codebooks // config.decoder.audio_channels
    frames = math.ceil(clip_seconds * config.audio_encoder.frame_rate - 1e-6)
    return Sampling(
        clip_seconds,
        prompt_seconds,
        GUIDANCE_SCALE if guidance_scale is None else guidance_scale,
        top_k=TOP_K if top_k is None else top_k,
        temperature=TEMPERATURE if temperature is None else temperature,
        tokens=frames + codebooks - 1,
    )


class MusicgenGenerator:
    """A MusicGen with its weights.

    Attributes:
        sample_rate: of what it makes, in Hz.
        dtype: of the text encoder and the decoder. EnCodec stays in float32: in bfloat16 its output would have the
            noise of 8 bits.
        sampling: how it samples.
    """

    def __init__(self, name: str, revision: str | None, sampling: Sampling, dtype: torch.dtype, device: torch.device):
        self._processor = AutoProcessor.from_pretrained(name, revision=revision)
        model, info = AutoModelForTextToWaveform.from_pretrained(
            name,
            revision=revision,
            dtype=dtype,
            attn_implementation={"decoder": "sdpa"},
            ignore_mismatched_sizes=True,  # listed in `info`, and refused
            output_loading_info=True,
        )
        expect_filled(name, model, info)
        self._model = model.to(device).eval()
        # Otherwise every call would warn that `max_new_tokens` overrules it.
        self._model.generation_config.max_length = None
        codec = self._model.audio_encoder
        codec.decode = functools.partial(decode_in_parts, codec.decode)
        self.sample_rate = self._model.config.sampling_rate
        self.sampling = sampling
        self.set_dtype(dtype)

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Compute in `dtype` from now on. float32 and back loses nothing of half-precision weights."""
        self._model.to(dtype)
        self._model.audio_encoder.float()
        self.dtype = dtype

    def generate(self, prompts: Sequence[str], seed: int, continued: np.ndarray | None = None) -> np.ndarray:
        """Return (B, C, T) float32: clips that go on from `continued` (B, T), which is cut off.

        Raises:
            NonFiniteError: NaN or infinity among the logits or in the audio.
        """
        device, sampling = self._model.device, self.sampling
        inputs = self._processor(text=list(prompts), padding=True, return_tensors="pt").to(device)
        skipped = 0
        if continued is not None:
            channels = self._model.config.decoder.audio_channels
            samples = torch.from_numpy(continued)[:, None].repeat(1, channels, 1)
            inputs["input_values"] = samples.to(device)
            frame = self._model.config.audio_encoder.hop_length
            skipped = math.ceil(continued.shape[1] / frame) * frame
        watch = _NonFiniteWatch()
        torch.manual_seed(seed)
        with torch.inference_mode():
            # One row per prompt: `num_return_sequences` mixes the codes of its sequences.
            audio = self._model.generate(
                **inputs,
                do_sample=True,
                guidance_scale=sampling.guidance_scale,
                top_k=sampling.top_k,
                temperature=sampling.temperature,
                max_new_tokens=sampling.tokens,
                logits_processor=LogitsProcessorList([watch]),
            )
        audio = audio.float().cpu().numpy()[..., skipped:]
        if bool(watch.seen):
            raise NonFiniteError("logits that are not finite", np.full_like(audio, np.nan))
        return expect_finite(audio)


def decode_in_parts(decode: Callable, audio_codes: torch.Tensor, audio_scales: list, **kwargs):
    """Return what EnCodec's `decode` does of codes (1, B, codebooks, T), from calls with a few clips each.

    No scale is given but None: MusicGen's codec does not normalise.
    """
    parts = [
        decode(audio_codes[:, first : first + DECODED_AT_ONCE], audio_scales[:1], **kwargs)
        for first in range(0, audio_codes.shape[1], DECODED_AT_ONCE)
    ]
    return EncodecDecoderOutput(torch.cat([part.audio_values for part in parts]))


class _NonFiniteWatch(LogitsProcessor):
    """Notes NaN and infinity among the logits, and takes them out.

    Sampling from them would end the whole process on a GPU, whose context no error handler brings back.
    """

    def __init__(self):
        self.seen = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.seen = self.seen | ~torch.isfinite(scores).all()
        return torch.where(torch.isfinite(scores), scores, 0.0)
