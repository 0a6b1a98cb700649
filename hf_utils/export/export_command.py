"""Write a trained classifier as one ONNX file, which takes waveforms: other programs need neither torch nor features.

    python -m hf_utils.export runs/ast                      # writes runs/ast/model.onnx
    python -m hf_utils.export runs/ast --int8               # writes runs/ast/model-int8.onnx
    python run_classification.py --model_name_or_path runs/ast/model.onnx --do_predict --predict_path ~/Music

The file is compared with the model on windows of the run's training tracks, or of --music, or of synthesised music
where there is neither. Labels, sampling rate, window, hop and temperature are in its metadata.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_utils.config_files import read_config
from hf_utils.data.window_lengths import WindowLengths, hop_samples_for
from hf_utils.errors import UserError
from hf_utils.export.check_windows import CheckWindows, find_windows
from hf_utils.export.front_end import make_front_end
from hf_utils.export.onnx_file import LOGITS, WAVEFORMS, OnnxFacts, open_session
from hf_utils.export.onnx_graph import (
    OPSET,
    Graph,
    GraphClassifier,
    drop_traces,
    export_graph,
    quantize_graph,
    takes_any_length,
)
from hf_utils.files import CONFIG_FILE, EXPORTED_SUFFIX, write_atomically
from hf_utils.hub.run_files import find_run_file
from hf_utils.launch import module_parser, setup_logging
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.families import needs_feature_stats, window_samples_for
from hf_utils.models.features import run_windows
from hf_utils.models.loading import load_classifier

# Largest difference of a logit that is rounding, and not another computation.
MOST_DIFFERENCE = 1e-3
# Windows that are compared. As many others give the ranges of 8-bit numbers.
_COMPARED = 32
# Share of windows whose genre must be the same with 8-bit weights.
LEAST_AGREEMENT = 0.9


def export_model(name: str, output: Path, *, int8: bool, music: Path | None) -> str:
    """Write the file of a checkpoint, if it computes what the checkpoint does; return what was written, in words.

    Raises:
        UserError: the checkpoint cannot be loaded or exported, or the file would give other results.
    """
    model, feature_extractor = load_classifier(Checkpoint(name), None)
    front_end = make_front_end(feature_extractor)
    if front_end is None:
        raise UserError(
            f"{name} reads what {type(feature_extractor).__name__} makes, which cannot be written into a graph. What "
            "can: spectrogram CNNs, MusiCNN, AST, SampleCNN, MuQ, and HuBERT, wav2vec2, WavLM and MERT"
        )
    if needs_feature_stats(feature_extractor):
        raise UserError(f"{name} has no mean and deviation of its spectrograms yet: train it first")
    lengths = _find_lengths(name, model, feature_extractor)
    if lengths.window_samples < getattr(feature_extractor, "min_samples", 0):
        raise UserError(
            f"windows of {lengths.window_samples} samples are repeated to {feature_extractor.min_samples} before they "
            "are heard, which a graph does not do: train with a longer --window_seconds"
        )
    checked = find_windows(name, lengths, music, 2 * _COMPARED if int8 else _COMPARED)
    facts = OnnxFacts.of_model(
        model.config,
        lengths,
        any_length=takes_any_length(model.config),
        precision="int8" if int8 else "fp32",
        model=Path(name).name if Path(name).is_dir() else name,
    )
    graph = export_graph(GraphClassifier(model, front_end, feature_extractor.model_input_names[0], facts), facts)
    said = [_compare(graph, model, feature_extractor, checked, facts)]
    if int8:
        half = len(checked.windows) // 2
        graph = quantize_graph(graph, model.config, checked.windows[:half] or checked.windows)
        compared = CheckWindows(checked.windows[half:], checked.source)
        said.append(_compare_genres(graph, model, feature_extractor, compared))
    drop_traces(graph)
    content = graph.SerializeToString()
    write_atomically(output, content)
    lengths_taken = "any length" if facts.any_length else "this length only"
    said.append(
        f"{output}: {len(content) / 1e6:.1f} MB, opset {OPSET}, {len(facts.labels)} labels; takes waveforms (batch, "
        f"samples) at {facts.sampling_rate} Hz, windows of {facts.window_seconds:g} s ({lengths_taken})"
    )
    return "\n".join(said)


def _find_lengths(name: str, model: Any, feature_extractor: Any) -> WindowLengths:
    """Return the windows of a checkpoint, as far apart as its run had them, or by half."""
    sample_rate = feature_extractor.sampling_rate
    window_samples = window_samples_for(model.config, feature_extractor, None)
    config = find_run_file(name, CONFIG_FILE)
    hop_seconds = read_config(config).get("eval_hop_seconds") if config else None
    return WindowLengths(sample_rate, window_samples, hop_samples_for(window_samples, hop_seconds, sample_rate))


def _compare(graph: Graph, model: Any, feature_extractor: Any, checked: CheckWindows, facts: OnnxFacts) -> str:
    """Return how far outputs are from the model's, in words. Raises UserError if it is too far.

    The model's come from its own feature extractor. Where another length is taken, one is compared, too.
    """
    session, sets = open_session(graph.SerializeToString()), [checked.windows]
    if facts.any_length:
        longer = np.concatenate(checked.windows[:2])[: facts.window_samples + facts.window_samples // 3]
        sets.append([longer])
    furthest = 0.0
    for windows in sets:
        expected = run_windows(model, feature_extractor, windows).numpy()
        furthest = max(furthest, float(np.abs(_run(session, windows, LOGITS) - expected).max()))
    if not furthest <= MOST_DIFFERENCE:
        raise UserError(
            f"the graph gives other logits than the model: by up to {furthest:.2g} on {checked.source}, expected at "
            f"most {MOST_DIFFERENCE:g}. Nothing was written."
        )
    return f"Compared on {len(checked.windows)} windows of {checked.source}: logits differ by at most {furthest:.2g}"


def _compare_genres(graph: Graph, model: Any, feature_extractor: Any, checked: CheckWindows) -> str:
    """Return how often 8-bit weights give another genre, in words. Raises UserError if it is too often."""
    session = open_session(graph.SerializeToString())
    found = _run(session, checked.windows, LOGITS).argmax(1)
    expected = run_windows(model, feature_extractor, checked.windows).numpy().argmax(1)
    same, count = int((found == expected).sum()), len(expected)
    text = f"int8: the likeliest label is the same in {same} of {count} other windows"
    if same < LEAST_AGREEMENT * count:
        raise UserError(
            f"{text}, expected at least {LEAST_AGREEMENT:.0%}. Nothing was written: leave --int8 out, or give --music "
            "of the kind that the model is for."
        )
    return text


def _run(session: Any, windows: Sequence[np.ndarray], output: str) -> np.ndarray:
    """Return an output (W, K) for windows (S,)."""
    return np.concatenate([session.run([output], {WAVEFORMS: window[None]})[0] for window in windows])


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code. Raises UserError."""
    parser = module_parser("hf_utils.export", __doc__)
    parser.add_argument("model", help="folder of a trained classifier, or its name on the Hub")
    parser.add_argument("--format", choices=["onnx"], default="onnx", help="of the file (default: onnx)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: model.onnx in the model's folder")
    parser.add_argument("--int8", action="store_true", help="8-bit weights: a smaller file, nearly the same results")
    parser.add_argument(
        "--music", type=Path, metavar="PATH", help="file or folder to compare on (default: the run's training tracks)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    args = parser.parse_args(argv)
    output = args.output or Path(args.model, f"model{'-int8' * args.int8}{EXPORTED_SUFFIX}")
    if args.output is None and not Path(args.model).is_dir():
        raise UserError(f"{args.model} is no folder on this machine: say by --output where the file is to be")
    if output.suffix != EXPORTED_SUFFIX:
        raise UserError(f"--output {output} does not end in {EXPORTED_SUFFIX}, by which --do_predict knows it")
    if output.exists() and not args.overwrite:
        raise UserError(f"{output} exists: choose another --output, or add --overwrite to replace it")
    if args.music is not None and not args.music.exists():
        raise UserError(f"--music {args.music} is neither a file nor a folder")
    setup_logging(True)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # which operations it leaves as they are
    print(export_model(args.model, output, int8=args.int8, music=args.music))
    return 0
