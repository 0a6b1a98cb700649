"""Damaged audio files through the decoding of training and of prediction: each is read or named, and nothing else.

    python benchmarks/fuzz_audio.py --files 300 --seed 0

Files of the formats that libsndfile reads, and of those that FFmpeg reads, are cut at random, have random bytes
changed, or get the beginning of a file of another format. Every file is decoded as for training and as for prediction,
in its own process, which is watched: a traceback, a crash, more than the time limit, or two ways that differ, is
trouble, and the exit code is then 1. Then all of them go through a whole prediction (`predict_files`) by a tiny model.
The files of a seed are always the same, but for the serial number that libsndfile draws for an OGG file; `--keep`
leaves those that made trouble in a folder.
"""

import argparse
import collections
import io
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import av
import numpy as np
import soundfile

from hf_utils import audio
from hf_utils.sound_check import AudioError

SNDFILE_FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", None),
    "ogg": ("OGG", "VORBIS"),
}
# Container, encoder, kind of samples.
FFMPEG_FORMATS = {
    "m4a": ("mp4", "aac", "fltp"),
    "alac": ("mp4", "alac", "s16p"),
    "aac": ("adts", "aac", "fltp"),
    "wma": ("asf", "wmav2", "fltp"),
    "webm": ("webm", "libopus", "flt"),
    "wv": ("wv", "wavpack", "s16p"),
    "tta": ("tta", "tta", "s16"),
}
FORMATS = SNDFILE_FORMATS | FFMPEG_FORMATS
DAMAGES = ("truncated", "flipped", "header flipped", "swapped", "zeros")
LONGEST_HEADER = 512
RATE = 16000
LIMIT_SECONDS = 20.0
MEMORY_BYTES = 1 << 30


class Outcome(NamedTuple):
    """What became of a file: `text` is its number of samples or why it cannot be used; `trouble` must not be."""

    name: str
    text: str
    trouble: str | None
    seconds: float


