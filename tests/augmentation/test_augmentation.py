"""Transforms: mistakes are named, results depend on the seed alone, length is kept, the SNR is what was asked for."""

import importlib.util
import pickle
import random
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hf_utils.audio import decode, rms_db
from hf_utils.augmentation.pipeline import Augmentation, read_augmentation
from hf_utils.errors import UserError

RATE = 22050
SHIPPED = sorted((Path(__file__).parents[2] / "configs" / "augment").glob("*.yaml"))
AWGN_10_DB = [{"AddGaussianSNR": {"min_snr_db": 10.0, "max_snr_db": 10.0, "p": 1.0}}]


def make_music(seconds=3.0, rate=RATE, level=0.5):
    time = np.arange(round(seconds * rate)) / rate
    tones = sum(np.sin(2 * np.pi * hz * time + hz) / n for n, hz in enumerate((110, 277, 660, 1550, 4200), start=1))
    return (level * tones / np.abs(tones).max() * (0.6 + 0.4 * np.sin(2 * np.pi * 2 * time))).astype(np.float32)


@pytest.fixture
def noise_folder(tmp_path) -> str:
    folder = tmp_path / "noise" / "street"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for index, rate in enumerate((RATE, 16000, RATE)):
        soundfile.write(folder / f"{index}.wav", noise.normal(0, 0.1, 2 * rate), rate)
    return str(folder.parent)


def find_error(spec, **options):
    with pytest.raises(UserError) as caught:
        Augmentation(spec, where="x.yaml: transforms", **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([{"AddGausianSNR": {"p": 1.0}}], r"there is no transform 'AddGausianSNR' .did you mean AddGaussianSNR"),
        ([{"Gain": {"min_gain_in_db": -6, "p": 1.0}}], r"Gain: there is no parameter 'min_gain_in_db' .did you mean "
         r"\w+_gain_db\?.. There are: min_gain_db, max_gain_db, p"),
        ([{"TimeMask": {"min_part": 0.1, "p": 1.0}}], "there is no parameter 'min_part'"),  # hidden by its **kwargs
        ([{"PolarityInversion": {"p": 1.0}}, {"AddColorNoise": {"min_snr_db": 9, "max_snr_db": 3, "p": 1.0}}],
         r"\[1\].AddColorNoise: min_snr_db is 9 and max_snr_db is 3: expected the minimum"),
        ([{"Gain": {"min_gain_db": 20, "p": 1.0}}], "max_gain_db is 12.0 by default"),
        ([{"Gain": {"min_gain_db": -3.0}}], "give p, the probability of the transform: 1.0 for always"),
        ([{"Gain": {"p": 1.5}}], "p is 1.5, expected a probability from 0 to 1"),
        ([{"Gain": {"min_gain_db": "1e-3", "p": 1.0}}], "min_gain_db is '1e-3', expected a number"),
        ([{"LowPassFilter": {"min_rolloff": 7, "p": 1.0}}], "not work with min_rolloff: 7, p: 1.0: .*multiple of 6"),
        ([{"OneOf": {"p": 0.5}}], r"\[0\].OneOf: give transforms"),
        ([{"OneOf": {"transforms": [{"Gane": {"p": 1.0}}]}}], r"transforms\[0\].OneOf.transforms\[0\]: .*mean Gain"),
        ([{"SomeOf": {"num_transforms": 2, "transforms": [{"Gain": {"p": 1.0}}]}}], "num_transforms is 2"),
        ([{"Gain": {"p": 1.0}, "Shift": {"p": 1.0}}], "expected one transform"),
        ([{"Gain": None}], r"Gain is None, expected its parameters"),
        ("Gain", "expected a list of transforms"),
        ([], "expected a list of transforms"),
        ([{"AddBackgroundNoise": {"p": 1.0}}], "needs a folder of recordings: give --noise_folder"),
        ([{"AddBackgroundNoise": {"sounds_path": "no/such", "p": 1.0}}], "sounds_path is no/such, which is no folder"),
        ([{"Resample": {"p": 1.0}}], "Resample cannot be used: it returns audio at another rate"),
        ([{"Padding": {"p": 1.0}}], "silence into the music"),
        ([{"Shift": {"rollover": False, "p": 1.0}}], "rollover must be true: else the shift leaves silence"),
        ([{"TimeStretch": {"leave_length_unchanged": True, "p": 1.0}}], "leave_length_unchanged must be false"),
    ],
)  # fmt: skip
def test_mistake_is_named_before_audio_is_read(spec, message):
    error = find_error(spec)
    assert error.startswith("x.yaml: transforms") and re.search(message, error), error


