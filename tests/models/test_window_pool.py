"""Windows in several threads: the outputs of one, in order, in the precision asked for, and only some at a time."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import load, saved
from transformers import Wav2Vec2FeatureExtractor

from hf_utils.cores import count_cores
from hf_utils.models.features import run_windows
from hf_utils.models.window_pool import WindowPool


def make_files(count: int, num_samples: int) -> list[list[np.ndarray]]:
    """Return windows of several files: 1, 2, ... of them."""
    random = np.random.default_rng(0)
    return [[random.normal(0, 0.1, num_samples).astype(np.float32) for _ in range(i + 1)] for i in range(count)]


@pytest.mark.parametrize("name", ["ast", "hubert", "wav2vec2", "wavlm", "whisper", "convnext", "timm_resnet"])
def test_outputs_are_those_of_one_thread(name, tmp_path_factory):
    spectrogram = (
        {"num_mel_bins": 32, "n_fft": 512, "hop_length": 256} if name in ("convnext", "timm_resnet") else None
    )
    model, extractor = load(
        saved(name, tmp_path_factory), spectrogram=spectrogram, window_seconds=None if name == "whisper" else 1.0
    )
    if spectrogram is not None:
        extractor.mean, extractor.std = -5.0, 4.0
    seconds = 30 if name == "whisper" else 1
    files = make_files(3 if name == "whisper" else 7, seconds * extractor.sampling_rate)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the pool of a machine with few cores
    try:
        expected = [run_windows(model, extractor, windows, batch_size=2) for windows in files]
        with WindowPool(model, extractor, batch_size=2) as pool:
            outputs = [pool.submit(windows) for windows in files]
            assert [len(of_file) for of_file in outputs] == [(len(windows) + 1) // 2 for windows in files]
            found = [torch.cat([output.result() for output in of_file]) for of_file in outputs]
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    exactly = {"rtol": 0, "atol": 0} if count_cores() <= 4 else {}
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **exactly)


def test_precision_is_that_of_the_products(tmp_path_factory):
    model, extractor = load(
        saved("convnext", tmp_path_factory), spectrogram={"num_mel_bins": 32, "n_fft": 512, "hop_length": 256}
    )
    extractor.mean, extractor.std = -5.0, 4.0
    seen = []
    hook = model.classifier[-1].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    (windows,) = make_files(1, extractor.sampling_rate)
    outputs = {}
    for precision in (None, torch.bfloat16):
        with WindowPool(model, extractor, batch_size=2, precision=precision) as pool:
            (outputs[precision],) = (output.result() for output in pool.submit(windows))
    hook.remove()
    assert seen == [torch.float32, torch.bfloat16]
    assert outputs[None].dtype == outputs[torch.bfloat16].dtype == torch.float32
    torch.testing.assert_close(outputs[None], outputs[torch.bfloat16], atol=0.05, rtol=0.05)
    assert not torch.equal(outputs[None], outputs[torch.bfloat16])


class SmallMemory(torch.nn.Module):
    """Has no room for more than three windows."""

    device, dtype, sizes = torch.device("cpu"), torch.float32, ()

    def forward(self, input_values):
        self.sizes = (*self.sizes, len(input_values))
        if len(input_values) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return SimpleNamespace(logits=input_values.mean(dim=1, keepdim=True))


def test_batches_are_halved_where_there_is_no_memory_for_them():
    model, extractor = SmallMemory(), Wav2Vec2FeatureExtractor(sampling_rate=8000, do_normalize=False)
    windows = [np.full(10, number, np.float32) for number in range(20)]
    with WindowPool(model, extractor, batch_size=8) as pool:
        first = torch.cat([output.result() for output in pool.submit(windows)])
        refused = len([size for size in model.sizes if size > 3])
        again = torch.cat([output.result() for output in pool.submit(windows)])
    assert first.flatten().tolist() == again.flatten().tolist() == list(range(20))
    # 8 and then 4, by each thread at most once; after that no more.
    assert 2 <= refused <= 2 * pool.num_threads and len([s for s in model.sizes if s > 3]) == refused
    assert max(model.sizes[-10:]) == 2


class GatedModel(torch.nn.Module):
    """Waits in its first call until the gate is opened."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()

    def forward(self, input_values):
        self.gate.wait(30)
        return SimpleNamespace(logits=input_values.mean(dim=1, keepdim=True))


def test_only_some_batches_are_in_memory():
    model, taken = GatedModel(), []
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=8000, do_normalize=False)

    def windows():
        for number in range(100):
            taken.append(number)
            yield np.full(10, number, np.float32)

    with WindowPool(model, extractor, batch_size=2) as pool:
        found = []
        reader = threading.Thread(target=lambda: found.extend(pool.submit(windows())))
        reader.start()
        reader.join(0.5)
        held = 2 * (2 * pool.num_threads + 1)  # a batch waits to be handed over
        assert reader.is_alive() and len(taken) == held
        model.gate.set()
        reader.join(30)
        assert torch.cat([output.result() for output in found]).flatten().tolist() == list(range(100))
