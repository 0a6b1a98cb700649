"""Decoding in other processes: the samples and the order of decoding here, and crashes are one file's."""

import logging
import multiprocessing
import os
import signal

import numpy as np
import pytest
import soundfile

from hf_utils import audio
from hf_utils.data.decode_ahead import decode_ahead
from hf_utils.sound_check import AudioError

RATE = 8000


@pytest.fixture
def files(tmp_path):
    """Seven files, of which the third is none, and the fourth has an offset."""
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.wav" for i in range(7)]
    for number, path in enumerate(paths):
        samples = 0.1 * random.standard_normal((RATE * (1 + 9 * (number == 1)), 2)) + 0.5 * (number == 3)
        soundfile.write(path, samples, RATE, subtype="FLOAT")
    paths[2].write_bytes(b"no sound")
    return paths


def read_all(files, num_proc):
    found = []
    for blocks in decode_ahead(files, RATE // 2, num_proc):
        try:
            found.append(np.concatenate(list(blocks)))
        except AudioError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("num_proc", [1, 2])
def test_samples_come_in_order_as_one_process_reads_them(files, num_proc, caplog):
    found = read_all(files, num_proc)
    assert len(found) == 7 and "undecodable" in found.pop(2)
    for path, samples in zip([*files[:2], *files[3:]], found, strict=True):
        np.testing.assert_array_equal(samples, audio.load(path, RATE // 2))
    assert [r for r in caplog.records if r.levelno == logging.WARNING and "3.wav: a constant offset" in r.message]
    assert not multiprocessing.active_children()


def test_what_is_left_of_a_file_is_passed_over_and_processes_end_with_whoever_reads(files):
    decoded = decode_ahead([files[1], *files[3:]], RATE, 2)
    lengths = [len(next(blocks)) for _, blocks in zip(range(3), decoded, strict=False)]
    assert lengths == [10 * RATE, RATE, RATE]
    assert len(multiprocessing.active_children()) == 2
    decoded.close()
    assert not multiprocessing.active_children()


def test_a_crash_of_the_decoder_is_the_trouble_of_one_file(files):
    decoded = decode_ahead([files[1]] * 5, RATE, 2)  # longer than what a pipe holds
    assert len(np.concatenate(list(next(decoded)))) == 10 * RATE
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(AudioError, match="crashed.*-9"):
            list(next(decoded))
    assert [len(np.concatenate(list(blocks))) for blocks in decoded] == [10 * RATE] * 2