def test_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    spec = [{"Mp3Compression": {"p": 1.0}}]
    assert find_error(spec).endswith(
        "Mp3Compression needs a package that is not installed: pip install fast-mp3-augment"
    )


def test_unseedable_ray_tracing_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    error = find_error([{"RoomSimulator": {"use_ray_tracing": True, "p": 1.0}}])
    assert "use_ray_tracing must be false: the ray tracer has a random generator that cannot be seeded" in error
    room = Augmentation([{"RoomSimulator": {"p": 1.0}}])._chain.transforms[0]._transform
    assert room.use_ray_tracing is False


def test_empty_noise_folder_is_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("no sound")
    assert "holds no audio files" in find_error([{"AddBackgroundNoise": {"p": 1.0}}], noise_folder=str(tmp_path))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_file_on_a_real_clip(path, gtzan_mini, noise_folder):
    samples, rate = decode(sorted(gtzan_mini.rglob("*.flac"))[1])
    augmentation = read_augmentation(path, noise_folder)
    untouched = samples.copy()
    clips = [augmentation(samples, rate, seed) for seed in (1, 2, 1)]
    assert np.array_equal(samples, untouched)
    for clip in clips:
        assert clip.samples.shape == samples.shape and clip.samples.dtype == np.float32
        assert np.abs(clip.samples).max() <= 1
    assert np.array_equal(clips[0].samples, clips[2].samples) and clips[0].transforms == clips[2].transforms
    assert not np.array_equal(clips[0].samples, clips[1].samples)
    assert "# What it costs" in path.read_text(encoding="utf-8")


