"""The whole script: same bytes however it runs or dies, right columns, refusals, and what other parts make of it."""

import csv
import json
import multiprocessing
import os
import random
import re
import signal
import time

import datasets
import numpy as np
import pytest
import soundfile

import augment_dataset
from hf_utils.audio import decode, from_pcm16, hash_samples, to_pcm16
from hf_utils.augmentation import augmented_dataset
from hf_utils.augmentation.copies import CopyPlan
from hf_utils.augmentation.corruptions import read_corruptions
from hf_utils.data import bad_audio
from hf_utils.data.clips import load_clips
from hf_utils.data.leaks import check_leaks
from hf_utils.errors import UserError
from hf_utils.hub.repository import Repository

AWGN = "transforms:\n  - AddGaussianSNR: {min_snr_db: 10, max_snr_db: 10, p: 1.0}\n"
MIX = """transforms:
  - Shift: {p: 0.5}
  - OneOf:
      transforms:
        - TimeStretch: {min_rate: 0.9, max_rate: 1.1, p: 1.0}
        - PitchShift: {min_semitones: -1, max_semitones: 1, p: 1.0}
        - Mp3Compression: {p: 1.0}
  - AddColorNoise: {p: 0.5}
"""
KINDS = """kinds:
  white_noise:
    20_db: [AddGaussianSNR: {min_snr_db: 20, max_snr_db: 20, p: 1.0}]
    0_db: [AddGaussianSNR: {min_snr_db: 0, max_snr_db: 0, p: 1.0}]
  quieter:
    6_db: [Gain: {min_gain_db: -6, max_gain_db: -6, p: 1.0}]
"""


@pytest.fixture
def run(tmp_path, genre_folder):
    """Run the script on the clips of `genre_folder` into `tmp_path / name`; return that folder."""

    def run(name, text, *options, dataset=genre_folder):
        path = tmp_path / "own.yaml"
        path.write_text(text)
        common = [str(path), "--dataset_name", str(dataset), "--output_dir", str(tmp_path / name), "--shard_size", "2"]
        assert augment_dataset.main([*common, *map(str, options)]) == 0
        return tmp_path / name

    return run


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def read_rows(folder, split="train"):
    files = {split: [str(path) for path in sorted(folder.glob(f"data/{split}-*.parquet"))]}
    loaded = datasets.load_dataset("parquet", data_files=files, split=split)
    return loaded.cast_column("audio", datasets.Audio(decode=False)).to_list()


def test_bytes_do_not_depend_on_the_number_of_processes(run):
    one = contents(run("one", MIX, "--num_proc", 1, "--copies", 2))
    assert len(one) > 5
    for num_proc in (2, 4):
        other = contents(run(f"with{num_proc}", MIX, "--num_proc", num_proc, "--copies", 2))
        other["README.md"] = other["README.md"].replace(f"with{num_proc}".encode(), b"one")
        assert other == one


