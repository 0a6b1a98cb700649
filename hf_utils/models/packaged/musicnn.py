"""MusiCNN's published weights, converted from TensorFlow 1. B batch, T frames, F mel bands, K tags.

TensorFlow is no part of this project's environment. Its own reader runs in one that uv makes for it and throws away.
"""

import ast
import logging
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_utils.errors import UserError
from hf_utils.models.musicnn import MusiCNNConfig, MusiCNNFeatureExtractor, MusiCNNForAudioClassification
from hf_utils.models.packaged.wheels import last_lines, read_member
from hf_utils.models.weights import expect_finite_weights

logger = logging.getLogger(__name__)

_READER = Path(__file__).with_name("tensorflow_reader.py")
_SUFFIXES = (".index", ".meta", ".data-00000-of-00001")
TENSORFLOW = "tensorflow-cpu==2.21.0"
_TENSORFLOW_MB = 320
TENSORFLOW_PYTHON = ">=3.10,<3.14"

# Where the graph of both checkpoints takes spectrograms (B, T, F), and where it puts out logits (B, K).
_INPUT_TENSOR, _OUTPUT = "model/Placeholder:0", "model/dense_1/BiasAdd"
_NUM_FRAMES = 187

# Our modules of a kind, TensorFlow's name for it, and {our name: (theirs, how it is turned)} for the parts of one.
_AS_IS = np.asarray
_LAYERS = (
    (
        nn.modules.batchnorm._BatchNorm,
        "batch_normalization",
        {
            "weight": ("gamma", _AS_IS),
            "bias": ("beta", _AS_IS),
            "running_mean": ("moving_mean", _AS_IS),
            "running_var": ("moving_variance", _AS_IS),
        },
    ),
    # (frames, bands, 1, H): of the front end.
    (nn.Conv2d, "conv2d", {"weight": ("kernel", lambda x: x.transpose(3, 2, 0, 1)), "bias": ("bias", _AS_IS)}),
    # (frames, H, 1, H'): above it, where the channels lie where the bands lay.
    (nn.Conv1d, "conv2d", {"weight": ("kernel", lambda x: x[:, :, 0].transpose(2, 1, 0)), "bias": ("bias", _AS_IS)}),
    (nn.Linear, "dense", {"weight": ("kernel", np.transpose), "bias": ("bias", _AS_IS)}),
)

# Of logits of up to about ten, in float32.
TOLERANCE = 1e-4


def save_musicnn(wheel: Path, data_set: str, folder: Path) -> None:
    """Write MusiCNN with its head for 50 tags, once it computes the same as the original graph.

    Args:
        wheel: of the package musicnn.
        data_set: MSD or MTT, on which it was trained.
        folder: is made.

    Raises:
        UserError: TensorFlow cannot be run, or the net or its outputs are not the expected ones.
    """
    checkpoint = {suffix: read_member(wheel, f"musicnn/{data_set}_musicnn/{suffix}") for suffix in _SUFFIXES}
    tags = read_constant(read_member(wheel, "musicnn/configuration.py").decode(), f"{data_set}_LABELS")
    spectrograms = make_spectrograms()
    variables = dict(_read_checkpoint(checkpoint, spectrograms))
    expected = torch.from_numpy(variables.pop("output"))
    model = convert_musicnn(variables, tags)
    with torch.inference_mode():
        difference = (model(torch.from_numpy(spectrograms)).logits - expected).abs().max().item()
    if not difference <= TOLERANCE:
        raise UserError(
            f"the outputs of the converted net differ by {difference:.1e} from those of the original graph, expected "
            f"{TOLERANCE:.0e} at most: nothing is written"
        )
    logger.info("The outputs equal those of the original graph to %.0e.", difference)
    model.save_pretrained(folder)
    MusiCNNFeatureExtractor().save_pretrained(folder)


def read_constant(code: str, name: str) -> Any:
    """Return the value that a Python file assigns to a name, without running the file."""
    assignments = (node for node in ast.parse(code).body if isinstance(node, ast.Assign))
    return next(ast.literal_eval(node.value) for node in assignments if node.targets[0].id == name)


