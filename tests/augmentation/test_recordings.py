"""Recordings that are mixed into music: what is no use is named, file by file, before any work."""

import re

import numpy as np
import pytest
import soundfile
from media_files import LOSSLESS, write_media

from hf_utils.augmentation.pipeline import Augmentation
from hf_utils.augmentation.recordings import digest_recordings, list_recordings
from hf_utils.errors import UserError

RATE = 16000
NOISE = np.random.default_rng(0).normal(0, 0.1, 4 * RATE).astype(np.float32)


def write(path, samples=NOISE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE, **options)
    return path


def with_zero_size(path):
    """A WAV file whose header states 0 bytes: audiomentations would read nothing."""
    content = write(path).read_bytes()
    place = content.index(b"data") + 4
    path.write_bytes(content[:place] + bytes(4) + content[place + 4 :])


BAD = {
    "zeros": (lambda path: write(path, 0 * NOISE), "silent"),
    "mostly-zeros": (lambda path: write(path, np.where(np.arange(NOISE.size) < RATE, NOISE, 0)), "mostly silent"),
    "constant": (lambda path: write(path, 0 * NOISE + 0.3), "constant"),
    "text": (lambda path: path.write_text("no sound"), "undecodable"),
    "bytes": (lambda path: path.write_bytes(b""), "empty"),
    "half": (lambda path: path.write_bytes(write(path).read_bytes()[: NOISE.size // 2]), "incomplete"),
    "integers": (lambda path: write(path, 16384 * NOISE, subtype="FLOAT"), "16-bit numbers"),
    "no-size": (with_zero_size, "its header gives no length"),
    "inverted": (lambda path: write(path, np.stack([NOISE, -NOISE], axis=1)), "channels cancel"),
    "nan": (
        lambda path: write(path, np.where(np.arange(NOISE.size) == 9, np.nan, NOISE), subtype="FLOAT"),
        "not finite",
    ),
}


def test_all_bad_recordings_are_named_with_their_paths(tmp_path):
    write(tmp_path / "good.wav")
    for name, (make, _) in BAD.items():
        make(tmp_path / f"{name}.wav")
    with pytest.raises(UserError) as caught:
        list_recordings(str(tmp_path), "AddBackgroundNoise", "x.yaml: sounds_path")
    message = str(caught.value)
    assert message.startswith("x.yaml: sounds_path") and f"{len(BAD)} of {len(BAD) + 1} recordings" in message
    for name, (_, reason) in BAD.items():
        assert re.search(f"{re.escape(str(tmp_path / name))}.wav: .*{reason}", message), name


def test_leftovers_of_other_systems_are_passed_over(tmp_path):
    good = write(tmp_path / "street" / "good.wav")
    for name in ("._good.wav", "street/._good.wav", "__MACOSX/good.wav", ".cache/good.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(100))
    assert list_recordings(str(tmp_path), "AddBackgroundNoise", "x") == [str(good)]


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
@pytest.mark.parametrize("channels", [1, 2])
def test_noise_of_every_format_is_mixed_in(tmp_path, suffix, channels):
    unrelated = np.random.default_rng(1).normal(0, 0.1, (2 * RATE, channels))
    write(tmp_path / f"noise.{suffix}", unrelated)
    spec = [{"AddBackgroundNoise": {"min_snr_db": 5.0, "max_snr_db": 5.0, "p": 1.0}}]
    clip = Augmentation(spec, noise_folder=str(tmp_path))(NOISE[:RATE], 22050, 1)
    assert clip.measured_snr_db == pytest.approx(5, abs=0.1)


def test_a_format_that_audiomentations_cannot_read_is_refused(tmp_path):
    write_media(tmp_path / "noise.m4a", NOISE[:, None], RATE, LOSSLESS["alac.m4a"])
    with pytest.raises(UserError, match="noise.m4a: libsndfile.* does not know it; convert it"):
        list_recordings(str(tmp_path), "AddBackgroundNoise", "x")


def test_impulse_responses_and_short_sounds_may_fade(tmp_path):
    fading = np.zeros(2 * RATE, np.float32)
    fading[: RATE // 4] = np.exp(-np.arange(RATE // 4) / 200) * NOISE[: RATE // 4]
    write(tmp_path / "hall.wav", fading)
    write(tmp_path / "click.wav", NOISE[:800])
    for transform in ("ApplyImpulseResponse", "AddShortNoises"):
        assert len(list_recordings(str(tmp_path), transform, "x")) == 2
    with pytest.raises(UserError, match="(?s)click.wav: shorter.*hall.wav: mostly silent"):
        list_recordings(str(tmp_path), "AddBackgroundNoise", "x")


def test_silent_impulse_response_is_refused(tmp_path):
    write(tmp_path / "hall.wav", 0 * NOISE)
    with pytest.raises(UserError, match="(?s)x.yaml.*ir_path.*hall.wav: silent"):
        Augmentation([{"ApplyImpulseResponse": {"ir_path": str(tmp_path), "p": 1.0}}], where="x.yaml")


def test_digest_is_of_names_and_contents(tmp_path):
    one, other = write(tmp_path / "one" / "a.wav"), write(tmp_path / "other" / "a.wav")
    digest = digest_recordings([str(one)])
    assert digest == digest_recordings([str(other)])
    write(other, NOISE[::-1])
    assert one.stat().st_size == other.stat().st_size and digest != digest_recordings([str(other)])
    renamed = one.rename(tmp_path / "one" / "b.wav")
    assert digest != digest_recordings([str(renamed)])
