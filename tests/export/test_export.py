"""An exported file against its model: features, outputs, facts, use without torch, and what is refused."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny_models import load, save_ast, save_convnext
from tones import write_tone
from transformers import ASTFeatureExtractor, PreTrainedConfig, Wav2Vec2FeatureExtractor
from transformers.modeling_outputs import SequenceClassifierOutput

import run_classification
from hf_utils import audio
from hf_utils.data.window_lengths import WindowLengths
from hf_utils.errors import UserError
from hf_utils.export import export_command, onnx_graph
from hf_utils.export.export_command import main
from hf_utils.export.front_end import make_front_end
from hf_utils.export.onnx_file import OnnxFacts, load_onnx
from hf_utils.models.families import set_feature_stats, window_samples_for
from hf_utils.models.features import run_windows
from hf_utils.models.musicnn import MusiCNNFeatureExtractor
from hf_utils.models.spectrogram_cnn import SpectrogramCNNFeatureExtractor
from hf_utils.models.temperature import write_temperature

ROOT = Path(__file__).resolve().parents[2]
RATE, WINDOW = 8000, 8000
GENRES = ["blues", "hip hop", "rock"]
TEMPERATURE = 2.0


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a run: a small spectrogram CNN for windows of 1 s at 8 kHz, which its run had 0.25 s apart."""
    folder = tmp_path_factory.mktemp("exported")
    settings = {"sampling_rate": RATE, "n_fft": 512, "hop_length": 128, "num_mel_bins": 40}
    settings["level_normalization"] = True
    torch.manual_seed(0)
    model, extractor = load(save_convnext(folder / "image"), GENRES, spectrogram=settings)
    set_feature_stats(extractor, -1.0, 2.0)
    with torch.no_grad():
        model.classifier[-1].weight.mul_(100)  # probabilities that differ
    model.save_pretrained(folder / "run")
    write_temperature(folder / "run", TEMPERATURE)
    extractor.save_pretrained(folder / "run")
    (folder / "run/config.yaml").write_text("dataset_name: gone\nsplit_protocol: stratified\neval_hop_seconds: 0.25\n")
    return folder / "run"


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("music")
    for number, hz in enumerate((220, 440, 880, 1760)):
        write_tone(folder / f"{number}.wav", hz, 1.4, seed=number)
    return folder


@pytest.fixture(scope="module")
def exported(run, music) -> Path:
    main([str(run), "--music", str(music)])
    return run / "model.onnx"


def make_windows(count: int, samples: int = WINDOW) -> np.ndarray:
    """Return noise at several levels, with an offset: (W, S)."""
    levels = np.float32([1e-4, 1e-2, 0.1, 0.5])[np.arange(count) % 4, None]
    noise = np.random.default_rng(0).normal(0, 1, (count, samples)).astype(np.float32)
    return (0.02 + levels * noise).astype(np.float32)


@pytest.mark.parametrize(
    "extractor",
    [
        ASTFeatureExtractor(num_mel_bins=64, max_length=48),
        ASTFeatureExtractor(num_mel_bins=64, max_length=48, do_normalize=False),
        SpectrogramCNNFeatureExtractor(RATE, "mel", 256, 128, num_mel_bins=24, mean=-3.0, std=2.0),
        SpectrogramCNNFeatureExtractor(RATE, "multi_stft", 256, 128, center=False, mean=0.0, std=2.0),
        SpectrogramCNNFeatureExtractor(RATE, "mel", 256, 128, False, 24, level_normalization=True, mean=0.0, std=2.0),
        MusiCNNFeatureExtractor(RATE, 256, 128, 24),
        Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True),
        Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=False),
    ],
    ids=lambda extractor: type(extractor).__name__,
)
def test_features_are_those_of_the_extractor(extractor):
    samples = 400 + 47 * 160 if isinstance(extractor, ASTFeatureExtractor) else WINDOW
    windows = make_windows(4, samples)
    expected = extractor(list(windows), sampling_rate=extractor.sampling_rate, return_tensors="pt")
    expected = expected[extractor.model_input_names[0]]
    found = make_front_end(extractor)(torch.from_numpy(windows))
    assert found.shape == expected.shape and expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_file_computes_what_the_model_does(run, exported):
    model, extractor = load(run, None, window_seconds=None)
    session = onnxruntime.InferenceSession(exported)
    for windows in (make_windows(1), make_windows(5), make_windows(2, WINDOW + 3000)):
        logits, probabilities = session.run(None, {"waveforms": windows})
        expected = run_windows(model, extractor, windows)
        np.testing.assert_allclose(logits, expected, atol=1e-3)
        np.testing.assert_allclose(probabilities, torch.softmax(expected / TEMPERATURE, 1), atol=1e-4)
    assert np.ptp(run_windows(model, extractor, make_windows(4)).numpy(), axis=0).max() > 0.1  # windows differ