def make_spectrograms() -> np.ndarray:
    """Return float32 (B, T, F) in the range of music: noise, a bump that glides up and then down, and silence."""
    generator = np.random.default_rng(0)
    times, bands = np.arange(_NUM_FRAMES)[:, None], np.arange(96)
    height = 48 + 40 * np.sin(times / 30)
    spectrograms = [
        generator.gamma(1.5, 0.6, (_NUM_FRAMES, 96)),
        3 * np.exp(-(((bands - height) / 5) ** 2)) * (1 + np.sin(times / 3)) / 2,
        np.zeros((_NUM_FRAMES, 96)),
    ]
    return np.stack(spectrograms).astype(np.float32)


def convert_musicnn(variables: Mapping[str, np.ndarray], tags: list[str]) -> MusiCNNForAudioClassification:
    """Return the net with the variables of the original, by TensorFlow's names; what only training needs is left out.

    TensorFlow numbers layers of a kind in the order in which they were made, which is that of our modules.

    Raises:
        UserError: a variable is missing or of another size.
    """
    config = MusiCNNConfig(
        num_labels=len(tags), id2label=dict(enumerate(tags)), problem_type="multi_label_classification"
    )
    model = MusiCNNForAudioClassification(config).eval()
    counts, tensors = Counter(), dict(model.state_dict())
    for name, module in model.named_modules():
        for types, kind, parts in _LAYERS:
            if isinstance(module, types):
                scope = f"{kind}_{counts[kind]}" if counts[kind] else kind
                counts[kind] += 1
                for ours, (theirs, convert) in parts.items():
                    tensor = tensors[f"{name}.{ours}"]
                    tensors[f"{name}.{ours}"] = _convert(variables, f"{scope}/{theirs}", convert, tensor.shape)
    model.load_state_dict(tensors, strict=True)
    expect_finite_weights("MusiCNN", model)
    return model


def _convert(variables: Mapping[str, np.ndarray], name: str, convert: Callable, shape: torch.Size) -> torch.Tensor:
    if name not in variables:
        raise UserError(f"the checkpoint has no variable {name}: it is not MusiCNN's")
    found = variables[name]
    array = convert(found)
    if array.shape != shape:
        raise UserError(f"the checkpoint's {name} has shape {found.shape}, which does not fit {tuple(shape)}")
    return torch.from_numpy(np.ascontiguousarray(array))


def _read_checkpoint(checkpoint: Mapping[str, bytes], spectrograms: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return the variables of a checkpoint, and as `output` what its graph makes of the spectrograms."""
    logger.info(
        "Reading the checkpoint with %s in an environment that uv makes for it and then removes. The first time it "
        "downloads about %d MB; uv keeps them in its cache.",
        TENSORFLOW,
        _TENSORFLOW_MB,
    )
    with tempfile.TemporaryDirectory() as folder:
        for suffix, content in checkpoint.items():
            Path(folder, f"checkpoint{suffix}").write_bytes(content)
        np.save(Path(folder, "input.npy"), spectrograms)
        arguments = ["checkpoint", "input.npy", _INPUT_TENSOR, _OUTPUT, "result.npz"]
        command = [sys.executable, "-m", "uv", "run", "--isolated", "--no-project", "--quiet"]
        command += ["--python", TENSORFLOW_PYTHON, "--with", TENSORFLOW, "python", _READER, *arguments]
        done = subprocess.run(
            command,
            cwd=folder,
            env=_make_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode:
            raise UserError(
                f"TensorFlow could not read the checkpoint. It is run by uv, which must find {TENSORFLOW} for Python "
                f"{TENSORFLOW_PYTHON} in the package registry. The messages ended:\n{last_lines(done.stderr)}"
            )
        with np.load(Path(folder, "result.npz"), allow_pickle=False) as arrays:
            return dict(arrays)


def _make_environment() -> dict[str, str]:
    """uv does not read pip's configuration: an index that is named only there is handed on."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "", **os.environ}
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    found = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    index = os.environ.get("PIP_INDEX_URL") or found.stdout.strip()
    if index:
        environment.setdefault("UV_DEFAULT_INDEX", index)
    return environment