def test_clips_do_not_depend_on_the_order_of_the_source_nor_on_shards_and_copies(run, tmp_path, genre_folder):
    rows = {row["track_id"]: row for row in read_rows(run("in_order", MIX))}
    shuffled = tmp_path / "shuffled.csv"
    paths = sorted(genre_folder.rglob("*.wav"))
    random.Random(3).shuffle(paths)
    with open(shuffled, "w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *([path, path.parent.name] for path in paths)])
    others = {
        r["track_id"]: r for r in read_rows(run("other", MIX, "--shard_size", 3, "--copies", 2, dataset=shuffled))
    }
    assert set(rows) < set(others)
    for track_id, row in rows.items():
        assert others[track_id]["audio"] == row["audio"] and others[track_id]["transforms"] == row["transforms"]
    other_seed = {row["track_id"]: row for row in read_rows(run("seed", MIX, "--seed", 7))}
    assert all(other_seed[track_id]["audio"] != row["audio"] for track_id, row in rows.items())


def test_columns_tell_what_was_done_and_the_audio_agrees(run, genre_folder):
    rows = read_rows(run("noisy", AWGN, "--copies", 2))
    clips = {clip["track_id"]: clip for clip in load_clips(str(genre_folder))}
    assert len({row["track_id"] for row in rows}) == len(rows) == 12
    for row in rows:
        parent = clips[row["parent_id"]]
        assert row["track_id"] == f"{row['parent_id']}+own-{row['copy']}"
        assert row["parent_sha256"] == hash_samples(decode(path_of(genre_folder, row["parent_id"]))[0])
        assert (row["origin"], row["augmentation"], row["label"]) == ("noisy", "own", parent["label"])
        [note] = json.loads(row["transforms"])
        assert note["transform"] == "AddGaussianSNR" and note["noise_std"] > 0
        music, rate = decode(parent["audio"]["path"])
        noisy, noisy_rate = decode(row["audio"]["bytes"])
        assert (noisy.size, noisy_rate) == (music.size, rate)
        noise = noisy.astype(np.float64) / row["gain"] - music
        by_hand_db = 10 * np.log10(np.mean(music.astype(np.float64) ** 2) / np.mean(noise**2))
        assert row["snr_db"] == pytest.approx(10, abs=1e-3)
        assert row["measured_snr_db"] == pytest.approx(by_hand_db, abs=0.02)
        assert by_hand_db == pytest.approx(10, abs=0.1)
    assert rows[0]["audio"] != rows[1]["audio"] and rows[0]["seed"] != rows[1]["seed"]


def test_the_card_shows_how_to_load_the_samples_without_ffmpeg(run, monkeypatch, tmp_path):
    folder = run("noisy", AWGN)
    [snippet] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    shown = re.search(r'load_dataset\("(.*?)"\)', snippet).group(1)
    found = {}
    exec(snippet.replace(shown, str(folder)), found)
    assert found["samples"].size == decode(read_rows(folder)[0]["audio"]["bytes"])[0].size
    assert found["sampling_rate"] == decode(read_rows(folder)[0]["audio"]["bytes"])[1]


def test_dataset_loads_and_can_be_trained_on(run, genre_folder, tmp_path):
    folder = run("noisy", AWGN)
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train"} and isinstance(loaded["train"].features["audio"], datasets.Audio)
    assert loaded["train"].features["label"].names == ["blues", "hiphop", "rock"]
    plan = [row["parent_id"] for row in read_rows(folder)]
    noisy = load_clips(str(folder), genres=["blues", "hiphop", "rock"])
    assert noisy["parent_id"] == plan and set(noisy["origin"]) == {"noisy"}
    clips = load_clips(str(genre_folder))
    held_out = clips.filter(lambda track_id: track_id not in plan, input_columns="track_id")
    assert len(held_out) == 6  # only training clips were copied
    check_leaks({"train": noisy, "test": held_out})
    with pytest.raises(UserError, match="copy of the track"):
        check_leaks({"train": noisy, "test": clips})
    card = (folder / "README.md").read_text()
    assert "GTZAN" not in card  # of its licence: these clips are somebody's own
    assert "| all genres | 6 |" in card and "AddGaussianSNR" in card and str(tmp_path) not in card


def test_originals_and_another_rate(run):
    rows = read_rows(run("both", AWGN, "--include_original", "--sampling_rate", 8000))
    originals = [row for row in rows if row["origin"] == "real"]
    assert len(originals) == len(rows) / 2
    for row in originals:
        assert (row["parent_id"], row["augmentation"], row["seed"], row["gain"]) == (None, None, None, 1.0)
        assert decode(row["audio"]["bytes"])[1] == 8000


def test_corruptions_are_splits_of_their_own_and_the_same_as_on_the_fly(run, genre_folder, tmp_path):
    folder = run("c", KINDS, "--splits", "test", "--include_original")
    names = ["white_noise_20_db", "white_noise_0_db", "quieter_6_db"]
    clips = {clip["track_id"]: clip for clip in load_clips(str(genre_folder))}
    for corruption in read_corruptions(tmp_path / "own.yaml"):
        rows = read_rows(folder, f"test_{corruption.name}")
        assert len(rows) == 3
        for row in rows:
            live = corruption(*decode(clips[row["parent_id"]]["audio"]["path"]), row["parent_id"])
            assert np.array_equal(decode(row["audio"]["bytes"])[0], from_pcm16(to_pcm16(live.samples)))
    for name in ("clean", *names):
        loaded = datasets.load_dataset(str(folder), name, cache_dir=str(tmp_path / "cache"))
        assert {split: len(part) for split, part in loaded.items()} == {"test": 3}
    assert len(datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["test"]) == 9
    benchmark = load_clips(str(folder))
    assert len(benchmark) == 12 and set(benchmark["split"]) == {"test"}


def test_machines_share_the_work_and_the_last_one_finishes(run, capsys):
    whole = contents(run("whole", AWGN))
    folder = run("parts", AWGN, "--num_shards", 2, "--shard_index", 1)
    assert not (folder / "README.md").exists()
    assert "2 of 3 shards are not there yet" in capsys.readouterr().out
    with pytest.raises(UserError, match="unfinished"):
        load_clips(str(folder))
    run("parts", AWGN, "--num_shards", 2, "--shard_index", 0)
    parts = contents(folder)
    parts["README.md"] = parts["README.md"].replace(b"parts", b"whole")
    assert parts == whole
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    run("parts", AWGN)  # finished: nothing is written again
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_shard_that_was_lost_is_made_again(run):
    folder = run("noisy", AWGN)
    before = contents(folder)
    sorted(folder.glob("data/*.parquet"))[1].unlink()
    run("noisy", AWGN)
    assert contents(folder) == before


def test_other_options_are_refused_with_the_difference(run):
    before = contents(run("noisy", AWGN))
    with pytest.raises(UserError, match="seed: 42 in the folder, 7 now"):
        run("noisy", AWGN, "--seed", 7)
    with pytest.raises(UserError, match='min_snr_db": 10.*min_snr_db": 5'):
        run("noisy", AWGN.replace("min_snr_db: 10", "min_snr_db: 5"))
    with pytest.raises(UserError, match="tracks_sha256"):
        run("noisy", AWGN, "--split_seed", 1)
    assert contents(run("noisy", AWGN, "--num_proc", 2)) == before


def path_of(genre_folder, track_id):
    return genre_folder / track_id.split(".")[0] / f"{track_id}.wav"


def test_unusable_clips_are_all_named_before_anything_is_made(run, genre_folder):
    kept = sorted({row["parent_id"] for row in read_rows(run("good", AWGN))})
    text, silent, mostly = (path_of(genre_folder, name) for name in (kept[0], kept[3], kept[5]))
    text.write_bytes(b"no audio")
    soundfile.write(silent, np.zeros(16000), 16000)
    soundfile.write(mostly, np.concatenate([np.zeros(16000), soundfile.read(mostly)[0][:8000]]), 16000)
    with pytest.raises(UserError) as caught:
        run("bad", AWGN, "--num_proc", 2)
    message = str(caught.value)
    assert "3 of 6 audio files cannot be used" in message and "--on_bad_audio skip" in message
    for path, reason in ((text, "undecodable"), (silent, "silent"), (mostly, "mostly silent (1.0 of 1.5 s)")):
        assert f"{path}: {reason}" in message
    assert not (genre_folder.parent / "bad" / "data").exists()


def test_split_is_drawn_after_bad_clips_are_left_out(run, genre_folder, caplog):
    kept = sorted({row["parent_id"] for row in read_rows(run("good", AWGN))})
    for name in kept[:2]:
        path_of(genre_folder, name).write_bytes(b"no audio")
    skipped = read_rows(run("skipped", AWGN, "--on_bad_audio", "skip"))
    assert "2 of 12 audio files cannot be used" in caplog.text and "They are left out" in caplog.text
    for name in kept[:2]:
        path_of(genre_folder, name).unlink()
    assert skipped == read_rows(run("deleted", AWGN))


def test_remarkable_clips_are_listed_and_read_as_everywhere(run, genre_folder, caplog):
    rows = read_rows(run("good", AWGN))
    path = path_of(genre_folder, rows[0]["parent_id"])
    samples, rate = soundfile.read(path, dtype="int16")
    soundfile.write(path, samples.astype(np.float32), rate, subtype="FLOAT")  # 16-bit numbers, not divided
    bad_audio._warn_once.cache_clear()
    again = read_rows(run("floats", AWGN))
    assert f"{path}: 16-bit numbers" in caplog.text and "1 are used with a remark" in caplog.text
    assert again == rows


@pytest.mark.parametrize("options", [[], ["--copies", 2, "--num_proc", 2]])
def test_a_finished_folder_is_not_that_of_other_music_under_the_same_names(run, genre_folder, options):
    before = contents(run("noisy", AWGN, *options))
    first, second = sorted(genre_folder.rglob("*.wav"))[:2]
    for path in sorted(genre_folder.rglob("*.wav")):
        state, (samples, rate) = path.stat(), soundfile.read(path, dtype="int16")
        soundfile.write(path, samples[::-1].copy(), rate, subtype="PCM_16")
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert path.stat().st_size == state.st_size
    with pytest.raises(UserError, match="tracks_sha256"):
        run("noisy", AWGN, *options)
    assert contents(genre_folder.parent / "noisy") == before


BACKGROUND = "transforms:\n  - AddBackgroundNoise: {min_snr_db: 0, max_snr_db: 0, p: 1.0}\n"


def test_a_finished_folder_is_not_that_of_other_noise_under_the_same_name(run, tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 32000)
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "street.wav", noise, 16000)
    run("noisy", BACKGROUND, "--noise_folder", tmp_path / "noise")
    soundfile.write(tmp_path / "noise" / "street.wav", noise[::-1], 16000)
    with pytest.raises(UserError, match="recordings"):
        run("noisy", BACKGROUND, "--noise_folder", tmp_path / "noise")


