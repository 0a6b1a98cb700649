"""CLAP embeddings of clips and sentences (Wu et al. 2023, arXiv 2211.06687). B clips, D dimensions, T samples."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoTokenizer, ClapModel

from hf_utils.audio import cut_window, resample
from hf_utils.errors import UserError

# The extractor itself would take one random window of a long clip, with a generator that nobody seeds.
NUM_WINDOWS = 3
_CLIPS_PER_PASS = 4


class ClapEmbedder:
    """Unit vectors of clips (mean over fixed windows) and of sentences."""

    def __init__(self, name: str, revision: str | None, device: torch.device):
        try:
            self._extractor = AutoFeatureExtractor.from_pretrained(name, revision=revision)
            self._tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
            self._model = ClapModel.from_pretrained(name, revision=revision, dtype=torch.float32).to(device).eval()
        except (OSError, ValueError) as error:
            raise UserError(f"Cannot load the CLAP model {name!r}: {error}") from error
        # A fused model takes its four views; any other would fail on them.
        fused = self._model.config.audio_config.enable_fusion
        self._truncation = "fusion" if fused else "rand_trunc"

    @torch.inference_mode()
    def embed(self, clips: Sequence[np.ndarray], sample_rate: int) -> np.ndarray:
        """Return (B, D) float64 of clips of one length: three windows over each, one where it is no longer."""
        extractor, vectors = self._extractor, []
        window = extractor.nb_max_samples
        for first in range(0, len(clips), _CLIPS_PER_PASS):
            group = [
                resample(samples, sample_rate, extractor.sampling_rate) for samples in clips[first:][:_CLIPS_PER_PASS]
            ]
            windows = [
                cut_window(samples, start, window) for samples in group for start in _starts(samples.size, window)
            ]
            inputs = extractor(
                windows, sampling_rate=extractor.sampling_rate, truncation=self._truncation, return_tensors="pt"
            )
            outputs = self._model.get_audio_features(**inputs.to(self._model.device)).pooler_output
            vectors.append(
                _unit(outputs.double().cpu().numpy()).reshape(len(group), -1, outputs.shape[-1]).mean(axis=1)
            )
        return _unit(np.concatenate(vectors))

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return (B, D) float64."""
        inputs = self._tokenizer(list(texts), padding=True, return_tensors="pt").to(self._model.device)
        return _unit(self._model.get_text_features(**inputs).pooler_output.double().cpu().numpy())


def _starts(num_samples: int, window_samples: int) -> list[int]:
    if num_samples <= window_samples:
        return [0]
    return [round(k * (num_samples - window_samples) / (NUM_WINDOWS - 1)) for k in range(NUM_WINDOWS)]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
