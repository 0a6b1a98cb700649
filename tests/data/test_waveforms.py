"""Decoded clips: the samples are those of the files, a changed file is seen, and what is whole is never half."""

import errno
import multiprocessing
import os
import pickle
import shutil
import time
from collections import namedtuple
from pathlib import Path

import datasets
import numpy as np
import psutil
import pytest
import soundfile
from media_files import LOSSLESS, write_media

from hf_utils import audio
from hf_utils.data import bad_audio, track_files, waveforms
from hf_utils.data.bad_audio import drop_problems
from hf_utils.data.clips import load_clips
from hf_utils.data.track_files import TrackFiles
from hf_utils.data.waveforms import decode_clips, read_samples
from hf_utils.errors import UserError

RATE = 8000


def list_files(genre_folder):
    return sorted(genre_folder.rglob("*.wav"))


def forbid_decoding(monkeypatch):
    def decode(*source):
        raise AssertionError("decoded again")

    monkeypatch.setattr(audio, "decode_with_remarks", decode)


def make_parquet(genre_folder, folder):
    """A folder of Parquet files with the bytes of `genre_folder` inside, as the Hub has them."""
    files = list_files(genre_folder)
    rows = {
        "audio": [{"bytes": path.read_bytes(), "path": path.name} for path in files],
        "label": [path.parent.name for path in files],
    }
    folder.mkdir(exist_ok=True)
    table = datasets.Dataset.from_dict(rows)
    table.select(range(5)).to_parquet(folder / "train-00000-of-00002.parquet")
    table.select(range(5, 12)).to_parquet(folder / "train-00001-of-00002.parquet")
    return folder


@pytest.mark.parametrize("num_proc", [1, 2])
def test_samples_are_those_of_the_files(genre_folder, tmp_path, num_proc):
    clips = load_clips(str(genre_folder))
    decoded = decode_clips(clips, RATE, cache_dir=tmp_path / "cache", num_proc=num_proc)
    assert decoded.column_names == [
        *("label", "track_id", "origin", "parent_id", "parent_sha256", "split"),
        *("sha256", "num_samples", "problem", "remarks", "pcm_gain", "file", "pcm_path", "pcm_offset"),
    ]
    assert decoded.features["label"] == clips.features["label"]
    assert len(set(decoded["pcm_path"])) == 1
    for clip, path in zip(decoded, list_files(genre_folder), strict=True):
        native, native_rate = audio.decode(path)
        expected = audio.from_pcm16(audio.to_pcm16(audio.resample(native, native_rate, RATE)))
        np.testing.assert_array_equal(read_samples(clip), expected)
        assert clip["num_samples"] == expected.size and clip["problem"] is None
        assert clip["sha256"] == audio.hash_samples(native)


def test_a_lossless_copy_in_another_format_has_the_same_samples(genre_folder, tmp_path):
    copies = tmp_path / "copies"
    for number, path in enumerate(list_files(genre_folder)):
        name, codec = list(LOSSLESS.items())[number % 5]  # those that libsndfile does not know
        samples, rate = soundfile.read(path, always_2d=True)
        copy = copies / path.parent.name / f"{path.stem}{Path(name).suffix}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_media(copy, samples, rate, codec)
    first, second = (
        decode_clips(load_clips(str(folder)), RATE, cache_dir=tmp_path / "cache") for folder in (genre_folder, copies)
    )
    assert second["sha256"][:] == first["sha256"][:] and not any(second["remarks"])
    assert second["track_id"][:] == first["track_id"][:]


def test_result_is_the_same_for_any_number_of_processes_and_source(genre_folder, tmp_path):
    clips = load_clips(str(genre_folder))
    embedded = load_clips(str(make_parquet(genre_folder, tmp_path / "pq")))
    contents = set()
    for number, (source, num_proc) in enumerate([(clips, 1), (clips, 2), (clips, 50), (embedded, 1), (embedded, 3)]):
        decoded = decode_clips(source, RATE, cache_dir=tmp_path / f"cache{number}", num_proc=num_proc)
        path = Path(decoded[0]["pcm_path"])
        places = (*decoded["pcm_offset"], *decoded["num_samples"], *decoded["sha256"])
        contents.add((path.relative_to(tmp_path / f"cache{number}"), path.read_bytes(), places))
    assert len(contents) == 1


