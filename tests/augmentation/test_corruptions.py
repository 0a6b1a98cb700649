"""Corruptions: the shipped benchmark runs, is the same for every model, and names what is wrong in a user's own."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_utils.audio import decode, rms_db
from hf_utils.augmentation.corruptions import read_corruptions
from hf_utils.data.clips import load_clips
from hf_utils.data.waveforms import decode_clips, read_samples
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


def level_below(samples, rate, hz):
    spectrum = np.fft.rfft(samples)
    return 10 * np.log10(np.sum(np.abs(spectrum[: round(hz * samples.size / rate)]) ** 2))


def test_every_corruption_changes_its_own_axis_and_holds_the_level(tmp_path):
    """A loud master, as a model hears it: what was not asked to change is as loud as before, within 0.1 dB."""
    rate, folder = 22050, tmp_path / "loud" / "rock"
    folder.mkdir(parents=True)
    time = np.arange(4 * rate) / rate
    music = sum(np.sin(2 * np.pi * hz * (1 + 0.01 * time) * time) for hz in (110, 331, 662, 1240, 3510, 7020))
    music = np.clip(music / 2.5 + 0.2 * white_noise(4, rate), -1, 1)
    soundfile.write(folder / "a.wav", music, rate, subtype="PCM_16")
    clips = load_clips(str(folder.parent))
    [clean] = map(read_samples, decode_clips(clips, rate, cache_dir=tmp_path / "cache"))
    lowered = 0
    for corruption in read_corruptions(SHIPPED):
        [row] = decode_clips(clips, rate, cache_dir=tmp_path / "cache", corruption=corruption)
        heard, lowered = read_samples(row), lowered + (row["pcm_gain"] < 0.9)
        kind, severity = corruption.kind, corruption.severity
        if corruption.snr_db is not None:
            change_db = 20 * np.log10(np.dot(heard, clean) / np.dot(clean, clean))
        elif kind == "low_pass":
            half = 500 * float(severity.partition("_")[0])
            change_db = level_below(heard, rate, half) - level_below(clean, rate, half)
        elif kind == "clipping":
            inside = np.abs(heard) < 0.99 * np.abs(heard).max()
            change_db = rms_db(heard[inside]) - rms_db(clean[inside])
        else:
            asked_db = -float(severity.partition("_")[0]) if kind == "quieter" else 0
            change_db = rms_db(heard) - rms_db(clean) - asked_db
        assert change_db == pytest.approx(0, abs=0.1), corruption.name
    assert lowered > 5  # files of these would have had to be quieter


KINDS_OF_SILENCE = {
    "gain": "Gain: {min_gain_db: -100, max_gain_db: -100, p: 1.0}",
    "mask": "TimeMask: {min_band_part: 1.0, max_band_part: 1.0, p: 1.0}",
}


@pytest.mark.parametrize("transform", KINDS_OF_SILENCE.values(), ids=KINDS_OF_SILENCE)
def test_corruption_that_silences_is_refused(tmp_path, transform):
    [corruption] = read_corruptions(write(tmp_path, f"kinds: {{a: {{b: [{transform}]}}}}\n"))
    with pytest.raises(UserError, match="a_b: track7 comes out (mostly )?silent"):
        corruption(white_noise(1, 16000), 16000, "track7")


def test_track_that_a_corruption_leaves_as_it_is_is_remarked(tmp_path):
    [corruption] = read_corruptions(write(tmp_path, "kinds: {a: {b: [Clip: {a_min: -1.0, a_max: 1.0, p: 1.0}]}}\n"))
    assert corruption(white_noise(1, 16000), 16000, "track7").fault == "unchanged"


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
