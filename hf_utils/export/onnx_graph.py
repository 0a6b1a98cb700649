"""A classifier as an ONNX graph, and the same with 8-bit weights. B batch, S samples, K labels."""

import contextlib
import itertools
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hf_utils.errors import UserError
from hf_utils.export.onnx_file import LOGITS, PROBABILITIES, WAVEFORMS, OnnxFacts
from hf_utils.models.families import family_of

try:
    import onnx
    import onnxscript  # noqa: F401  torch's exporter writes graphs by it
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata
except ImportError as error:
    raise UserError(
        "hf_utils.export needs the packages onnx, onnxscript and onnxruntime: pip install -r requirements-export.txt"
    ) from error

Graph = onnx.ModelProto

# onnxruntime reads it from 1.17 on.
OPSET = 20
# A file of Protocol Buffers holds 2 GiB; the rest is the graph.
_MOST_BYTES = 2_000_000_000
# Its positions are for one length.
_OF_ONE_LENGTH = "spectrogram_transformer"
# Most of their work is in convolutions, whose inputs need a range that is known beforehand.
_CONVOLUTIONAL = ("spectrogram_cnn", "musicnn", "sample_cnn")
# Attention for which transformers makes no mask. Windows are full, so a mask would be true everywhere; a graph would
# yet compute one, and add it to the weights of every layer.
_UNMASKED = "sdpa_unmasked"
AttentionInterface.register(_UNMASKED, sdpa_attention_forward)


class GraphClassifier(nn.Module):
    """(B, S) -> logits (B, K) and probabilities (B, K): all that a file computes."""

    def __init__(self, model: nn.Module, front_end: nn.Module, input_name: str, facts: OnnxFacts):
        super().__init__()
        self.model, self.front_end, self._input_name = model, front_end, input_name
        self._temperature, self._multi_label = facts.temperature or 1.0, facts.multi_label

    def forward(self, waveforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.model(**{self._input_name: self.front_end(waveforms)}).logits
        scaled = logits / self._temperature
        return logits, scaled.sigmoid() if self._multi_label else scaled.softmax(-1)


def drop_traces(graph: Graph) -> None:
    """Remove what torch notes of each node: the code it is of, with folders of this machine."""
    for part in (*graph.graph.node, *graph.graph.value_info, *graph.graph.input, *graph.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for weights in graph.graph.initializer:
        weights.ClearField("metadata_props")
    graph.graph.ClearField("metadata_props")


def takes_any_length(config) -> bool:
    """Return whether a graph of a model takes waveforms of other lengths than a window's."""
    return family_of(config) != _OF_ONE_LENGTH


def export_graph(classifier: GraphClassifier, facts: OnnxFacts) -> Graph:
    """Return the graph of a classifier in evaluation mode, with its facts, for batches of any size.

    Raises:
        UserError: torch cannot export the model, or it is too large for one file.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in classifier.state_dict().values())
    if size > _MOST_BYTES:
        raise UserError(f"the weights take {size / 1e9:.1f} GB, and an ONNX file holds 2 GB at most")
    axes = {0: "batch", 1: "samples"} if facts.any_length else {0: "batch"}
    # Of two windows: a batch of one would be taken for a rule.
    example = torch.zeros(2, facts.window_samples)
    try:
        with torch.no_grad(), warnings.catch_warnings(), _unmasked_attention(classifier.model):
            warnings.simplefilter("ignore")  # deprecations within torch
            # Once outside the export: a filter bank is made when it is first asked for, and kept.
            classifier.eval()(example)
            program = torch.onnx.export(
                classifier,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[WAVEFORMS],
                output_names=[LOGITS, PROBABILITIES],
                dynamic_shapes={WAVEFORMS: axes},
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        cause = error.__cause__ or error
        kind = type(classifier.model).__name__
        raise UserError(
            f"torch {torch.__version__} cannot export {kind} ({type(cause).__name__}: {str(cause).strip()[:300]})"
        ) from error
    graph = program.model_proto
    onnx.helper.set_model_props(graph, facts.to_metadata())
    return graph


@contextlib.contextmanager
def _unmasked_attention(model: nn.Module) -> Iterator[None]:
    """Leave out the masks of a model that has transformers' attention."""
    usual = model.config._attn_implementation
    if usual == "sdpa":
        model.set_attn_implementation(_UNMASKED)
    try:
        yield
    finally:
        if usual == "sdpa":
            model.set_attn_implementation(usual)


class _Windows(CalibrationDataReader):
    """Hands windows over one by one."""

    def __init__(self, windows: Sequence[np.ndarray]):
        self._windows: Iterator[np.ndarray] = iter(windows)

    def get_next(self) -> dict[str, np.ndarray] | None:
        window = next(self._windows, None)
        return None if window is None else {WAVEFORMS: window[None]}


def quantize_graph(graph: Graph, config, windows: Sequence[np.ndarray]) -> Graph:
    """Return a graph with 8-bit weights; features and probabilities stay as they are.

    In convolutional nets what flows between the layers has 8 bits, too, in ranges that are those of `windows` (S,). A
    ReLU belongs to the convolution before it, so that no range is spent on what it removes. The first convolution of
    a spectrogram CNN stays as it is: it is small, and of all layers its rounding changes most. In transformers what
    flows is brought to 8 bits before each product of matrices, in the range that it has there: so onnxruntime advises.

    Args:
        graph: from `export_graph`, with torch's traces. It is changed.
        config: of the model.
        windows: of music; not used for transformers.
    """
    around = [node.name for node in graph.graph.node if _is_around_the_model(node)]
    if len(around) == len(graph.graph.node):
        raise ValueError("expected a graph with torch's traces, by which its layers are known")
    is_convolutional = config.model_type in _CONVOLUTIONAL
    if config.model_type == "spectrogram_cnn":
        layers = (node.name for node in graph.graph.node if node.op_type == "Conv" and node.name not in around)
        around += itertools.islice(layers, 1)
    metadata = {prop.key: prop.value for prop in graph.metadata_props}
    # Else onnxruntime logs an advice to optimise the graph first, which would lose where its nodes come from.
    add_pre_process_metadata(graph)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "model.onnx"))
        options = {
            "op_types_to_quantize": ["MatMul", "Gemm", *(["Conv", "Clip", "Relu"] if is_convolutional else [])],
            "per_channel": True,
            "weight_type": QuantType.QInt8,
            "nodes_to_exclude": around,
        }
        if is_convolutional:
            quantize_static(graph, path, _Windows(windows), activation_type=QuantType.QUInt8, **options)
        else:
            quantize_dynamic(graph, path, **options)
        quantized = onnx.load(path)
    onnx.helper.set_model_props(quantized, metadata)  # without what onnxruntime notes for itself, which is no JSON
    return quantized


def _is_around_the_model(node: onnx.NodeProto) -> bool:
    """Return whether a node is of the features or of the probabilities, by the module that it comes from."""
    scopes = next((prop.value for prop in node.metadata_props if prop.key == "pkg.torch.onnx.name_scopes"), "")
    return "'model'" not in scopes
