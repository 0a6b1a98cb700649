"""One training step of an AST of the base size: `--precision auto` against fp32, side by side, as a ratio.

    python benchmarks/precision.py

`auto` is bf16 where the GPU or the CPU computes it in hardware, and fp32 elsewhere; there the two are the same and the
ratio shows only the noise of the machine. Weights are random: the time of a step does not depend on them.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import ASTConfig, ASTForAudioClassification

from hf_utils.arguments.training import has_bf16_hardware


def seconds_per_step(model, batch: dict, optimizer, dtype: torch.dtype) -> float:
    started = time.perf_counter()
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main(batch_size: int, repeats: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    auto = torch.bfloat16 if has_bf16_hardware(use_cpu=device == "cpu") else torch.float32
    model = ASTForAudioClassification(ASTConfig(num_labels=10)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    batch = {
        "input_values": torch.randn(batch_size, 1024, 128, device=device),
        "labels": torch.zeros(batch_size, dtype=torch.long, device=device),
    }
    seconds = {"fp32": [], "auto": []}
    for repeat in range(repeats + 1):  # the first pair warms up; the two alternate, so that both meet the same noise
        for name, dtype in (("fp32", torch.float32), ("auto", auto)):
            elapsed = seconds_per_step(model, batch, optimizer, dtype)
            if repeat:
                seconds[name].append(elapsed)
    fp32, fast = (statistics.median(seconds[name]) for name in ("fp32", "auto"))
    print(f"AST base, 86 M parameters, batch {batch_size} x 10.24 s, {device}, {torch.get_num_threads()} threads")
    print(
        f"fp32: {fp32:.2f} s a step    auto ({str(auto).removeprefix('torch.')}): {fast:.2f} s    "
        f"ratio {fp32 / fast:.2f}"
    )
    if auto is torch.float32:
        print("This machine has no bf16 units, so auto is fp32.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    main(arguments.batch_size, arguments.repeats)
