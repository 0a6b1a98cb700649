"""Corruptions: the shipped benchmark runs, is the same for every model, and names what is wrong in a user's own."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_utils.audio import decode, rms_db
from hf_utils.augmentation.corruptions import read_corruptions
from hf_utils.data.clips import load_clips
from hf_utils.data.waveforms import decode_clips, read_samples
from hf_utils.errors import UserError

ROOT = Path(__file__).parents[2]
SHIPPED, SHORT = ROOT / "configs" / "corruptions.yaml", ROOT / "configs" / "corruptions_short.yaml"
PUBLISHED = ROOT / "hf_utils" / "augmentation" / "benchmarks.csv"


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
    samples = samples[: 3 * rate]
    for corruption in corruptions:
        clip = corruption(samples, rate, "blues.00001")
        assert clip.samples.shape == samples.shape and len(clip.transforms) == 1, corruption.name
        assert not np.array_equal(clip.samples, samples), corruption.name
        if corruption.snr_db is not None:
            assert clip.measured_snr_db == pytest.approx(corruption.snr_db, abs=0.1), corruption.name
    kinds = {}
    for corruption in corruptions:
        kinds.setdefault(corruption.kind, []).append(corruption.snr_db)
    assert len(kinds) == 14 and {len(severities) for kind, severities in kinds.items() if kind != "telephone"} == {5}
    for noise in ("white_noise", "pink_noise", "background"):
        assert kinds.pop(noise) == [30, 20, 10, 5, 0]
    assert {snr for severities in kinds.values() for snr in severities} == {None}


def band_level(samples, rate, low_hz, high_hz):
    low, high = (round(hz * samples.size / rate) for hz in (low_hz, high_hz))
    return 10 * np.log10(np.sum(np.abs(np.fft.rfft(samples)[low:high]) ** 2))


def pass_band(kind, severity):
    """The frequencies in Hz, well inside those of a filter, that it should leave as they are."""
    number, unit = severity.split("_")[0], severity.split("_")[-1]
    cutoff = float(number) * {"khz": 1000, "hz": 1}[unit]
    return {"low_pass": (0, cutoff / 2), "high_pass": (4 * cutoff, 11025), "telephone": (600, 2000)}[kind]


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
        elif kind in ("low_pass", "high_pass", "telephone"):
            band = pass_band(kind, severity)
            change_db = band_level(heard, rate, *band) - band_level(clean, rate, *band)
        elif kind in ("clipping", "dropped_frames"):
            inside = (np.abs(heard) < 0.99 * np.abs(heard).max()) & (np.abs(heard) > 0)
            change_db = rms_db(heard[inside]) - rms_db(clean[inside])
        elif kind == "mu_law":
            change_db = 20 * np.log10(np.dot(heard, clean) / np.dot(clean, clean))
        else:
            asked_db = -float(severity.partition("_")[0]) if kind == "quieter" else 0
            change_db = rms_db(heard) - rms_db(clean) - asked_db
        # Rounding the logarithm lifts the music a little where the steps are coarse.
        assert change_db == pytest.approx(0, abs=0.15 if kind == "mu_law" else 0.1), corruption.name
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


def test_the_seed_is_of_kind_severity_and_track_only():
    """By hand, from the bytes that docs/robustness.md names: who hears the track, and what else, cannot matter."""
    text = b'["corruption", "white_noise", "10_db", "blues.00012"]'
    expected = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") // 2
    for path in (SHIPPED, SHORT):
        [corruption] = [c for c in read_corruptions(path) if c.name == "white_noise_10_db"]
        assert corruption.seed_of("blues.00012") == expected


def test_what_is_heard_depends_on_no_model_process_or_order(tmp_path):
    """The samples of a track under the transforms that draw: the same for two rates, two processes, any order."""
    (tmp_path / "music" / "rock").mkdir(parents=True)
    for number in range(2):
        path = tmp_path / "music" / "rock" / f"{number}.wav"
        soundfile.write(path, np.roll(white_noise(1, 16000), number), 16000)
    clips = load_clips(str(tmp_path / "music"))
    names = ("white_noise_10_db", "pink_noise_10_db", "dropped_frames_5_percent", "reverberation_0.5_s")
    names += ("stretch_20_percent", "pitch_3_semitones", "mp3_16_kbps")
    corruptions = [c for c in read_corruptions(SHIPPED) if c.name in names]
    assert len(corruptions) == len(names)

    def listen(place, rate, num_proc, ordered):
        heard = {
            c.name: decode_clips(clips, rate, cache_dir=tmp_path / place, num_proc=num_proc, corruption=c)["sha256"][:]
            for c in ordered
        }
        return dict(sorted(heard.items()))

    first = listen("a", 16000, 1, corruptions)
    assert len({digest for digests in first.values() for digest in digests}) == 2 * len(names)
    assert listen("b", 11025, 1, corruptions[::-1]) == first
    assert listen("c", 16000, 2, corruptions[:1]).items() <= first.items()


def test_published_benchmark_is_what_it_was():
    """If this fails on purpose, raise the version in both files and add the lines it has now to benchmarks.csv."""
    with PUBLISHED.open(newline="") as file:
        published = [tuple(row.values()) for row in csv.DictReader(file)]
    found = [(c.benchmark, c.kind, c.severity, c.definition) for c in read_corruptions(SHIPPED)]
    assert [row for row in published if row[0] == found[0][0]] == found, "\n".join(map(",".join, found))
    short = read_corruptions(SHORT)
    assert len(short) == 8
    assert {c.definition for c in short} < {c[-1] for c in found}
    assert {c.fingerprint for c in short} < {c.fingerprint for c in read_corruptions(SHIPPED)}  # one cache for both


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


GENRE_C = "name: genre-c\nversion: 1\nkinds:\n  "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: {}\n", "kind is not known, expected name, version, description and kinds"),
        ("version: 2\nkinds: {}\n", "name is None, expected letters, .* since there is a version"),
        ("name: mine\nkinds: {}\n", "version is None, expected a whole number"),
        ("name: mine\nversion: true\nkinds: {}\n", "version is True, expected a whole number"),
        ("name: a b\nversion: 1\nkinds: {}\n", "name is 'a b', expected letters"),
        (f"{GENRE_C}quieter: {{6_db: [Gain: {{p: 1.0}}]}}", "kinds.quieter.6_db is not what genre-c 1 has"),
        (f"{GENRE_C}a: {{b: [PolarityInversion: {{p: 1.0}}]}}", "kinds.a.b is not what genre-c 1 has"),
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
