"""Corruptions: the shipped benchmark runs, is the same for every model, and names what is wrong in a user's own."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_utils.audio import decode
from hf_utils.augmentation.corruptions import read_corruptions
from hf_utils.errors import UserError

SHIPPED = Path(__file__).parents[2] / "configs" / "corruptions.yaml"


def white_noise(seconds, rate):
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * rate)).astype(np.float32)


def write(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


def test_shipped_benchmark_on_a_real_clip(gtzan_mini, tmp_path):
    soundfile.write(tmp_path / "bar.wav", white_noise(2, 22050), 22050)
    corruptions = read_corruptions(SHIPPED, str(tmp_path))
    samples, rate = decode(sorted(gtzan_mini.rglob("*.flac"))[2])
    samples = samples[: 5 * rate]
    for corruption in corruptions:
        clip = corruption(samples, rate, "blues.00001")
        assert clip.samples.shape == samples.shape and len(clip.transforms) == 1, corruption.name
        assert not np.array_equal(clip.samples, samples), corruption.name
        if corruption.snr_db is not None:
            assert clip.measured_snr_db == pytest.approx(corruption.snr_db, abs=0.1), corruption.name
    kinds = {}
    for corruption in corruptions:
        kinds.setdefault(corruption.kind, []).append(corruption.snr_db)
    assert kinds["white_noise"] == [30, 20, 10, 5, 0] and kinds["pink_noise"] == [20, 10, 0]
    assert {kind: len(severities) for kind, severities in kinds.items()} == {
        "white_noise": 5, "pink_noise": 3, "mp3": 3, "low_pass": 3, "clipping": 3, "quieter": 3, "stretch": 2,
        "pitch": 4, "background": 3,
    }  # fmt: skip


def test_noise_is_the_same_every_time_and_another_for_every_track_and_severity():
    one, other = (read_corruptions(SHIPPED) for _ in range(2))
    samples = white_noise(1, 16000)
    by_name = {c.name: c for c in other}
    first = next(c for c in one if c.name == "white_noise_10_db")
    by_name["pink_noise_0_db"](samples, 16000, "a")  # what ran before does not matter
    assert np.array_equal(first(samples, 16000, "a").samples, by_name[first.name](samples, 16000, "a").samples)
    assert not np.array_equal(first(samples, 16000, "a").samples, first(samples, 16000, "b").samples)
    assert first.seed_of("a") != by_name["white_noise_20_db"].seed_of("a")


def test_pink_noise_has_as_much_power_in_every_octave():
    pink = next(c for c in read_corruptions(SHIPPED) if c.name == "pink_noise_0_db")
    samples = white_noise(10, 22050)
    for track_id in "ab":
        clip = pink(samples, 22050, track_id)
        noise = clip.samples / clip.gain - samples
        power, hz = np.abs(np.fft.rfft(noise)) ** 2, np.fft.rfftfreq(noise.size, 1 / 22050)
        octaves = [power[(hz >= low) & (hz < 2 * low)].sum() for low in (43, 86, 172, 344, 689, 1378, 2756, 5512)]
        assert max(octaves) / min(octaves) < 1.2, octaves


def test_background_noise_is_left_out_without_a_folder(caplog):
    assert "background" not in {c.kind for c in read_corruptions(SHIPPED)}
    assert "background is left out: it needs your recordings, --noise_folder FOLDER" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: {}\n", "kind is not known, expected description and kinds"),
        ("kinds: []\n", "kinds is .., expected names"),
        ("kinds: {gain: {0.5: [Gain: {p: 1.0}]}}\n", "kinds.gain: 0.5 is no name"),
        ("kinds: {gain: {-6_db: [Gain: {p: 1.0}]}}\n", "kinds.gain: '-6_db' is no name"),
        ("kinds: {gain: {low: [Gian: {p: 1.0}]}}\n", r"kinds.gain.low\[0\]: there is no transform 'Gian'"),
        ("kinds: {a: {b_c: [Gain: {p: 1.0}]}, a_b: {c: [Gain: {p: 1.0}]}}\n", "two corruptions have the name a_b_c"),
    ],
)
def test_mistake_is_named(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_corruptions(write(tmp_path, text))