def test_files_with_other_keys_are_refused(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("transform: []\n")
    with pytest.raises(UserError, match="transform is not known, expected description and transforms"):
        read_augmentation(path)
    path.write_text("description: nothing\n")
    with pytest.raises(UserError, match="there is no list of transforms"):
        read_augmentation(path)


MIXED = [
    {"Shift": {"p": 0.5}},
    {"OneOf": {"weights": [1, 3], "transforms": [{"AddColorNoise": {"p": 0.7}}, {"BitCrush": {"p": 1.0}}]}},
    {"SomeOf": {"num_transforms": [1, None], "transforms": [
        {"Gain": {"p": 1.0}}, {"LowPassFilter": {"p": 0.5}}, {"TimeMask": {"p": 1.0}}, {"Clip": {"p": 0.5}}]}},
    {"Compose": {"shuffle": True, "p": 0.8, "transforms": [
        {"PolarityInversion": {"p": 0.5}}, {"AddGaussianSNR": {"p": 0.9}}]}},
]  # fmt: skip


def test_result_depends_on_the_seed_alone():
    music = make_music()
    fresh = {seed: Augmentation(MIXED)(music, RATE, seed) for seed in range(12)}
    used = Augmentation(MIXED)
    random.seed(5)
    np.random.seed(5)
    for seed in reversed(range(12)):
        used(make_music(1.0, 16000), 16000, 99)  # another clip at another rate in between
        clip = pickle.loads(pickle.dumps(used))(music, RATE, seed)
        assert np.array_equal(clip.samples, fresh[seed].samples) and clip.transforms == fresh[seed].transforms
    assert len({clip.samples.tobytes() for clip in fresh.values()}) == 12
    names = {note["transform"] for clip in fresh.values() for note in clip.transforms}
    assert {"Shift", "Gain", "AddColorNoise", "BitCrush", "AddGaussianSNR", "PolarityInversion"} <= names


def test_randomness_of_the_run_is_not_disturbed():
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    Augmentation(MIXED)(make_music(), RATE, 7)
    assert (random.random(), np.random.random()) == expected


def test_only_what_was_applied_is_recorded():
    never = [{"Gain": {"p": 0.0}}, {"OneOf": {"p": 0.0, "transforms": [{"PolarityInversion": {"p": 1.0}}]}}]
    music = make_music()
    clip = Augmentation(never)(music, RATE, 3)
    assert clip.transforms == [] and clip.snr_db is None and clip.gain == 1.0
    assert np.array_equal(clip.samples, music)
    one_of = Augmentation([{"OneOf": {"transforms": [{"PolarityInversion": {"p": 1.0}}, {"Reverse": {"p": 1.0}}]}}])
    for seed in range(8):  # the one not chosen keeps `should_apply` of an earlier call
        clip = one_of(music, RATE, seed)
        expected = {"PolarityInversion": -music, "Reverse": music[::-1]}
        assert [np.array_equal(clip.samples, expected[n["transform"]]) for n in clip.transforms] == [True]


@pytest.mark.parametrize("snr_db", [30.0, 10.0, 0.0])
def test_white_noise_has_the_snr_that_was_asked_for(snr_db):
    spec = [{"AddGaussianSNR": {"min_snr_db": snr_db, "max_snr_db": snr_db, "p": 1.0}}]
    music = make_music(level=0.9)
    clip = Augmentation(spec)(music, RATE, 11)
    noise = clip.samples.astype(np.float64) / clip.gain - music
    by_hand_db = 10 * np.log10(np.mean(music.astype(np.float64) ** 2) / np.mean(noise**2))
    assert clip.snr_db == pytest.approx(snr_db, abs=1e-3)
    assert clip.measured_snr_db == pytest.approx(by_hand_db, abs=1e-3)
    assert by_hand_db == pytest.approx(snr_db, abs=0.1)


def test_snr_columns_of_noise_in_a_chain(noise_folder):
    chain = [{"Gain": {"min_gain_db": -20.0, "max_gain_db": -20.0, "p": 1.0}}, *AWGN_10_DB]
    clip = Augmentation(chain)(make_music(), RATE, 1)
    assert clip.snr_db == pytest.approx(10, abs=1e-3) and clip.measured_snr_db == pytest.approx(10, abs=0.1)
    background = [{"AddBackgroundNoise": {"min_snr_db": 6.0, "max_snr_db": 6.0, "p": 1.0}}]
    clip = Augmentation(background, noise_folder=noise_folder)(make_music(), RATE, 1)
    assert clip.snr_db == 6.0 and clip.measured_snr_db == pytest.approx(6, abs=0.5)
    assert clip.transforms[0]["noise_file_path"] in ("0.wav", "1.wav", "2.wav")  # no folder of this machine
    quiet = [{"AddGaussianNoise": {"p": 1.0}}]  # an amplitude is no SNR
    clip = Augmentation(quiet)(make_music(), RATE, 1)
    assert clip.snr_db is None and clip.measured_snr_db > 20
    both = [*AWGN_10_DB, {"AddGaussianSNR": {"min_snr_db": 3.0, "max_snr_db": 3.0, "p": 1.0}}]
    assert Augmentation(both)(make_music(), RATE, 1).snr_db == pytest.approx(3, abs=1e-3)


def test_peaks_scale_the_whole_clip_by_one_recorded_gain():
    music = make_music(level=1.0)
    clip = Augmentation([{"Gain": {"min_gain_db": 6.0, "max_gain_db": 6.0, "p": 1.0}}])(music, RATE, 1)
    factor = 10 ** (6 / 20)
    assert clip.gain == pytest.approx(1 / factor / np.abs(music).max(), rel=1e-6)
    np.testing.assert_allclose(clip.samples, music * factor * clip.gain, atol=1e-6)
    assert (
        clip.clipped_share == pytest.approx(np.mean(np.abs(music * factor) > 1), abs=1e-3) and clip.clipped_share > 0
    )
    assert np.abs(clip.samples).max() <= 1


def longest_silence(samples):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], samples == 0, [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


@pytest.mark.parametrize(
    "transform",
    [
        {"TimeStretch": {"min_rate": 1.25, "max_rate": 1.25, "p": 1.0}},
        {"TimeStretch": {"min_rate": 0.8, "max_rate": 0.8, "p": 1.0}},
        {"PitchShift": {"p": 1.0}},
        {"Shift": {"p": 1.0}},
        {"RepeatPart": {"p": 1.0}},
        {"Trim": {"top_db": 20.0, "p": 1.0}},
        {"Mp3Compression": {"min_bitrate": 16, "max_bitrate": 16, "p": 1.0}},
    ],
    ids=lambda transform: next(iter(transform)),
)  # fmt: skip
def test_length_is_kept_without_silence(transform):
    music = make_music()
    clip = Augmentation([transform])(music, RATE, 2)
    assert clip.samples.shape == music.shape and clip.transforms
    assert longest_silence(clip.samples) < RATE // 1000


def test_silence_of_the_music_stays_after_mp3():
    music = make_music()
    music[-RATE:] = 0
    clip = Augmentation([{"Mp3Compression": {"p": 1.0}}])(music, RATE, 2)
    assert np.abs(clip.samples[-RATE // 2 : -RATE // 10]).max() < 1e-3


@pytest.mark.parametrize(
    "samples",
    [
        (make_music() * 32767).astype(np.int16),
        make_music().astype(np.float64),
        np.zeros((2, RATE), np.float32),
        np.zeros(0, np.float32),
        [0.1, 0.2],
    ],
    ids=["int16", "float64", "stereo", "empty", "list"],
)
def test_other_than_mono_float32_is_a_type_error(samples):
    with pytest.raises(TypeError, match="expected mono float32 samples"):
        Augmentation(AWGN_10_DB)(samples, RATE, 1)


def half_silent_noise(folder, rate=RATE):
    """Noise of which the clips that are drawn are silent as often as not."""
    folder.mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, 12 * rate)
    noise[6 * rate :] = 0
    soundfile.write(folder / "half.wav", noise, rate)
    return str(folder)


def test_clip_is_drawn_anew_until_its_noise_is_there(tmp_path):
    spec = [{"AddBackgroundNoise": {"min_snr_db": 0.0, "max_snr_db": 0.0, "p": 1.0}}, {"Gain": {"p": 1.0}}]
    augmentation = Augmentation(spec, noise_folder=half_silent_noise(tmp_path / "noise"))
    music = make_music(1.0)
    clips = [augmentation(music, RATE, seed) for seed in range(30)]
    assert all(clip.measured_snr_db is not None and clip.fault is None for clip in clips)
    again = augmentation(music, RATE, 7)
    assert np.array_equal(again.samples, clips[7].samples) and again.transforms == clips[7].transforms


def test_copy_must_differ_and_a_training_window_need_not():
    seldom = Augmentation([{"PolarityInversion": {"p": 0.2}}])
    music = make_music(1.0)
    changed = [seldom(music, RATE, seed, must_change=True) for seed in range(20)]
    assert all(np.array_equal(clip.samples, -music) and clip.fault is None for clip in changed)
    assert sum(seldom(music, RATE, seed).transforms == [] for seed in range(20)) > 10
    never = Augmentation([{"PolarityInversion": {"p": 0.0}}])
    assert never(music, RATE, 1, must_change=True).fault == "unchanged" and never(music, RATE, 1).fault is None


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ({"Gain": {"min_gain_db": -100, "max_gain_db": -100, "p": 1.0}}, "silent"),
        ({"TimeMask": {"min_band_part": 1.0, "max_band_part": 1.0, "p": 1.0}}, "silent"),
        ({"AddGaussianSNR": {"min_snr_db": 110, "max_snr_db": 110, "p": 1.0}}, "unchanged"),
        ({"BitCrush": {"min_bit_depth": 24, "max_bit_depth": 24, "p": 1.0}}, "unchanged"),
    ],
)
def test_clip_that_is_not_what_was_asked_for_has_a_fault(spec, fault):
    assert fault in Augmentation([spec])(make_music(1.0), RATE, 1, must_change=True).fault


