"""Scores come to the same bytes whenever they are asked for, in whatever order, by however many processes, killed or
not; and never silently replace others."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tiny_clap import save_clap
from tiny_models import save_run
from tiny_musicgen import save_tiny_musicgen

import generate_music
from hf_utils import audio
from hf_utils.data.clips import load_clips
from hf_utils.data.mixing import filter_clips
from hf_utils.errors import UserError
from hf_utils.generation import dataset_run
from hf_utils.generation.generators import resolve_revision
from hf_utils.generation.plan import SCORE_COLUMNS
from hf_utils.generation.scorers import ClapEmbedder

# Six clips in three batches.
OPTIONS = "--genres blues jazz --clips_per_genre 3 --clip_seconds 1 --batch_size 2 --dtype fp32".split()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """The options that name each model, all in one folder."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "--model_name_or_path": save_tiny_musicgen(folder / "tiny"),
        "--clap_model": save_clap(folder / "clap"),
        "--score_with": str(save_run(folder / "run")),
    }


@pytest.fixture(scope="module")
def generate(models):
    """Run the script into a folder, with the scorers named."""

    def generate(folder: Path, *scorers: str, options: list[str] = ()) -> int:
        named = [word for flag in ("--model_name_or_path", *scorers) for word in (flag, models[flag])]
        return generate_music.main([*named, "--output_dir", str(folder), *OPTIONS, *options])

    return generate


@pytest.fixture(scope="module")
def bare(generate, tmp_path_factory) -> Path:
    """A finished dataset without scores."""
    folder = tmp_path_factory.mktemp("bare") / "synthetic"
    assert generate(folder) == 0
    return folder


@pytest.fixture(scope="module")
def scored(generate, tmp_path_factory) -> Path:
    """The same dataset with all scores from the start."""
    folder = tmp_path_factory.mktemp("scored") / "synthetic"
    assert generate(folder, "--clap_model", "--score_with") == 0
    return folder


@pytest.fixture
def copied(bare, tmp_path) -> Path:
    return Path(shutil.copytree(bare, tmp_path / "synthetic"))