def test_a_transform_that_cannot_work_is_named_before_anything_is_made(run, genre_folder):
    seldom = "transforms:\n  - BandPassFilter: {min_center_freq: 9000, max_center_freq: 9000, p: 0.01}\n"
    with pytest.raises(UserError, match="BandPassFilter cannot work at 8000 Hz"):
        run("x", seldom, "--sampling_rate", 8000)
    assert not (genre_folder.parent / "x" / "data").exists()


@pytest.mark.parametrize("rate", [96000, 37800])
def test_music_at_unusual_rates_is_copied_by_every_transform(run, genre_folder, rate):
    for path in genre_folder.rglob("*.wav"):
        samples, _ = soundfile.read(path)
        soundfile.write(path, np.repeat(samples, 6), rate)
    rows = read_rows(run("fast", MIX.replace("p: 0.5", "p: 1.0")))
    assert len(rows) == 6 and {decode(row["audio"]["bytes"])[1] for row in rows} == {rate}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("transforms:\n  - Gain: {min_gain_db: -100, max_gain_db: -100, p: 1.0}\n", "silent"),
        ("transforms:\n  - TimeMask: {min_band_part: 0.9, max_band_part: 0.9, fade_duration: 0, p: 1.0}\n", "silent"),
        ("transforms:\n  - PolarityInversion: {p: 0.0}\n", "unchanged"),
        ("transforms:\n  - AddGaussianSNR: {min_snr_db: 110, max_snr_db: 110, p: 1.0}\n", "unchanged"),
        ("kinds:\n  quieter:\n    much: [Gain: {min_gain_db: -100, max_gain_db: -100, p: 1.0}]\n", "silent"),
    ],
)
def test_what_is_no_noisy_copy_is_not_written_as_one(run, text, fault):
    with pytest.raises(UserError, match=f"comes out .*{fault}"):
        run("x", text)