def test_transformers_attend_without_masks(tmp_path):
    """Of windows that are full, a mask says nothing, and costs as much as what it is added to."""
    model, extractor = load(save_ast(tmp_path / "ast", num_hidden_layers=1), GENRES)
    implementation = model.config._attn_implementation
    samples = window_samples_for(model.config, extractor, None)
    lengths = WindowLengths(extractor.sampling_rate, samples, samples)
    facts = OnnxFacts.of_model(model.config, lengths, any_length=False, precision="fp32", model="ast")
    graph = onnx_graph.export_graph(
        onnx_graph.GraphClassifier(model, make_front_end(extractor), "input_values", facts), facts
    )
    assert implementation == model.config._attn_implementation == "sdpa"
    assert not {node.op_type for node in graph.graph.node} & {"And", "Where", "STFT", "DFT"}
    windows = make_windows(3, samples)
    (logits,) = onnxruntime.InferenceSession(graph.SerializeToString()).run(["logits"], {"waveforms": windows})
    np.testing.assert_allclose(logits, run_windows(model, extractor, windows), atol=1e-5)


def test_a_file_says_how_it_is_used(run, exported):
    (facts,) = [onnxruntime.InferenceSession(exported).get_modelmeta().custom_metadata_map]
    found = {name: json.loads(value) for name, value in facts.items()}
    assert found == {
        "labels": GENRES,
        "multi_label": False,
        "temperature": TEMPERATURE,
        "sampling_rate": RATE,
        "window_seconds": 1.0,
        "window_samples": WINDOW,
        "hop_seconds": 0.25,
        "hop_samples": 2000,
        "any_length": True,
        "precision": "fp32",
        "model": "run",
        "format": 1,
    }


def test_a_file_is_whole_and_names_no_folder_of_this_machine(run, exported):
    assert [path.name for path in run.glob("*.onnx*")] == ["model.onnx"]
    content = exported.read_bytes()
    assert all(place.encode() not in content for place in (str(ROOT), str(run), ".py"))


