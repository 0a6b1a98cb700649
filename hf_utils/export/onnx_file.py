"""What an exported file says of itself, and the file as a model. B batch, S samples, K labels.

Only this file needs onnxruntime where music is tagged.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedConfig, Wav2Vec2FeatureExtractor
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_utils.cores import count_cores
from hf_utils.data.window_lengths import WindowLengths
from hf_utils.errors import UserError
from hf_utils.files import hash_content
from hf_utils.models.families import is_multi_label
from hf_utils.models.loading import own_genres
from hf_utils.models.temperature import TEMPERATURE_FIELD, read_temperature
from hf_utils.models.window_pool import MOST_THREADS

try:
    import onnxruntime
except ImportError as error:
    raise UserError(
        "An exported model needs the package onnxruntime: pip install -r requirements-export.txt"
    ) from error

WAVEFORMS, LOGITS, PROBABILITIES = "waveforms", "logits", "probabilities"
# To be raised when a reader of an earlier file would go wrong.
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class OnnxFacts:
    """What whoever uses a file must know. In the file's metadata each is JSON under its name.

    Attributes:
        labels: in the order of the outputs.
        multi_label: whether each label has a probability by itself; else they sum to 1.
        temperature: what the logits are divided by before they become probabilities; None where it is not known.
        sampling_rate: of the waveforms, in Hz.
        window_seconds, window_samples: how much the model hears at once.
        hop_seconds, hop_samples: from the start of a window to that of the next.
        any_length: whether it also takes waveforms of another length than a window's.
        precision: of its weights, fp32 or int8.
        model: what it was made from.
        format: of this description.
    """

    labels: list[str]
    multi_label: bool
    temperature: float | None
    sampling_rate: int
    window_seconds: float
    window_samples: int
    hop_seconds: float
    hop_samples: int
    any_length: bool
    precision: str
    model: str
    format: int = _FORMAT

    @classmethod
    def of_model(cls, config: PreTrainedConfig, lengths: WindowLengths, **facts: Any) -> Self:
        """Return the facts of a classifier; `facts` are those that neither it nor its windows know."""
        return cls(
            labels=own_genres(config),
            multi_label=is_multi_label(config),
            temperature=None if is_multi_label(config) else read_temperature(config),
            sampling_rate=lengths.sample_rate,
            window_seconds=lengths.window_samples / lengths.sample_rate,
            window_samples=lengths.window_samples,
            hop_seconds=lengths.hop_samples / lengths.sample_rate,
            hop_samples=lengths.hop_samples,
            **facts,
        )

    def to_metadata(self) -> dict[str, str]:
        """Return what `read` understands."""
        return {name: json.dumps(value, ensure_ascii=False) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def read(cls, metadata: dict[str, str], path: str | os.PathLike) -> Self:
        """Return the facts in a file's metadata. Raises UserError if it is not one of ours, or of a later version."""
        names = [field.name for field in dataclasses.fields(cls)]
        try:
            found = {name: json.loads(metadata[name]) for name in names}
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{path} does not say which labels and windows it has, expected a file that python -m hf_utils.export "
                f"wrote ({error})"
            ) from None
        if found["format"] != _FORMAT:
            raise UserError(f"{path} has format {found['format']}, and this version reads format {_FORMAT}")
        return cls(**found)

    @property
    def lengths(self) -> WindowLengths:
        """How tracks are cut."""
        return WindowLengths(self.sampling_rate, self.window_samples, self.hop_samples)

    def make_config(self, path: str | os.PathLike) -> PreTrainedConfig:
        """Return what is asked of the configuration of a classifier whose outputs these are; `path` is the file."""
        calibration = {} if self.temperature is None else {TEMPERATURE_FIELD: self.temperature}
        return PreTrainedConfig(
            name_or_path=str(path),
            id2label=dict(enumerate(self.labels)),
            label2id={label: index for index, label in enumerate(self.labels)},
            problem_type="multi_label_classification" if self.multi_label else "single_label_classification",
            window_seconds=self.window_seconds,
            **calibration,
        )


def open_session(content: bytes | str | os.PathLike, num_threads: int = 0) -> onnxruntime.InferenceSession:
    """Return a session on the CPU; `num_threads` of 0 takes all cores. Raises UserError for what is no ONNX file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3  # errors
    # Threads that wait leave the cores to those that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = content if isinstance(content, bytes) else str(content)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # what onnxruntime raises has no class in common
        name = "the graph" if isinstance(content, bytes) else content
        raise UserError(f"{name} cannot be read by onnxruntime {onnxruntime.__version__}: {error}") from None


class OnnxClassifier(nn.Module):
    """An exported file where a model is expected: waveforms (B, S) -> logits (B, K), on the CPU in float32."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, session: onnxruntime.InferenceSession, config: PreTrainedConfig):
        super().__init__()
        self._session, self.config = session, config

    def forward(self, input_values: torch.Tensor) -> SequenceClassifierOutput:
        (logits,) = self._session.run([LOGITS], {WAVEFORMS: input_values.numpy()})
        return SequenceClassifierOutput(logits=torch.from_numpy(logits))


def load_onnx(path: str | os.PathLike) -> tuple[OnnxClassifier, Wav2Vec2FeatureExtractor, WindowLengths]:
    """Return an exported file as a classifier, the extractor that gives it samples as they are, and its windows.

    The configuration has a digest of the file, as a model's weights would be known by.

    Raises:
        UserError: there is no such file, or it is not one of ours.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}: expected one that python -m hf_utils.export wrote")
    # Several threads hand over windows at once, each of which computes, too.
    session = open_session(path, max(1, 1 + count_cores() - MOST_THREADS))
    facts = OnnxFacts.read(session.get_modelmeta().custom_metadata_map, path)
    config = facts.make_config(path)
    config.file_sha256 = hash_content(path)
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=facts.sampling_rate, do_normalize=False)
    return OnnxClassifier(session, config), extractor, facts.lengths