def test_no_copy_equals_its_source_though_transforms_are_seldom(run, genre_folder):
    rows = read_rows(run("seldom", "transforms:\n  - PolarityInversion: {p: 0.1}\n", "--copies", 3))
    for row in rows:
        music, _ = decode(path_of(genre_folder, row["parent_id"]))
        assert np.array_equal(decode(row["audio"]["bytes"])[0], -music)


def test_benchmark_says_where_it_leaves_clips_as_they_are(run):
    text = "kinds: {a: {b: [Clip: {a_min: -1.0, a_max: 1.0, p: 1.0}]}}\n"
    folder = run("c", text, "--splits", "test")
    assert all(row["transforms"] == "[]" for row in read_rows(folder, "test_a_b"))
    assert "leave as they are | 3 |" in (folder / "README.md").read_text()


def test_death_of_a_worker_is_said(run, monkeypatch):
    monkeypatch.setattr(CopyPlan, "make_rows", lambda *_: os._exit(1))
    with pytest.raises(UserError, match="a process was killed, perhaps for lack of memory"):
        run("dead", AWGN, "--num_proc", 2)


def test_killed_run_goes_on_and_ends_with_the_same_files(run, tmp_path):
    options = ("--copies", 3, "--shard_size", 1, "--num_proc")
    whole = contents(run("whole", MIX, *options, 1))
    context, moments = multiprocessing.get_context("fork"), random.Random(1)
    for num_proc, shards_before_death in ((1, 2), (2, 6), (1, 10)):
        process = context.Process(target=run, args=("killed", MIX, *options, num_proc))
        process.start()
        while process.is_alive() and len(list(tmp_path.glob("killed/data/train-*"))) < shards_before_death:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))  # in the middle of a shard
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL and not (tmp_path / "killed" / "README.md").exists()
    killed = contents(run("killed", MIX, *options, 2))
    killed["README.md"] = killed["README.md"].replace(b"killed", b"whole")
    assert killed == whole