def test_silent_window_of_music_is_let_through():
    silence = np.zeros(RATE, np.float32)
    assert Augmentation([{"Gain": {"p": 1.0}}])(silence, RATE, 1).fault is None


@pytest.mark.parametrize("transform", ["Mp3Compression", "TimeStretch", "PitchShift"])
@pytest.mark.parametrize("level", [0.1, 1.0])
def test_transforms_of_libraries_hold_the_level(transform, level):
    music = make_music(level=level)
    for seed in range(4):
        clip = Augmentation([{transform: {"p": 1.0}}])(music, RATE, seed)
        assert rms_db(clip.samples) - 20 * np.log10(clip.gain) == pytest.approx(rms_db(music), abs=0.01)


@pytest.mark.parametrize("rate", [4000, 9600, 37800, 88200, 96000, 192000])
def test_mp3_works_at_every_rate(rate):
    """Below the rate that MP3 knows, everything survives, in its place."""
    time = np.arange(2 * rate) / rate
    music = (0.5 * np.sin(2 * np.pi * 440 * time) * (1 + 0.5 * np.sin(2 * np.pi * 2 * time))).astype(np.float32)
    spec = [{"Mp3Compression": {"min_bitrate": 64, "max_bitrate": 64, "p": 1.0}}]
    clip = Augmentation(spec)(music, rate, 1)
    assert clip.samples.shape == music.shape
    assert np.corrcoef(clip.samples, music)[0, 1] > 0.99