def make_files(folder: Path, num_files: int, seed: int) -> list[Path]:
    """Write damaged files; return their paths. Format and damage take turns, so that each is met equally often."""
    random = np.random.default_rng(seed)
    paths = []
    for index in range(num_files):
        suffix = list(FORMATS)[index % len(FORMATS)]
        damage = DAMAGES[index // len(FORMATS) % len(DAMAGES)]
        content = _encode(random, suffix)
        other = _encode(random, str(random.choice([name for name in FORMATS if name != suffix])))
        path = folder / f"{index:04d} {damage}.{suffix}"
        path.write_bytes(_damage(random, damage, content, other))
        paths.append(path)
    return paths


def _encode(random: np.random.Generator, suffix: str) -> bytes:
    rate, num_channels = int(random.choice([16000, 22050, 44100])), int(random.integers(1, 3))
    seconds = random.uniform(1, 4)
    time_axis = np.arange(round(seconds * rate))[:, None] / rate
    tones = np.sin(2 * np.pi * random.uniform(100, 2000, num_channels) * time_axis)
    samples = 0.4 * tones + 0.05 * random.standard_normal(tones.shape)
    if suffix in FFMPEG_FORMATS:
        return _encode_by_ffmpeg(samples, 48000 if suffix == "webm" else rate, *FFMPEG_FORMATS[suffix])
    file = io.BytesIO()
    name, subtype = SNDFILE_FORMATS[suffix]
    soundfile.write(file, samples, rate, format=name, subtype=subtype)
    return file.getvalue()


def _encode_by_ffmpeg(samples: np.ndarray, rate: int, container: str, encoder: str, kind: str) -> bytes:
    """Return a file of samples (T, C)."""
    file, layout = io.BytesIO(), ("mono", "stereo")[samples.shape[1] - 1]
    with av.open(file, "w", format=container, options={"fflags": "+bitexact"}) as output:
        stream = output.add_stream(encoder, rate=rate, layout=layout, options={"b": "96000"})
        stream.format = kind
        frame = av.AudioFrame.from_ndarray(samples.T.astype("f4", order="C"), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def _damage(random: np.random.Generator, damage: str, content: bytes, other: bytes) -> bytes:
    changed = bytearray(content)
    if damage == "truncated":
        del changed[int(random.integers(0, len(changed))) :]
    elif damage == "swapped":
        length = int(random.integers(4, LONGEST_HEADER))
        changed[:length] = other[:length]
    elif damage == "zeros":
        start, length = int(random.integers(0, len(changed))), int(random.integers(1, len(changed)))
        changed[start : start + length] = bytes(len(changed[start : start + length]))
    else:
        end = LONGEST_HEADER if damage == "header flipped" else len(changed)
        for place in random.integers(0, end, int(random.integers(1, 30))):
            changed[place] ^= int(random.integers(1, 256))
    return bytes(changed)


def decode_both_ways(path: Path) -> str:
    """Return the number of samples, or the reason; raises ValueError if training and prediction do not agree."""
    try:
        samples, recording = audio.decode_with_remarks(path)
        trained = audio.from_pcm16(audio.to_pcm16(audio.resample(samples, recording.sample_rate, RATE)))
        reason = None
    except AudioError as error:
        trained, reason = None, str(error)
    try:
        predicted = np.concatenate(list(audio.inspect(path).blocks(RATE)))
    except AudioError as error:
        if reason != str(error):
            raise ValueError(f"training: {reason or 'read'}; prediction: {error}") from error
        return reason
    if trained is None or not np.array_equal(trained, predicted):
        raise ValueError(f"training: {reason or trained.size}; prediction: {predicted.size} samples")
    return f"{trained.size} samples"


def _peak_bytes() -> int:
    """Return the most memory that this process has held. `ru_maxrss` would include that of the process before exec."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def _serve(paths: list[Path], connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES * 8, MEMORY_BYTES * 8))
    for path in paths:
        started = time.perf_counter()
        try:
            text, trouble = decode_both_ways(path), None
        except Exception:  # whatever it is, it is what this run looks for, and is reported with its traceback
            text, trouble = "", traceback.format_exc()
        peak = _peak_bytes()
        if trouble is None and peak > MEMORY_BYTES:
            trouble = f"{peak >> 20} MB in memory"
        connection.send(Outcome(path.name, text, trouble, time.perf_counter() - started))
        if peak > MEMORY_BYTES:
            return  # the next file starts afresh


def examine(paths: list[Path], limit_seconds: float = LIMIT_SECONDS) -> list[Outcome]:
    """Return what becomes of each file, in a process that is ended when one takes too long, and started anew."""
    outcomes, context = [], multiprocessing.get_context("spawn")
    while len(outcomes) < len(paths):
        connection, sender = context.Pipe(duplex=False)
        left = paths[len(outcomes) :]
        process = context.Process(target=_serve, args=(left, sender), daemon=True)
        process.start()
        sender.close()
        patience = limit_seconds + 60  # until Python has started
        for path in left:
            started = time.perf_counter()
            try:
                if not connection.poll(patience):
                    outcomes.append(Outcome(path.name, "", f"hangs: no end after {limit_seconds:g} s", limit_seconds))
                    break
                outcomes.append(connection.recv())
            except EOFError:
                process.join()
                seconds = time.perf_counter() - started
                outcomes.append(Outcome(path.name, "", f"crashed, exit code {process.exitcode}", seconds))
                break
            patience = limit_seconds
        process.kill()
        process.join()
        connection.close()
    return outcomes


def predict_all(folder: Path, output_dir: Path) -> tuple[int, list[tuple[str, str]]]:
    """Tag the files by a tiny model of random weights; return the number of those done, and the others' reasons."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    from hf_utils.data.window_lengths import WindowLengths
    from hf_utils.training.classifier import Classifier
    from hf_utils.training.prediction import TaggingOptions, predict_files

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ASTConfig(**sizes, num_mel_bins=32, max_length=100, id2label=dict(enumerate(("jazz", "rock"))))
    extractor = ASTFeatureExtractor(num_mel_bins=32, max_length=100)
    classifier = Classifier(ASTForAudioClassification(config), extractor, WindowLengths(RATE, 16240, 8000))
    return predict_files(classifier, folder, output_dir, TaggingOptions(batch_size=8, num_proc=2))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=300, help="number of damaged files")
    parser.add_argument("--seed", type=int, default=0, help="of the files and their damage")
    parser.add_argument("--keep", type=Path, help="folder for the files that make trouble")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "files")
        folder.mkdir()
        paths = make_files(folder, arguments.files, arguments.seed)
        outcomes = examine(paths)
        done, failures = predict_all(folder, Path(place, "out"))
        troubles = {outcome.name: outcome.trouble for outcome in outcomes if outcome.trouble}
        read = {outcome.name for outcome in outcomes if outcome.text.endswith(" samples")}
        named = dict(failures)
        troubles |= {p.name: "prediction and decoding differ" for p in paths if (p.name in read) == (p.name in named)}
        counts = collections.Counter()
        for path in paths:
            counts[path.suffix[1:], path.stem.split(" ", 1)[1], path.name in read] += 1
        print(f"{'format':8}{'damage':16}{'read':>6}{'named':>7}")
        for suffix in FORMATS:
            for damage in DAMAGES:
                print(f"{suffix:8}{damage:16}{counts[suffix, damage, True]:6}{counts[suffix, damage, False]:7}")
        slowest = max(outcomes, key=lambda outcome: outcome.seconds)
        print(
            f"\n{len(paths)} files, seed {arguments.seed}: {done} read, {len(failures)} named, {len(troubles)} trouble"
        )
        print(f"slowest: {slowest.seconds:.2f} s ({slowest.name})")
        for name, trouble in troubles.items():
            print(f"\n{name}: {trouble}")
            if arguments.keep is not None:
                arguments.keep.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / name, arguments.keep)
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
