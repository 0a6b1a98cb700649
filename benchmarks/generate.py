"""Seconds that MusicGen takes per clip, by batch size and precision, and the share that is not the network's.

    python benchmarks/generate.py                                          # on a CPU: batch 1, 4, 16, few steps
    python benchmarks/generate.py --batch_sizes 1 2 4 8 16 32 64 --steps 1503

Weights are random, at the size of musicgen-small (or of --size): the time of a step does not
depend on them. The steps of the decoder cost nearly the same, so fewer are timed than a clip has, and the table shows
how the rest is computed:

    seconds of a batch = start + steps x median seconds of a step + EnCodec's decoding of the whole clips

`start` is the time to the first step. Attention over more steps makes late ones slower, so this is a lower bound (by a
quarter, for one clip on a CPU); with --steps of the whole clip (1503 for 30 s) nothing is extrapolated.
"""

import argparse
import resource
import statistics
import sys
import time
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import transformers

from hf_utils.generation.generators import DTYPES, GeneratorCheckpoint
from hf_utils.generation.musicgen import GUIDANCE_SCALE, TEMPERATURE, TOP_K, decode_in_parts
from hf_utils.generation.plan import Recipe
from hf_utils.generation.prompts import load_prompts
from hf_utils.generation.sampling import Sampling
from hf_utils.generation.synthesis import BatchMaker

# hidden size, layers, heads of the decoder
SIZES = {"small": (1024, 24, 16), "medium": (1536, 48, 24), "large": (2048, 48, 32), "tiny": (16, 2, 2)}
FRAMES_PER_SECOND, CODEBOOKS, NATIVE_RATE = 50, 4, 32000
GENRES = ["blues", "jazz"]
PROMPT_TOKENS = 40


def build_model(size: str) -> transformers.MusicgenForConditionalGeneration:
    """Return MusicGen with random weights and the published sizes."""
    transformers.logging.set_verbosity_error()  # the pad token is one past the codebook by design
    hidden_size, num_layers, num_heads = SIZES[size]
    tiny = size == "tiny"
    text_sizes = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
    text = transformers.T5Config(**text_sizes | ({"d_model": 16, "d_ff": 32, "num_layers": 1} if tiny else {}))
    codec = transformers.EncodecConfig(
        sampling_rate=NATIVE_RATE,
        audio_channels=1,
        normalize=False,
        use_causal_conv=False,
        upsampling_ratios=[8, 5, 4, 4],
        num_filters=4 if tiny else 64,
        hidden_size=128,
        codebook_dim=128,
        codebook_size=2048,
        target_bandwidths=[2.2],
    )
    sizes = {"hidden_size": hidden_size, "num_hidden_layers": num_layers, "num_attention_heads": num_heads}
    decoder = transformers.MusicgenDecoderConfig(**sizes, ffn_dim=4 * hidden_size)
    config = transformers.MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=decoder)
    return transformers.MusicgenForConditionalGeneration(config).eval()


def seconds_of(call, device: torch.device) -> float:
    """Return the seconds that `call` takes."""
    wait(device)
    started = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - started


def wait(device: torch.device) -> None:
    """Let the device finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


class StepTimes(transformers.LogitsProcessor):
    """Notes when the logits of each step are there."""

    def __init__(self):
        self.seconds = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        wait(scores.device)
        self.seconds.append(time.perf_counter())
        return scores


@torch.inference_mode()
def generate(model, batch_size: int, steps: int) -> tuple[float, float, float]:
    """Run the model for `steps` steps with guidance, as `musicgen.MusicgenGenerator` does.

    Returns seconds to the first step, median seconds of a step, and seconds in all.
    """
    ids = torch.randint(3, 30000, (batch_size, PROMPT_TOKENS), device=model.device)
    times = StepTimes()
    started = time.perf_counter()
    model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        guidance_scale=GUIDANCE_SCALE,
        top_k=TOP_K,
        temperature=TEMPERATURE,
        max_new_tokens=steps,
        logits_processor=transformers.LogitsProcessorList([times]),
    )
    wait(model.device)
    ended = time.perf_counter()
    return times.seconds[0] - started, statistics.median(np.diff(times.seconds)), ended - started


@torch.inference_mode()
def decode(model, batch_size: int, frames: int) -> None:
    """Run EnCodec's decoder over `frames` frames, as `musicgen.MusicgenGenerator` does."""
    codes = torch.randint(0, 2048, (1, batch_size, CODEBOOKS, frames), device=model.device)
    decode_in_parts(model.audio_encoder.decode, codes, [None] * batch_size)


def time_finishing(batch_size: int, clip_seconds: float) -> float:
    """Return the seconds from generated audio to rows: resampling, gates, fingerprints, FLAC (noise is its worst)."""
    sampling = Sampling(clip_seconds, 0.0, GUIDANCE_SCALE, tokens=1)
    recipe = Recipe(
        GeneratorCheckpoint("random", "musicgen", "none"),
        sampling,
        "fp32",
        GENRES,
        load_prompts(None, GENRES),
        clips_per_genre=batch_size,
        batch_size=batch_size,
        seed=0,
        max_attempts=1,
        sample_rate=22050,
        rms_db=-20.0,
    )
    shape = (batch_size, 1, sampling.native_samples(NATIVE_RATE))
    noise = np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)
    generator = types.SimpleNamespace(
        sample_rate=NATIVE_RATE, dtype=torch.float32, sampling=sampling, generate=lambda *arguments: noise
    )
    maker = BatchMaker(recipe, generator, {})
    return seconds_of(lambda: maker.make(0), torch.device("cpu"))


def measure(model, batch_size: int, dtype: str, clip_seconds: float, steps: int, device: torch.device) -> None:
    frames = round(clip_seconds * FRAMES_PER_SECOND)
    full = frames + CODEBOOKS - 1
    model.to(DTYPES[dtype])
    model.audio_encoder.float()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    generate(model, batch_size, 8)
    start, per_step, measured = generate(model, batch_size, steps)
    decoding = seconds_of(lambda: decode(model, batch_size, frames), device)
    generating = measured if steps == full else start + full * per_step + decoding
    finishing = time_finishing(batch_size, clip_seconds)
    total = generating + finishing
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**30
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    arithmetic = "measured" if steps == full else f"{start:.2f} + {full} x {per_step:.4f} + {decoding:.2f}"
    print(
        f"| {dtype} | {batch_size} | {steps} | {arithmetic} | {generating:.1f} | {total / batch_size:.2f} | "
        f"{batch_size * clip_seconds / total:.3g} | {finishing:.2f} | {finishing / total:.1%} | {memory:.1f} |",
        flush=True,
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 4, 16], metavar="CLIPS")
    parser.add_argument("--dtypes", nargs="+", choices=sorted(DTYPES), default=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=60, help="Steps that are timed. (default: 60)")
    parser.add_argument("--clip_seconds", type=float, default=30.0)
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    options = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(options.size).to(device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} processor threads"
    size = f"musicgen-{options.size}, {model.num_parameters() / 1e6:.1f} M random weights"
    print(f"{size}, {name}, torch {torch.__version__}, clips of {options.clip_seconds:g} s")
    print("Memory is the peak so far on a CPU, and of the row on a GPU.\n")
    header = "dtype, batch, steps timed, seconds of a batch, = s, s per clip, x real time, finishing s, share, GiB"
    print(f"| {header.replace(', ', ' | ')} |\n| --- {'| ---: ' * 9}|")
    for dtype in options.dtypes:
        for batch_size in options.batch_sizes:
            measure(model, batch_size, dtype, options.clip_seconds, options.steps, device)


if __name__ == "__main__":
    main()
