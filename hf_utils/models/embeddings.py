"""A vector per clip from any audio checkpoint: CLAP, a classifier, or a bare encoder. T samples, D dimensions."""

import logging
from collections.abc import Callable

import numpy as np
import torch
from transformers import AutoModel

from hf_utils.errors import UserError
from hf_utils.generation.clap import ClapEmbedder
from hf_utils.generation.clip_scores import run_windows
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.families import window_samples_for
from hf_utils.models.loading import load_classifier

logger = logging.getLogger(__name__)

Embedder = Callable[[np.ndarray, int], np.ndarray]


def make_embedder(name: str, device: torch.device) -> Embedder:
    """Return `embed(samples (T,), sample_rate) -> (D,)`, the mean over windows that cover the clip.

    Of a classifier it is what goes into its last layer; of a bare encoder, the mean of its last hidden states.

    Raises:
        UserError: the checkpoint cannot be read, or is no audio model.
    """
    config = Checkpoint(name).read_config()
    if config.model_type == "clap":
        clap = ClapEmbedder(name, None, device)
        return lambda samples, sample_rate: clap.embed([samples], sample_rate)[0]
    if any("Classification" in architecture for architecture in config.architectures or ()):
        model, extractor = load_classifier(name, None)
        run = _penultimate(model.to(device))
    else:
        checkpoint = Checkpoint(name)
        model, _ = checkpoint.load_model(AutoModel, config)
        extractor = checkpoint.load_feature_extractor(config)
        run = _mean_state(model.to(device))
    if not hasattr(extractor, "sampling_rate"):
        raise UserError(f"report: {name} is no audio model ({config.model_type})")
    window_samples = window_samples_for(model.config, extractor, getattr(model.config, "window_seconds", None))

    def embed(samples: np.ndarray, sample_rate: int) -> np.ndarray:
        with torch.inference_mode():
            return run(extractor, samples, sample_rate, window_samples).mean(axis=0)

    return embed


def _penultimate(model: torch.nn.Module) -> Callable[..., np.ndarray]:
    """Return a function that gives what enters a classifier's last layer, (W, D)."""
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    heard = []
    last.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0].float().cpu().numpy()))

    def run(*arguments) -> np.ndarray:
        heard.clear()
        run_windows(model, *arguments)
        return np.concatenate(heard)

    return run


def _mean_state(model: torch.nn.Module) -> Callable[..., np.ndarray]:
    """Return a function that gives the mean over time of an encoder's last hidden states, (W, D)."""

    def run(*arguments) -> np.ndarray:
        return run_windows(model, *arguments, output="last_hidden_state").mean(dim=1).cpu().numpy()

    return run