def test_preview_writes_clips_and_pictures_and_no_dataset(run, tmp_path, capsys):
    folder = run("looked", MIX, "--preview", 2)
    assert not folder.exists()
    files = sorted(path.name for path in (tmp_path / "looked-preview").iterdir())
    assert [name.partition("-0.")[2] for name in files] == ["after.flac", "before.flac", "png"] * 2
    assert (tmp_path / "looked-preview" / files[2]).read_bytes().startswith(b"\x89PNG")
    first, *blocks = capsys.readouterr().out.strip().split("\n\n")
    assert first == f"2 clips before and after, with spectrograms, are in {tmp_path / 'looked-preview'}:"
    for block, start in zip(blocks, (0, 3), strict=True):
        track_id, *applied, last = block.splitlines()
        after, before, picture = files[start : start + 3]
        assert last.split() == [before, after, picture] and before == f"{track_id}+own-0.before.flac"
        assert applied and all(line.startswith("  ") for line in applied)


def test_preview_says_what_was_applied_and_the_help_where_it_goes(run, capsys):
    run("looked", AWGN, "--preview", 1)
    applied = capsys.readouterr().out.splitlines()[3]
    assert applied.startswith("  AddGaussianSNR: ") and "10" in applied
    with pytest.raises(SystemExit):
        augment_dataset.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("into the folder <output_dir>-preview") == 2


def test_repository_is_opened_before_the_work_and_pushed_to_after(run, monkeypatch):
    calls = []

    def open_repository(name, kind, *, private, token):
        calls.append(("open", name, kind, private))
        return Repository(f"me/{name}", kind)

    def push_folder(folder, repository):
        calls.append(("push", repository.name, (folder / "README.md").is_file()))

    monkeypatch.setattr("hf_utils.hub.repository.open_repository", open_repository)
    monkeypatch.setattr(augmented_dataset, "push_folder", push_folder)
    folder = run("pushed", AWGN, "--push_to_hub", "noisy", "--hub_private_repo")
    assert calls == [("open", "noisy", "dataset", True), ("push", "me/noisy", True)]
    assert 'load_dataset("me/noisy")' in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (AWGN, ["--splits", "dev"], "splits is dev, expected one or more of train validation test"),
        (AWGN, ["--num_shards", "2", "--shard_index", "2"], "shard_index is 2, expected less than num_shards, 2"),
        (AWGN, ["--hub_private_repo"], "hub_private_repo is given, but not push_to_hub"),
        (AWGN.replace("p: 1.0", "q: 1.0"), [], "there is no parameter 'q'"),
        (
            KINDS,
            ["--seed", "3"],
            "seed is 3, but .*own.yaml has kinds of corruptions, which are the same for everybody",
        ),
        (KINDS, ["--copies", "3"], "leave copies out"),
        ("seed: 3\n", [], "name a YAML file with transforms"),
    ],
)
def test_mistake_in_the_options(run, text, options, message):
    with pytest.raises(UserError, match=message):
        run("x", text, *options)


def test_two_files_of_transforms_are_refused_and_other_files_hold_options(run, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(KINDS)
    with pytest.raises(UserError, match="both describe transforms"):
        run("x", AWGN, other)
    other.write_text("copies: 2\n")
    assert len(read_rows(run("y", AWGN, other))) == 12


def test_target_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another folder"):
        run("file/x", AWGN)
