"""generate_music.py from its command line to a dataset that loads, on any number of processes, killed or not."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import soundfile
from accelerate import PartialState
from damaged_files import POINTER
from tiny_clap import save_clap
from tiny_models import save_ast, save_resnet
from tiny_musicgen import save_tiny_musicgen, save_tiny_stable_audio

import generate_music
import run_classification
from hf_utils import audio
from hf_utils.arguments.data import SourceArguments
from hf_utils.arguments.generation import GenerationArguments
from hf_utils.arguments.parsing import parse_arguments
from hf_utils.data.clips import load_clips
from hf_utils.data.splits import assign_splits
from hf_utils.data.waveforms import decode_clips
from hf_utils.errors import UserError
from hf_utils.generation import dataset_run
from hf_utils.generation.continuation import load_training_clips, make_parents
from hf_utils.generation.synthesis import BatchError

ROOT = Path(__file__).resolve().parents[2]
# Eight clips in four batches.
OPTIONS = "--genres blues jazz --clips_per_genre 4 --clip_seconds 1 --batch_size 2 --dtype fp32".split()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_musicgen(tmp_path_factory.mktemp("models") / "tiny")


def generate(folder: Path, checkpoint: str, *options: str) -> int:
    return generate_music.main(["--model_name_or_path", checkpoint, "--output_dir", str(folder), *OPTIONS, *options])


def read_files(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def finished(checkpoint, tmp_path_factory):
    """A dataset by one process, never stopped."""
    folder = tmp_path_factory.mktemp("reference") / "synthetic"
    assert generate(folder, checkpoint) == 0
    return folder


def test_the_dataset_is_what_was_asked_for(finished):
    clips = datasets.load_dataset(str(finished), split="train").cast_column("audio", datasets.Audio(decode=False))
    assert clips.features["label"].names == ["blues", "jazz"]
    assert Counter(clips["label"]) == {0: 4, 1: 4}
    assert len(set(clips["track_id"])) == len(set(clips["sha256"])) == 8
    for row in clips:
        samples, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
        assert (samples.shape, rate) == ((22050,), 22050)
        assert audio.hash_samples(samples) == row["sha256"]
        assert ("blues", "jazz")[row["label"]] in row["prompt"]
        assert json.loads(row["versions"])["transformers"]
    row = clips[5]
    assert (row["origin"], row["parent_id"], row["model"], row["dtype"]) == ("synthetic", None, "tiny", "fp32")
    assert (row["batch"], row["batch_row"], row["tokens"], row["top_k"], row["guidance_scale"]) == (2, 1, 53, 250, 3.0)
    assert sorted(path.name for path in (finished / "data").iterdir()) == [
        f"train-{index:05d}-of-00004.parquet" for index in range(4)
    ]
    assert "cc-by-nc-4.0" in (finished / "README.md").read_text()


def test_a_classifier_trains_on_it_together_with_real_clips(finished, gtzan_mini, tmp_path):
    model = save_ast(tmp_path / "ast")
    options = ["--model_name_or_path", str(model), "--dataset_name", str(gtzan_mini), "--genres", "blues", "jazz"]
    options += ["--split_protocol", "stratified", "--train_datasets", "real", str(finished), "--max_steps", "2"]
    options += ["--use_cpu", "--dataloader_num_workers", "0", "--num_proc", "1", "--output_dir", str(tmp_path / "run")]
    options += ["--eval_strategy", "no", "--save_strategy", "no", "--no_load_best_model_at_end", "--report_to", "none"]
    assert run_classification.main([*options, "--waveform_cache_dir", str(tmp_path / "cache")]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["data"]["train_mix"]["origins"] == {"real": 16, "synthetic": 8}
    assert results["evaluations"]["test"]["num_tracks"] == 2


def launch(folder: Path, checkpoint: str, *options: str, processes: int = 1) -> subprocess.Popen:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return subprocess.Popen(
        [*(launcher if processes > 1 else [sys.executable]), str(ROOT / "generate_music.py")]
        + ["--model_name_or_path", checkpoint, "--output_dir", str(folder), *OPTIONS, *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_two_processes_write_the_same_bytes_as_one(finished, checkpoint, tmp_path):
    process = launch(tmp_path / "synthetic", checkpoint, processes=2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert read_files(tmp_path / "synthetic") == read_files(finished)


def test_a_killed_run_goes_on_and_writes_the_same_bytes(finished, checkpoint, tmp_path):
    folder = tmp_path / "synthetic"
    process = launch(folder, checkpoint)
    deadline = time.monotonic() + 120
    while not list(folder.glob("data/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    made = read_files(folder)
    assert "README.md" not in made, "it was finished before it was killed"
    with pytest.raises(UserError, match="unfinished"):
        load_clips(str(folder))
    assert generate(folder, checkpoint) == 0
    assert read_files(folder) == read_files(finished)


def test_machines_share_the_work_in_any_order(finished, checkpoint, tmp_path, capsys):
    folder = tmp_path / "synthetic"
    for index in (2, 0, 1):
        assert generate(folder, checkpoint, "--num_shards", "3", "--shard_index", str(index)) == 0
        assert (folder / "README.md").exists() == (index == 1)
    assert read_files(folder) == read_files(finished)
    assert capsys.readouterr().out.count("Finished") == 1


def test_a_shard_that_was_lost_is_made_again(finished, checkpoint, tmp_path):
    folder = tmp_path / "synthetic"
    shutil.copytree(finished, folder)
    sorted(folder.glob("data/*.parquet"))[1].unlink()
    assert generate(folder, checkpoint) == 0
    assert read_files(folder) == read_files(finished)


def test_a_finished_folder_is_left_alone_and_another_configuration_is_refused(finished, checkpoint):
    before = read_files(finished)
    assert generate(finished, checkpoint) == 0
    with pytest.raises(UserError, match=r"another configuration.*\n.*batch_size: 2.*4"):
        generate(finished, checkpoint, "--batch_size", "4")
    with pytest.raises(UserError, match="seed: 42.*7"):
        generate(finished, checkpoint, "--seed", "7")
    assert read_files(finished) == before


def test_a_preview_loads_no_weights_and_shows_what_will_be_made(finished, checkpoint, tmp_path, capsys):
    bare = tmp_path / "tiny"
    bare.mkdir()
    (bare / "config.json").write_bytes(Path(checkpoint, "config.json").read_bytes())
    assert generate(tmp_path / "none", str(bare), "--preview", "2") == 0
    shown = capsys.readouterr().out
    made = load_clips(str(finished))
    for row in made.select(range(4)):
        assert f"{row['track_id']}  {row['prompt']}" in shown
    assert made[4]["track_id"] not in shown
    assert "8 clips of 1 s (4 for each of 2 genres), 0.1 minutes of audio" in shown
    assert "4 batches of up to 2 clips, 53 steps each, 212 steps in all (musicgen, fp32)" in shown
    assert not (tmp_path / "none").exists()


def test_stereo_and_diffusion_checkpoints_need_no_flag(tmp_path):
    stereo = save_tiny_musicgen(tmp_path / "stereo-model", stereo=True)
    options = ["--clips_per_genre", "1", "--sampling_rate", "16000"]
    assert generate(tmp_path / "stereo", stereo, *options) == 0
    pytest.importorskip("diffusers")
    assert (
        generate(tmp_path / "other", save_tiny_stable_audio(tmp_path / "p"), *options, "--inference_steps", "2") == 0
    )
    for name, source_rate in (("stereo", 32000), ("other", 16000)):
        clips = load_clips(str(tmp_path / name))
        assert len(clips) == 2 and set(clips["source_rate"]) == {source_rate}
        assert [audio.decode(row["audio"]["bytes"])[0].shape for row in clips] == [(16000,)] * 2
    card = (tmp_path / "other" / "README.md").read_text()
    assert "license: other" in card and "StableAudioPipeline" in card


def test_a_continuation_names_its_parent_in_the_training_split(checkpoint, genre_folder, tmp_path):
    options = ["--genres", "blues", "rock", "--split_protocol", "stratified", "--continue_from", str(genre_folder)]
    options += ["--prompt_seconds", "0.5", "--waveform_cache_dir", str(tmp_path / "cache")]
    assert generate(tmp_path / "synthetic", checkpoint, *options) == 0
    clips = load_clips(str(tmp_path / "synthetic"))

    args = SourceArguments(dataset_name=str(genre_folder), genres=["blues", "rock"], split_protocol="stratified")
    train = load_training_clips(args, 16000)
    genres = {row["track_id"]: train.features["label"].names[row["label"]] for row in train}
    for row in clips:
        assert genres[row["parent_id"]] == ("blues", "rock")[row["label"]]
        assert row["prompt_seconds"] == 0.5 and 0 <= row["prompt_start_seconds"] <= 1.4
        assert "continued" in row["track_id"]
    assert len(set(clips["parent_id"])) > 2
    assert "Continuations" in (tmp_path / "synthetic" / "README.md").read_text()


def replace_in_place(path: Path, content: bytes) -> None:
    """Other content under the same name, of the same length and, as after a copy that keeps times, the same time."""
    stat = path.stat()
    assert len(content) == stat.st_size and content != path.read_bytes()
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_what_the_clips_were_made_from_is_known_by_its_content(checkpoint, genre_folder, tmp_path):
    """A folder does not go on with other prompts, real clips or weights under the names that it was begun with."""
    prompts, weights = tmp_path / "prompts.txt", Path(shutil.copytree(checkpoint, tmp_path / "tiny"))
    prompts.write_text("blues: slow blues\nrock: hard rock\n")
    options = ["--genres", "blues", "rock", "--split_protocol", "stratified", "--continue_from", str(genre_folder)]
    options += ["--prompt_seconds", "0.5", "--waveform_cache_dir", str(tmp_path / "cache")]
    options += ["--prompts", str(prompts), "--num_shards", "2", "--shard_index", "0"]
    assert generate(tmp_path / "d", str(weights), *options) == 0
    before = read_files(tmp_path / "d")

    shard = next((tmp_path / "d" / "data").iterdir())
    parent = pq.read_table(shard, columns=["parent_id"])["parent_id"][0].as_py()
    (sound,) = genre_folder.rglob(f"{Path(parent).name}.wav")
    content = sound.read_bytes()
    model = weights / "model.safetensors"
    for path, other, word in (
        (prompts, prompts.read_bytes().replace(b"slow", b"fast"), "prompts: "),
        (sound, content[:100] + bytes(reversed(content[100:])), "parents: "),
        (model, model.read_bytes()[:-1] + b"\x01", "model_revision: "),
    ):
        own = path.read_bytes()
        replace_in_place(path, other)
        with pytest.raises(UserError, match=f"another configuration.*\n.*{word}"):
            generate(tmp_path / "d", str(weights), *options)
        assert read_files(tmp_path / "d") == before
        replace_in_place(path, own)
    assert generate(tmp_path / "d", str(weights), *options) == 0


def test_clips_outside_the_training_split_are_refused(genre_folder, tmp_path):
    clips = decode_clips(load_clips(str(genre_folder)), 16000, cache_dir=tmp_path)
    clips = assign_splits(clips, "stratified", seed=0)
    with pytest.raises(UserError, match="continue_from.*training split"):
        make_parents(clips, ["blues", "rock"], 0.5, 16000, 0)
    with pytest.raises(UserError, match="continue_from.*1.95 s.*blues, rock"):
        make_parents(clips.filter(lambda row: row["split"] == "train"), ["blues", "rock"], 1.95, 16000, 0)


def test_an_unknown_genre_gets_a_plain_prompt(checkpoint, tmp_path, capsys, caplog):
    assert generate(tmp_path / "d", checkpoint, "--genres", "jazz", "drum_and_bass", "--preview", "1") == 0
    assert "drum and bass music, instrumental" in capsys.readouterr().out
    assert "drum_and_bass" in caplog.text


def test_failed_batches_are_named_and_the_others_kept(checkpoint, tmp_path, monkeypatch, capsys):
    make = dataset_run.BatchMaker.make

    def fail_one(maker, batch):
        if batch == 1:
            raise BatchError("Batch 1: no sound clip in 4 attempts: silent")
        return make(maker, batch)

    monkeypatch.setattr(dataset_run.BatchMaker, "make", fail_one)
    assert generate(tmp_path / "d", checkpoint) == 1
    assert "Batch 1: no sound clip" in capsys.readouterr().err
    assert len(list((tmp_path / "d" / "data").iterdir())) == 3 and not (tmp_path / "d" / "README.md").exists()


def test_processes_that_do_not_know_of_each_other_are_stopped(checkpoint, tmp_path, monkeypatch):
    PartialState(cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="2 processes.*accelerate launch"):
        generate(tmp_path / "d", checkpoint)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clip_seconds", "31"], "clip_seconds is 31.*30 s"),
        (["--dtype", "fp16"], "dtype fp16.*GPU"),
        (["--split_protocol", "filtered"], "split_protocol.*continue_from.*report"),
        (["--prompt_seconds", "5"], "prompt_seconds.*continue_from"),
        (["--num_shards", "2", "--shard_index", "2"], "shard_index is 2.*num_shards"),
        (["--top_k", "0"], "top_k.*at least 1"),
        (["--genres", "jazz", "jazz"], "genres is .'jazz', 'jazz'., expected 1 or more"),
        (["--continue_from", "a", "--dataset_name", "b"], "dataset_name is b.*continue_from is a"),
    ],
)
def test_contradictions_stop_before_anything_is_loaded(options, message, checkpoint, tmp_path):
    with pytest.raises(UserError, match=message):
        generate(tmp_path / "d", checkpoint, *options)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("mistake", ["missing", "pointer", "image"])
def test_a_mistake_about_the_report_stops_before_anything_is_generated(mistake, checkpoint, genre_folder, tmp_path):
    folder = tmp_path / "model"
    if mistake == "image":
        save_resnet(folder)
    elif mistake == "pointer":
        save_ast(folder)
        (folder / "model.safetensors").write_text(POINTER)
    options = ["--report", str(folder), "--dataset_name", str(genre_folder), "--split_protocol", "stratified"]
    with pytest.raises(UserError, match=str(folder)):
        generate(tmp_path / "d", checkpoint, *options)
    assert not (tmp_path / "d").exists()


def test_a_report_compares_a_finished_folder_with_real_clips(finished, checkpoint, gtzan_mini, tmp_path, capsys):
    folder = Path(shutil.copytree(finished, tmp_path / "synthetic"))
    options = ["--report", save_clap(tmp_path / "clap"), "--dataset_name", str(gtzan_mini)]
    options += ["--split_protocol", "stratified", "--waveform_cache_dir", str(tmp_path / "cache")]
    assert generate(folder, checkpoint, *options) == 0
    shown = capsys.readouterr().out
    assert "| blues | 8 | 4 | 4 |" in shown and "| jazz | 8 | 4 | 4 |" in shown
    assert (folder / "report" / "quality.png").is_file()
    assert len(datasets.load_dataset(str(folder), split="train")) == 8


@pytest.mark.parametrize("files", [["musicgen_small"], ["musicgen_small", "musicgen_continuation"], ["ace_step"]])
def test_shipped_configs_are_complete(files):
    paths = [str(ROOT / "configs" / "generate" / f"{name}.yaml") for name in files]
    args, _ = parse_arguments((GenerationArguments,), paths)
    assert len(args.genres) == 10 and args.clips_per_genre == 80
    prompt_seconds = 5.0 if args.continue_from else 0.0
    assert args.clip_seconds + prompt_seconds == 30.0 and (args.prompt_seconds or 0.0) == prompt_seconds


def test_every_shipped_config_is_tested():
    names = {path.stem for path in (ROOT / "configs" / "generate").iterdir()}
    assert names == {"musicgen_small", "musicgen_continuation", "ace_step", "prompts"}