def test_read_any_part(genre_folder, tmp_path):
    decoded = decode_clips(load_clips(str(genre_folder)), RATE, cache_dir=tmp_path / "cache")
    rng = np.random.default_rng(0)
    for clip in decoded:
        whole = read_samples(clip)
        assert whole.dtype == np.float32 and whole.flags.writeable and whole.flags.owndata
        for start in (0, 1, clip["num_samples"] - 1, *rng.integers(0, clip["num_samples"], 5)):
            for length in (1, 7, 4000, clip["num_samples"]):
                np.testing.assert_array_equal(read_samples(clip, int(start), length), whole[start : start + length])
        for start in (-1, clip["num_samples"]):
            with pytest.raises(ValueError, match="expected a start"):
                read_samples(clip, start)


def test_second_time_nothing_is_decoded(genre_folder, tmp_path, monkeypatch):
    first = decode_clips(load_clips(str(genre_folder)), RATE, cache_dir=tmp_path / "cache")
    renamed = genre_folder.rename(tmp_path / "elsewhere")
    forbid_decoding(monkeypatch)
    again = decode_clips(load_clips(str(renamed)), RATE, cache_dir=tmp_path / "cache")
    assert again["file"][0] == str(list_files(renamed)[0])
    assert again.remove_columns("file")[:] == first.remove_columns("file")[:]


def test_changed_file_or_rate_is_never_stale(genre_folder, tmp_path):
    first = decode_clips(load_clips(str(genre_folder)), RATE, cache_dir=tmp_path / "cache")
    path = list_files(genre_folder)[3]
    before = path.stat()
    samples, rate = soundfile.read(path, dtype="int16")
    samples[8000] += 1000
    soundfile.write(path, samples, rate, subtype="PCM_16")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns
    changed = decode_clips(load_clips(str(genre_folder)), RATE, cache_dir=tmp_path / "cache")
    differing = [i for i in range(12) if changed[i]["sha256"] != first[i]["sha256"]]
    assert differing == [3] and (read_samples(changed[3]) != read_samples(first[3])).any()
    other_rate = decode_clips(load_clips(str(genre_folder)), 2 * RATE, cache_dir=tmp_path / "cache")
    assert other_rate[0]["num_samples"] == 2 * first[0]["num_samples"]
    assert other_rate["sha256"][:] == changed["sha256"][:]  # of the recording, not of the rate
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_selected_rows_and_mixed_order(genre_folder, tmp_path):
    clips = load_clips(str(make_parquet(genre_folder, tmp_path / "pq")))
    whole = decode_clips(clips, RATE, cache_dir=tmp_path / "cache")
    order = [7, 2, 11, 0]
    part = decode_clips(clips.select(order), RATE, cache_dir=tmp_path / "cache")
    assert part["track_id"][:] == [whole[row]["track_id"] for row in order]
    for clip, row in zip(part, order, strict=True):
        np.testing.assert_array_equal(read_samples(clip), read_samples(whole[row]))


def test_decoded_clips_are_small_and_picklable(genre_folder, tmp_path):
    decoded = decode_clips(load_clips(str(genre_folder)), RATE, cache_dir=tmp_path / "cache")
    pickled = pickle.dumps(decoded)
    assert len(pickled) < 50_000
    np.testing.assert_array_equal(read_samples(pickle.loads(pickled)[4]), read_samples(decoded[4]))


def test_default_cache_is_in_the_hugging_face_home(genre_folder):
    decoded = decode_clips(load_clips(str(genre_folder)), RATE)
    assert Path(decoded[0]["pcm_path"]).is_relative_to(Path(os.environ["HF_HOME"], "genre_waveforms"))