def read_files(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def columns_of(folder: Path) -> list[set[str]]:
    models = set(SCORE_COLUMNS)
    return [models & set(pq.read_schema(path).names) for path in sorted(folder.glob("data/*.parquet"))]


def test_scores_name_their_models_and_are_those_of_the_clips_on_disk(scored, bare, models):
    clips = load_clips(str(scored))
    embedder = ClapEmbedder(models["--clap_model"], None, torch.device("cpu"))
    texts = embedder.embed_texts(["This is blues music.", "This is jazz music."])
    for row in clips:
        cosines = (embedder.embed([audio.load(row["audio"]["bytes"], 22050)], 22050) @ texts.T)[0]
        assert row["clap_similarity"] == pytest.approx(cosines[row["label"]], abs=1e-5)
        assert row["clap_margin"] == pytest.approx(2 * cosines[row["label"]] - cosines.sum(), abs=1e-5)
        assert 0 < row["classifier_score"] < 1 and row["classifier_genre"] in ("blues", "jazz", "Hip-Hop", "rock")
        assert row["clap_model"].startswith("clap@") and row["classifier_model"].startswith("run@")
    above = float(np.median(clips["classifier_score"]))
    assert len(filter_clips(clips, f"classifier_score > {above}", "x")) == 3
    card = (scored / "README.md").read_text()
    assert f"| clap\\_model | {clips[0]['clap_model']} |".replace("@", "&#64;") in card
    without = load_clips(str(bare))
    assert without["audio"] == clips["audio"] and not set(without.column_names) & set(SCORE_COLUMNS)
    assert (scored / "config.json").read_bytes() == (bare / "config.json").read_bytes()


def test_scores_can_come_later_one_after_the_other_with_the_same_bytes(copied, scored, generate, caplog):
    assert generate(copied, "--score_with") == 0
    assert columns_of(copied) == [{"classifier_model"}] * 3
    assert "6 of 6 clips get scores by run@" in caplog.text
    assert generate(copied, "--clap_model") == 0
    assert read_files(copied) == read_files(scored)
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    for scorers in ([], ["--clap_model"], ["--clap_model", "--score_with"]):
        assert generate(copied, *scorers) == 0
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before


def test_processes_that_score_at_the_same_time_write_the_same_bytes(copied, scored, generate):
    context = multiprocessing.get_context("fork")
    shares = [["--num_shards", "2", "--shard_index", str(index)] for index in range(2)]
    processes = [
        context.Process(target=generate, args=(copied, "--clap_model", "--score_with"), kwargs={"options": share})
        for share in shares
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert read_files(copied) == read_files(scored)


def test_scoring_that_was_killed_goes_on_and_half_of_it_cannot_be_loaded(copied, scored, generate, monkeypatch):
    written = []

    def die_with_the_second_shard_half_written(descriptor):
        written.append(descriptor)
        if len(written) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die_with_the_second_shard_half_written)
        process = multiprocessing.get_context("fork").Process(
            target=generate, args=(copied, "--clap_model", "--score_with")
        )
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert columns_of(copied) == [set(SCORE_COLUMNS), set(), set()] and list(copied.rglob(".aside-*"))
    with pytest.raises(UserError, match="unfinished"):
        load_clips(str(copied))
    with pytest.raises(UserError, match="some clips.*clap_model clap@.*classifier_model run@"):
        generate(copied)
    monkeypatch.setattr(dataset_run, "load_generator", lambda *_: pytest.fail("the clips are all there"))
    assert generate(copied, "--clap_model", "--score_with", options=["--num_shards", "2", "--shard_index", "1"]) == 0
    assert read_files(copied) == read_files(scored)


def test_scores_of_another_model_are_refused_and_replaced_when_asked_for(
    copied, generate, models, scored, tmp_path, monkeypatch
):
    other = Path(shutil.copytree(models["--score_with"], tmp_path / "run"))
    (other / "results.json").write_text(json.dumps({"trained": "anew"}))
    shutil.copytree(scored, copied, dirs_exist_ok=True)
    before = read_files(copied)
    name = load_clips(str(copied))[0]["classifier_model"]
    monkeypatch.setitem(models, "--score_with", str(other))
    with pytest.raises(UserError, match=f"classifier_model: {name}.*run@.*\n.*--overwrite_scores"):
        generate(copied, "--clap_model", "--score_with")
    assert read_files(copied) == before
    assert generate(copied, "--score_with", options=["--overwrite_scores"]) == 0
    clips, old = load_clips(str(copied)), load_clips(str(scored))
    (again,) = set(clips["classifier_model"])
    assert again != name and f"| {again} |".replace("@", "&#64;") in (copied / "README.md").read_text()
    for column in ("clap_model", "clap_margin", "classifier_score", "sha256"):
        assert clips[column] == old[column]  # the weights are the same


def test_a_run_is_the_same_classifier_without_its_checkpoints(models, tmp_path):
    run = Path(shutil.copytree(models["--score_with"], tmp_path / "run"))
    before = resolve_revision(str(run), None, "config.json")
    shutil.copytree(models["--score_with"], run / "checkpoint-5")
    assert resolve_revision(str(run), None, "config.json") == before
    (run / "model.safetensors").write_bytes(b"other weights")
    assert resolve_revision(str(run), None, "config.json") != before


def test_one_genre_is_scored_by_a_classifier_and_clap_has_nothing_to_tell_apart(generate, tmp_path):
    options = ["--genres", "jazz", "--clips_per_genre", "2"]
    with pytest.raises(UserError, match="clap_model.*jazz.*score_with"):
        generate(tmp_path / "d", "--clap_model", "--score_with", options=options)
    assert not list(tmp_path.glob("d/data/*"))
    assert generate(tmp_path / "d", "--score_with", options=options) == 0
    clips = load_clips(str(tmp_path / "d"), genres=["blues", "jazz"])
    assert clips["label"][:] == [1, 1] and all(0 < score < 1 for score in clips["classifier_score"])


def test_finished_clips_are_scored_on_another_machine_and_with_other_versions(copied, generate):
    path = copied / "config.json"
    config = json.loads(path.read_text())
    config |= {"device": "cuda", "versions": {**config["versions"], "torch": "1.0"}}
    path.write_text(json.dumps(config))
    assert generate(copied, "--score_with") == 0
    assert columns_of(copied) == [{"classifier_model"}] * 3 and json.loads(path.read_text()) == config
    with pytest.raises(UserError, match="seed: 42.*7"):
        generate(copied, "--score_with", options=["--seed", "7"])
    next(copied.glob("data/*")).unlink()
    with pytest.raises(UserError, match='device: "cuda".*"cpu".*\n.*versions.torch: "1.0"'):
        generate(copied, "--score_with")


def test_mistakes_about_scores_stop_before_anything_is_generated(generate, models, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_run, "load_generator", lambda *_: pytest.fail("too late"))
    with pytest.raises(UserError, match="overwrite_scores.*clap_model.*score_with"):
        generate(tmp_path / "d", options=["--overwrite_scores"])
    monkeypatch.setitem(models, "--score_with", models["--clap_model"])
    with pytest.raises(UserError, match="score_with.*run_classification.py"):
        generate(tmp_path / "d", "--score_with")
    assert not list(tmp_path.glob("d/data/*"))
