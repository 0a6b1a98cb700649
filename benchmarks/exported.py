"""What an exported ONNX file gains on the processor: windows a second of ONNX Runtime and of PyTorch, side by side.

    python benchmarks/exported.py                        # every model below, about 10 minutes
    python benchmarks/exported.py --models musicnn ast   # some of them
    python benchmarks/exported.py --tiny                 # only to see that it runs

Random weights and synthesised music. Both make features and logits of the same windows, in batches of the same size,
on the same number of threads; PyTorch through the feature extractor and the model, as --do_predict in fp32, ONNX
Runtime from waveforms. Rounds alternate, so that both meet the same noise; the medians count. MB are those of files.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import transformers

from hf_utils.data.window_lengths import WindowLengths
from hf_utils.export.check_windows import synthesise_windows
from hf_utils.export.front_end import make_front_end
from hf_utils.export.onnx_file import OnnxClassifier, OnnxFacts, open_session
from hf_utils.export.onnx_graph import GraphClassifier, export_graph, quantize_graph, takes_any_length
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.families import has_feature_stats, set_feature_stats, window_samples_for
from hf_utils.models.features import run_windows
from hf_utils.models.loading import load_classifier
from hf_utils.models.musicnn import MusiCNNConfig

ROOT = Path(__file__).resolve().parents[1]
GENRES = [f"genre{number}" for number in range(10)]
BATCH_SIZE = 8
_TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}


# {name: (what makes its configuration, or a folder with one; window in seconds, None for its own)}
MODELS: dict[str, tuple[Callable | Path, float | None]] = {
    "small_convnext": (ROOT / "configs/models/convnext_small", 10.0),
    "convnext_tiny": (transformers.ConvNextConfig, 10.0),
    "musicnn": (lambda: MusiCNNConfig(window_seconds=3.0), 3.0),
    "ast_tiny": (lambda: transformers.ASTConfig(**_TINY), None),
    "ast": (transformers.ASTConfig, None),
    "hubert": (transformers.HubertConfig, 10.0),
}
EXTRACTORS = {"ast": transformers.ASTFeatureExtractor, "hubert": transformers.Wav2Vec2FeatureExtractor}


def make_model(name: str, folder: Path, window_seconds: float | None):
    """Return a model with random weights, and its feature extractor."""
    source = MODELS[name][0]
    if not isinstance(source, Path):
        source().save_pretrained(folder)
        if make_extractor := EXTRACTORS.get(name.partition("_")[0]):
            make_extractor().save_pretrained(folder)
        source = folder
    torch.manual_seed(0)
    model, extractor = load_classifier(Checkpoint(str(source)), GENRES, window_seconds=window_seconds)
    if has_feature_stats(extractor) and extractor.mean is None:
        set_feature_stats(extractor, -5.0, 4.0)
    return model, extractor


def make_runners(model, extractor, num_windows: int, threads: int) -> tuple[dict[str, Callable], dict[str, float]]:
    """Return what computes the logits of `num_windows` windows, by the name of the way, and the MB of its weights."""
    window_samples = window_samples_for(model.config, extractor, None)
    lengths = WindowLengths(extractor.sampling_rate, window_samples, window_samples)
    windows = synthesise_windows(lengths, num_windows)
    any_length, input_name = takes_any_length(model.config), extractor.model_input_names[0]
    facts = OnnxFacts.of_model(model.config, lengths, any_length=any_length, precision="fp32", model="")
    graph = export_graph(GraphClassifier(model, make_front_end(extractor), input_name, facts), facts)
    contents = {"fp32": graph.SerializeToString()}
    contents["int8"] = quantize_graph(graph, model.config, windows).SerializeToString()
    samples_as_they_are = transformers.Wav2Vec2FeatureExtractor(
        sampling_rate=extractor.sampling_rate, do_normalize=False
    )

    def run(one, its_extractor) -> np.ndarray:
        return run_windows(one, its_extractor, windows, batch_size=BATCH_SIZE).numpy()

    runners = {"PyTorch": lambda: run(model, extractor)}
    for name, content in contents.items():
        exported = OnnxClassifier(open_session(content, threads), facts.make_config(name))
        runners[name] = lambda exported=exported: run(exported, samples_as_they_are)
    megabytes = {name: len(content) / 1e6 for name, content in contents.items()}
    return runners, megabytes


@dataclasses.dataclass(frozen=True)
class Row:
    """Of a model, by each way: windows a second, that over PyTorch's, how far logits are from PyTorch's, MB."""

    model: str
    window_seconds: float
    rates: dict[str, float]
    ratios: dict[str, float]
    differences: dict[str, float]
    megabytes: dict[str, float]


def measure(name: str, num_windows: int, rounds: int, window_seconds: float | None) -> Row:
    """Return the row of a model."""
    with tempfile.TemporaryDirectory() as folder:
        model, extractor = make_model(name, Path(folder), window_seconds)
        runners, megabytes = make_runners(model, extractor, num_windows, torch.get_num_threads())
    logits = {way: run() for way, run in runners.items()}  # warms up, too
    seconds = {way: [] for way in runners}
    for _ in range(rounds):
        for way, run in runners.items():
            started = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - started)
    rates = {way: num_windows / statistics.median(times) for way, times in seconds.items()}
    exported = [way for way in runners if way != "PyTorch"]
    return Row(
        name,
        window_samples_for(model.config, extractor, None) / extractor.sampling_rate,
        rates,
        {way: rates[way] / rates["PyTorch"] for way in exported},
        {way: float(np.abs(logits[way] - logits["PyTorch"]).max()) for way in exported},
        megabytes,
    )


def print_rows(rows: Sequence[Row]) -> None:
    """Print the rows as a Markdown table."""
    print("| model | window, s | PyTorch, windows/s | ONNX fp32 | ratio | ONNX int8 | ratio | MB fp32 | MB int8 |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row.model} | {row.window_seconds:.4g} | {row.rates['PyTorch']:.3g} | {row.rates['fp32']:.3g} | "
            f"{row.ratios['fp32']:.2f} | {row.rates['int8']:.3g} | {row.ratios['int8']:.2f} | "
            f"{row.megabytes['fp32']:.1f} | {row.megabytes['int8']:.1f} |"
        )


def main(words: Sequence[str] | None = None) -> list[Row]:
    """Measure, print a table, and return its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--windows", type=int, default=16, help="(default: 16)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--threads", type=int, help="(default: all cores)")
    parser.add_argument("--tiny", action="store_true", help="the small ConvNeXt, 2 windows of 1 s, once")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    chosen = parser.parse_args(words)
    if chosen.tiny:
        chosen.models, chosen.windows, chosen.rounds = ["small_convnext"], 2, 1
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    rows = [
        measure(name, chosen.windows, chosen.rounds, 1.0 if chosen.tiny else MODELS[name][1]) for name in chosen.models
    ]
    print_rows(rows)
    if chosen.json:
        chosen.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    return rows


if __name__ == "__main__":
    main()