@pytest.fixture
def bad_folder(genre_folder):
    """`genre_folder` with a file of every fault beside the good ones, as `bad/<fault>.wav`."""
    bad = genre_folder / "jazz"
    bad.mkdir()
    nan = np.full(16000, 0.1, np.float32)
    nan[77] = np.nan
    soundfile.write(bad / "nan.wav", nan, 16000, subtype="FLOAT")
    soundfile.write(bad / "short.wav", nan[:3200] * 0 + 0.1, 16000)
    soundfile.write(bad / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(bad / "no-frames.wav", np.zeros(0), 16000)
    (bad / "zero-bytes.wav").touch()
    (bad / "jazz.00054.wav").write_bytes(np.random.default_rng(0).bytes(100_000))
    return genre_folder


REASONS = {
    "nan": "not finite (holds NaN or infinite samples)",
    "short": "shorter than 0.5 s (0.2 s)",
    "silent": "silent",
    "no-frames": "empty",
    "zero-bytes": "empty",
    "jazz.00054": "undecodable: Format not recognised",
}


@pytest.mark.parametrize("num_proc", [1, 2])
def test_every_bad_file_is_listed_with_its_reason(bad_folder, tmp_path, caplog, num_proc):
    bad_audio._warn_once.cache_clear()  # an earlier test may have said the same
    decoded = decode_clips(load_clips(str(bad_folder)), RATE, cache_dir=tmp_path / "cache", num_proc=num_proc)
    problems = {clip["track_id"]: clip["problem"] for clip in decoded if clip["problem"]}
    assert problems == REASONS
    assert all(
        (clip["num_samples"] == 0) == (clip["sha256"] is None) == (clip["problem"] is not None) for clip in decoded
    )
    with pytest.raises(UserError) as caught:
        drop_problems(decoded, "error")
    message = str(caught.value)
    assert "6 of 18 audio files cannot be used" in message and "--on_bad_audio skip" in message
    listing = [f"  {bad_folder / 'jazz' / name}.wav: {reason} (jazz)" for name, reason in REASONS.items()]
    assert all(line in message for line in listing)
    good = drop_problems(decoded, "skip")
    assert len(good) == 12 and not set(good["track_id"]) & set(REASONS)
    assert all(line in caplog.text for line in listing)
    expected = decode_clips(load_clips(str(bad_folder)).select(range(4)), RATE, cache_dir=tmp_path / "cache2")
    np.testing.assert_array_equal(read_samples(good[3]), read_samples(expected[3]))
    with pytest.raises(ValueError, match="expected a start within the clip's 0 samples"):
        read_samples(next(clip for clip in decoded if clip["problem"]))


def test_good_clips_pass_and_none_left_is_refused(bad_folder, tmp_path):
    clips = load_clips(str(bad_folder))
    decoded = decode_clips(clips, RATE, cache_dir=tmp_path / "cache")
    good = drop_problems(decoded, "skip")
    assert drop_problems(good, "error") is good
    with pytest.raises(UserError, match="(?s)6 of 6 .*No clip is left"):
        drop_problems(decoded.filter(bool, input_columns="problem"), "skip")
    only_bad = clips.filter(lambda name: name in REASONS, input_columns="track_id")
    assert decode_clips(only_bad, RATE, cache_dir=tmp_path / "cache3")["num_samples"][:] == [0] * 6
    with pytest.raises(UserError, match="no clips"):
        decode_clips(clips.select([]), RATE)


def test_file_that_vanished_is_a_problem_and_is_read_when_it_is_back(genre_folder, tmp_path):
    clips = load_clips(str(genre_folder))
    path = list_files(genre_folder)[0]
    path.rename(tmp_path / "aside")
    assert decode_clips(clips, RATE, cache_dir=tmp_path / "cache")[0]["problem"] == "missing"
    (tmp_path / "aside").rename(path)
    assert decode_clips(clips, RATE, cache_dir=tmp_path / "cache")[0]["problem"] is None


def test_remarks_are_listed_by_path_and_the_samples_are_those_of_every_other_reader(genre_folder, tmp_path, caplog):
    bad_audio._warn_once.cache_clear()
    files = list_files(genre_folder)
    for number, factor in ((1, 16384), (5, 8)):
        samples, rate = soundfile.read(files[number], dtype="float32")
        soundfile.write(files[number], factor / np.abs(samples).max() / 4 * samples, rate, subtype="FLOAT")
    decoded = decode_clips(load_clips(str(genre_folder)), RATE, cache_dir=tmp_path / "cache", num_proc=2)
    good = drop_problems(decoded, "error")
    assert len(good) == 12 and sum(map(bool, good["remarks"])) == 2
    [message] = caplog.messages
    assert "Of 12 audio files, 2 are used with a remark" in message
    assert f"  {files[1]}: 16-bit numbers" in message and f"  {files[5]}: above full scale" in message
    for clip, path in zip(good, files, strict=True):
        assert clip["file"] == str(path)
        np.testing.assert_array_equal(read_samples(clip), audio.load(path, RATE))


def test_remarks_of_one_kind_are_not_all_listed():
    names = [f"{n}.mp3" for n in range(40)]
    remarks = (
        [f"above full scale, lowered as a whole: by {n} dB" for n in range(30)] + ["silence: 3 of 9 s"] + [None] * 9
    )
    text = bad_audio.describe_remarks(names, remarks)
    assert "Of 40 audio files, 31 are used" in text and text.count("above full scale") == 11 and "20 more" in text
    assert "  30.mp3: silence: 3 of 9 s" in text
    assert bad_audio.describe_remarks(names, [None] * 40) == ""


def test_level_of_a_clip_that_its_writer_lowered_is_restored(genre_folder, tmp_path):
    clips = load_clips(str(genre_folder))
    gains = [1.0, 0.5, 0.25, None, *[1.0] * 8]
    lowered = clips.add_column("gain", gains).add_column("clipped_share", [0.0] * 12)
    plain = decode_clips(clips, RATE, cache_dir=tmp_path / "cache")
    for before, after, gain in zip(
        plain, decode_clips(lowered, RATE, cache_dir=tmp_path / "cache"), gains, strict=True
    ):
        np.testing.assert_array_equal(read_samples(after, 5, 100), read_samples(before, 5, 100) / (gain or 1.0))
    other = clips.add_column("gain", gains)  # of somebody else, who may mean something else
    assert decode_clips(other, RATE, cache_dir=tmp_path / "cache")["pcm_gain"][:] == [1.0] * 12


def test_interrupted_build_leaves_nothing_and_is_not_read(genre_folder, tmp_path, monkeypatch):
    clips, cache = load_clips(str(genre_folder)), tmp_path / "cache"
    decode, seen = audio.decode_with_remarks, []

    def interrupt(*source):
        seen.append(source)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return decode(*source)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(audio, "decode_with_remarks", interrupt)
        decode_clips(clips, RATE, cache_dir=cache)
    assert list(cache.iterdir()) == []
    assert len(drop_problems(decode_clips(clips, RATE, cache_dir=cache), "error")) == 12


def test_killed_builds_do_not_disturb_and_are_removed_a_day_later(genre_folder, tmp_path):
    cache = tmp_path / "cache"
    for name in (".building-old", ".building-now"):
        (cache / name).mkdir(parents=True)
        (cache / name / "part-00000").write_bytes(b"half")
    for path in (cache / ".building-old" / "part-00000", cache / ".building-old"):
        os.utime(path, (time.time() - 100_000,) * 2)
    decoded = decode_clips(load_clips(str(genre_folder)), RATE, cache_dir=cache)
    assert {path.name for path in cache.glob(".building-*")} == {".building-now"}
    assert len(drop_problems(decoded, "error")) == 12


@pytest.mark.parametrize("damage", ["truncated samples", "no samples", "broken index", "no index"])
def test_damaged_cache_is_built_again(genre_folder, tmp_path, damage):
    clips, cache = load_clips(str(genre_folder)), tmp_path / "cache"
    first = decode_clips(clips, RATE, cache_dir=cache)
    pcm = Path(first[0]["pcm_path"])
    expected = pcm.read_bytes()
    index = pcm.parent / "index.parquet"
    if damage == "truncated samples":
        os.truncate(pcm, 1000)
    elif damage == "broken index":
        index.write_bytes(index.read_bytes()[:-50] + bytes(50))
    else:
        (index if damage == "no index" else pcm).unlink()
    again = decode_clips(clips, RATE, cache_dir=cache)
    assert again[:] == first[:] and pcm.read_bytes() == expected
    assert len(list(cache.iterdir())) == 1


def test_of_two_builders_the_first_wins(genre_folder, tmp_path, monkeypatch):
    """While this process builds, another one finishes the same folder."""
    clips, cache = load_clips(str(genre_folder)), tmp_path / "cache"
    join_parts = waveforms._join_parts

    def join_after_the_other(building):
        monkeypatch.setattr(waveforms, "_join_parts", join_parts)
        other.append(decode_clips(clips, RATE, cache_dir=cache))
        os.utime(Path(other[0][0]["pcm_path"]), (1, 1))
        join_parts(building)

    other = []
    monkeypatch.setattr(waveforms, "_join_parts", join_after_the_other)
    decoded = decode_clips(clips, RATE, cache_dir=cache)
    assert decoded[:] == other[0][:]
    assert os.stat(decoded[0]["pcm_path"]).st_mtime == 1
    assert len(list(cache.iterdir())) == 1


def build(arguments):
    folder, cache = arguments
    return decode_clips(load_clips(folder), RATE, cache_dir=cache)[:]


def test_processes_that_build_at_once_agree(genre_folder, tmp_path):
    # Forked, as data-loader workers and `datasets` do it: a fresh interpreter takes seconds to import.
    with multiprocessing.get_context("fork").Pool(3) as pool:
        results = pool.map(build, [(str(genre_folder), tmp_path / "cache")] * 3, chunksize=1)
    assert results[0] == results[1] == results[2] and sum(results[0]["num_samples"]) > 0
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_unusable_cache_folder_is_named(genre_folder, tmp_path):
    (tmp_path / "file").touch()
    clips = load_clips(str(genre_folder))
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("n" * 300)):
        with pytest.raises(UserError, match="Cannot use .* for decoded audio.*Choose another"):
            decode_clips(clips, RATE, cache_dir=folder)