def test_windows_of_training_keep_their_level():
    music = make_music(level=1.0)
    louder = Augmentation([{"Gain": {"min_gain_db": 6.0, "max_gain_db": 6.0, "p": 1.0}}]).for_windows(RATE)
    np.testing.assert_allclose(louder(music, 3), music * 10 ** (6 / 20), rtol=1e-5)


def test_transforms_are_tried_out_at_a_rate_whatever_their_probability():
    never_at_8000 = {"min_center_freq": 9000, "max_center_freq": 9000, "max_bandwidth_fraction": 0.5, "p": 0.001}
    nested = [{"OneOf": {"transforms": [{"Gain": {"p": 0.5}}, {"BandPassFilter": never_at_8000}]}}]
    augmentation, untried = Augmentation(nested), Augmentation(nested)
    with pytest.raises(UserError, match="BandPassFilter cannot work at 8000 Hz with .*9000"):
        augmentation.try_out(8000)
    augmentation.try_out(96_000)
    for seed in range(5):
        assert np.array_equal(
            augmentation(make_music(), RATE, seed).samples, untried(make_music(), RATE, seed).samples
        )


def test_transform_that_cannot_work_at_a_rate_says_so():
    high = [
        {"BandPassFilter": {"min_center_freq": 9000, "max_center_freq": 9000, "max_bandwidth_fraction": 0.5, "p": 1.0}}
    ]
    with pytest.raises(UserError, match="BandPassFilter cannot work at 8000 Hz with .*9000"):
        Augmentation(high)(make_music(rate=8000), 8000, 1)


def test_config_changes_with_the_recordings_and_not_with_use(noise_folder):
    spec = [{"AddBackgroundNoise": {"p": 1.0}}]
    augmentation = Augmentation(spec, noise_folder=noise_folder)
    before = augmentation.config
    augmentation(make_music(), RATE, 1)
    assert Augmentation(spec, noise_folder=noise_folder).config == before
    soundfile.write(Path(noise_folder) / "more.wav", make_music(1.0), RATE)
    assert Augmentation(spec, noise_folder=noise_folder).config != before


class _Windows(torch.utils.data.Dataset):
    def __init__(self):
        self.transform = Augmentation(MIXED).for_windows(RATE)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.transform(make_music(1.0), 1000 + index)


def test_on_the_fly_is_the_same_with_and_without_loader_workers():
    batches = [
        [window.numpy() for window in torch.utils.data.DataLoader(_Windows(), batch_size=None, num_workers=workers)]
        for workers in (0, 2)
    ]
    assert len({window.tobytes() for window in batches[0]}) == 6
    for one, other in zip(*batches, strict=True):
        assert np.array_equal(one, other)
