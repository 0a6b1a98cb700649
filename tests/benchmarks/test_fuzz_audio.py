"""A few damaged files of every format and kind: each is read or named. benchmarks/fuzz_audio.py tries many more."""

import numpy as np
import pytest
import soundfile

from benchmarks import fuzz_audio
from hf_utils import audio


def test_damaged_files_are_read_or_named(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    paths = fuzz_audio.make_files(folder, 20, seed=1)
    outcomes = fuzz_audio.examine(paths)
    assert [outcome.trouble for outcome in outcomes] == [None] * 20
    done, failures = fuzz_audio.predict_all(folder, tmp_path / "out")
    read = {outcome.name for outcome in outcomes if outcome.text.endswith(" samples")}
    assert {path.name for path in paths} - read == {name for name, _ in failures}
    assert 3 < done == len(read) < 17
    again = tmp_path / "again"
    again.mkdir()
    for first, second in zip(paths, fuzz_audio.make_files(again, 8, seed=1), strict=False):
        assert first.suffix == ".ogg" or first.read_bytes() == second.read_bytes()


def test_two_ways_that_differ_are_trouble(tmp_path, monkeypatch):
    (path,) = fuzz_audio.make_files(tmp_path, 1, seed=3)
    path.write_bytes(fuzz_audio._encode(np.random.default_rng(0), "wav"))
    assert fuzz_audio.decode_both_ways(path).endswith("samples")
    monkeypatch.setattr(audio, "to_pcm16", lambda samples: np.zeros(3, np.int16))
    monkeypatch.setattr(audio.Recording, "blocks", lambda recording, rate: iter([np.ones(3, np.float32)]))
    with pytest.raises(ValueError, match="prediction: 3 samples"):
        fuzz_audio.decode_both_ways(path)


def test_a_file_that_takes_too_long_is_trouble_and_the_next_is_examined(tmp_path):
    first, second = fuzz_audio.make_files(tmp_path, 2, seed=1)
    slow = tmp_path / "slow.wav"
    soundfile.write(slow, np.random.default_rng(0).uniform(-0.5, 0.5, 20_000_000), 44100)
    outcomes = fuzz_audio.examine([first, slow, second], limit_seconds=0.01)
    assert [outcome.name for outcome in outcomes] == [first.name, slow.name, second.name]
    assert [bool(outcome.trouble) for outcome in outcomes] == [False, True, False]
    assert "hangs" in outcomes[1].trouble