def test_small_disk_is_seen_before_decoding(genre_folder, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 1000))
    forbid_decoding(monkeypatch)
    with pytest.raises(UserError, match=r"too small .*0\.00 GB are needed, 0\.00 GB are free"):
        decode_clips(load_clips(str(genre_folder)), RATE, cache_dir=tmp_path / "cache")


def test_disk_that_fills_up_is_named(genre_folder, tmp_path, monkeypatch):
    def join_parts(building):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(waveforms, "_join_parts", join_parts)
    with pytest.raises(UserError, match="too small .* are needed, .* are free"):
        decode_clips(load_clips(str(genre_folder)), RATE, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_space_is_estimated_from_the_headers(genre_folder, tmp_path):
    clips = load_clips(str(genre_folder))
    decoded = decode_clips(clips, RATE, cache_dir=tmp_path / "cache")
    size = os.path.getsize(decoded[0]["pcm_path"])
    estimate = waveforms.estimate_bytes(TrackFiles(clips), RATE, num_proc=1)
    assert abs(estimate - size) < 100


def test_memory_does_not_grow_with_what_was_read(tmp_path):
    """200 MB of samples read over: the process may grow by a fraction of that only."""
    path = tmp_path / "samples"
    num_samples = 100_000_000
    with path.open("wb") as file:
        file.truncate(2 * num_samples)
    clip = {"pcm_path": str(path), "pcm_offset": 0, "pcm_gain": 1.0, "num_samples": num_samples}
    read_samples(clip, 0, 100_000)
    before = psutil.Process().memory_info().rss
    for start in range(0, num_samples, 100_000):
        read_samples(clip, start, 100_000)
    assert psutil.Process().memory_info().rss - before < 20_000_000


def test_memory_does_not_grow_with_embedded_files(tmp_path, monkeypatch):
    """Files inside an Arrow table on disk: pages that were read must not stay mapped."""
    rng = np.random.default_rng(0)
    embedded = [{"bytes": rng.bytes(1_000_000), "path": f"{i}.wav"} for i in range(96)]
    datasets.Dataset.from_dict({"audio": embedded, "label": ["rock"] * 96}).save_to_disk(tmp_path / "saved")
    embedded.clear()
    files = TrackFiles(load_clips(str(tmp_path / "saved")))
    digest, used_bytes = track_files.hash_content, []

    def watch(source):
        used_bytes.append(psutil.Process().memory_info().rss)
        return digest(source)

    monkeypatch.setattr(track_files, "hash_content", watch)
    waveforms.make_key(files, RATE)
    assert len(used_bytes) == 96
    assert max(used_bytes) - used_bytes[0] < 60_000_000


def test_real_clips(gtzan_mini, tmp_path):
    clips = load_clips(str(gtzan_mini)).select(range(0, 100, 10))
    decoded = drop_problems(decode_clips(clips, 16000, cache_dir=tmp_path / "cache"), "error")
    assert all(14 * 16000 <= n <= 21 * 16000 for n in decoded["num_samples"])
    assert len(set(decoded["sha256"])) == 10
    assert all(-50 < audio.rms_db(read_samples(clip)) < 0 for clip in decoded)