def test_the_example_of_the_documentation_needs_no_torch(run, exported, music, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/own-music.md").read_text(), re.DOTALL)
    assert not re.search("torch|transformers|hf_utils", code)
    (tmp_path / "tag.py").write_text(code)
    command = [sys.executable, "tag.py", str(exported), str(music / "2.wav")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    model, extractor = load(run, None, window_seconds=None)
    samples = audio.resample(*audio.decode(music / "2.wav"), RATE)  # 1.4 s: the last window ends with the file
    windows = [samples[start : start + WINDOW] for start in (0, 2000, len(samples) - WINDOW)]
    expected = torch.softmax(run_windows(model, extractor, windows) / TEMPERATURE, 1).mean(0)
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    found = {genre: float(probability) for probability, genre in lines}
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert [found[genre] for genre in GENRES] == pytest.approx(expected.tolist(), abs=1e-3)


def read_table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_prediction_takes_a_file_in_place_of_a_folder(run, exported, music, tmp_path):
    tables = []
    for model in (run, exported):
        output_dir = tmp_path / model.name
        options = ["--do_predict", "--predict_path", music, "--output_dir", output_dir, "--precision", "fp32"]
        assert run_classification.main(["--model_name_or_path", str(model), *map(str, options)]) == 0
        tables.append(read_table(output_dir / "predictions.csv"))
    assert [row["file"] for row in tables[1]] == ["0.wav", "1.wav", "2.wav", "3.wav"]
    for expected, found in zip(*tables, strict=True):
        assert found["prediction"] == expected["prediction"] and list(found) == list(expected)
        for genre in GENRES:
            assert float(found[genre]) == pytest.approx(float(expected[genre]), abs=1e-4)


@pytest.mark.parametrize(
    ("options", "keyword"),
    [
        (["--do_eval", "--dataset_name", "{music}"], "do_predict"),
        (["--do_predict", "--predict_path", "{music}", "--window_seconds", "2"], "window_seconds"),
        (["--do_predict", "--predict_path", "{music}", "--precision", "bf16"], "precision"),
    ],
)
def test_what_a_file_cannot_do_is_refused(exported, music, tmp_path, options, keyword):
    options = [option.format(music=music) for option in options]
    with pytest.raises(UserError, match=keyword) as caught:
        run_classification.main(["--model_name_or_path", str(exported), "--output_dir", str(tmp_path / "x"), *options])
    assert "model.onnx" in str(caught.value)


def test_other_files_are_named(tmp_path, run, exported):
    (tmp_path / "a.onnx").write_text("no graph")
    graph = onnx.load(exported)
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "b.onnx")
    for name, keyword in (("a.onnx", "onnxruntime"), ("b.onnx", "labels"), ("c.onnx", "no file")):
        with pytest.raises(UserError, match=keyword) as caught:
            load_onnx(tmp_path / name)
        assert name in str(caught.value)
    metadata = {prop.key: prop.value for prop in onnx.load(exported).metadata_props}
    with pytest.raises(UserError, match="format"):
        OnnxFacts.read(metadata | {"format": "2"}, "d.onnx")


def test_a_graph_that_computes_something_else_is_not_written(run, exported, music, tmp_path, monkeypatch):
    graph = onnx.load(exported)
    (head,) = [weights for weights in graph.graph.initializer if sorted(weights.dims) == [len(GENRES), 16]]
    louder = 1.01 * onnx.numpy_helper.to_array(head)
    head.CopyFrom(onnx.numpy_helper.from_array(louder.astype(np.float32), head.name))
    monkeypatch.setattr(export_command, "export_graph", lambda *_: graph)
    with pytest.raises(UserError, match="Nothing was written") as caught:
        main([str(run), "--music", str(music), "--output", str(tmp_path / "x.onnx")])
    assert str(music) in str(caught.value) and not list(tmp_path.iterdir())


def test_options_are_checked_before_work(run, exported, tmp_path):
    for options, keyword in (
        ([str(run)], "--overwrite"),
        ([str(run), "--output", str(tmp_path / "model.bin")], ".onnx"),
        (["me/model"], "--output"),
    ):
        with pytest.raises(UserError, match=keyword):
            main(options)


def test_8_bits_are_for_the_layers_of_the_model(run, exported, music, tmp_path, monkeypatch):
    monkeypatch.setattr(export_command, "LEAST_AGREEMENT", 0)  # of random weights, on two windows
    path = tmp_path / "small.onnx"
    main([str(run), "--int8", "--music", str(music), "--output", str(path)])
    small, whole = onnx.load(path), onnx.load(exported)
    whole_facts = {prop.key: json.loads(prop.value) for prop in whole.metadata_props}
    assert {prop.key: json.loads(prop.value) for prop in small.metadata_props} == whole_facts | {"precision": "int8"}
    kinds = [node.op_type for node in small.graph.node]
    assert [kinds.count(kind) for kind in ("Log", "Softmax")] == [1, 1] and "QuantizeLinear" in kinds
    # Weights of layers are of 8 bits, and what the spectrogram is made by is not.
    types = {weights.name: weights.data_type for weights in small.graph.initializer}
    assert onnx.TensorProto.INT8 in types.values()
    assert [name for name in types if name.endswith("patch_embeddings.weight")]  # not renamed: the first layer
    spectrum = make_front_end(load(run, None, window_seconds=None)[1]).transforms[0]
    shapes = [list(part.shape) for part in (spectrum.filters, spectrum.power.first, spectrum.power.real)]
    parts = [w.name for w in whole.graph.initializer if list(w.dims) in shapes]
    assert len(parts) == 4 and all(types[name] == onnx.TensorProto.FLOAT for name in parts)


class TwoConvolutions(torch.nn.Module):
    """Waveforms (B, S) -> logits (B, 2)."""

    config = PreTrainedConfig()

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv1d(1, 3, 5), torch.nn.ReLU(), torch.nn.Conv1d(3, 2, 5))

    def forward(self, input_values):
        return SequenceClassifierOutput(logits=self.layers(input_values[:, None]).mean(2))


@pytest.fixture(scope="module")
def two_convolutions() -> onnx.ModelProto:
    facts = OnnxFacts(["a", "b"], False, None, 1000, 0.1, 100, 0.1, 100, False, "int8", "")
    classifier = onnx_graph.GraphClassifier(TwoConvolutions(), torch.nn.Identity(), "input_values", facts)
    return onnx_graph.export_graph(classifier, facts)


@pytest.mark.parametrize(("kind", "num_small_weights"), [("sample_cnn", 2), ("spectrogram_cnn", 1)])
def test_no_range_is_spent_on_what_a_relu_removes(two_convolutions, kind, num_small_weights):
    graph = onnx.ModelProto()
    graph.CopyFrom(two_convolutions)
    graph = onnx_graph.quantize_graph(graph, SimpleNamespace(model_type=kind), make_windows(3, 100))
    weights = [w for w in graph.graph.initializer if len(w.dims) == 3 and w.data_type == onnx.TensorProto.INT8]
    assert len(weights) == num_small_weights
    # What is brought to 8 bits is never the output of a convolution that a ReLU is still to come after.
    made_by = {output: node.op_type for node in graph.graph.node for output in node.output}
    before_relu = [made_by[node.input[0]] for node in graph.graph.node if node.op_type == "Relu"]
    assert before_relu == ["Conv"] * (2 - num_small_weights)


def test_a_graph_without_traces_is_not_quantised(exported):
    with pytest.raises(ValueError, match="trace"):
        onnx_graph.quantize_graph(onnx.load(exported), PreTrainedConfig(), [])
