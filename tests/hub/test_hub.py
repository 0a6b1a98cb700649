"""Pushing to a Hub on this machine and back: scripts and fresh processes as children, failures one by one."""

import dataclasses
import hashlib
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import tiny_models
import torch
import yaml
from accelerate import PartialState
from hub_server import OWNER, STRANGER, TOKEN, HubServer
from tiny_musicgen import save_tiny_musicgen
from tones import write_tone
from transformers.trainer_utils import HubStrategy

from hf_utils.arguments.data import SPLITS, DataArguments
from hf_utils.arguments.parsing import build_arguments
from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.arguments.training import ClassificationTrainingArguments
from hf_utils.data.clips import load_clips
from hf_utils.data.split_record import RECORD_FILE, SplitRecord
from hf_utils.errors import UserError
from hf_utils.hub import repository as pushes
from hf_utils.hub.checkpoint_push import HubCheckpoints, fetch_checkpoint, open_model_repository
from hf_utils.hub.published_files import select_published
from hf_utils.hub.repository import open_repository, push_folder
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.loading import load_classifier
from hf_utils.training.past_runs import adopt_data_options, read_past_split

ROOT = Path(__file__).resolve().parents[2]
# What may not break a card, a page or a table; "/" cannot be in the name of a folder.
GENRES = ("blues", "<img src=x onerror=alert(1)>|rock", "---\nlicense: mit\n[x](javascript:1)")


def write_files(folder: Path, contents: dict[str, str | bytes]) -> Path:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


@pytest.fixture
def made(tmp_path) -> Path:
    """A finished dataset folder of two shards, with files that are nobody's business."""
    shards = {f"data/train-0000{i}-of-00002.parquet": b"PAR1" + bytes([i]) * 1000 for i in range(2)}
    others = {".aside-x": "x", "notes.txt": "x", "data/old.csv": "x"}
    return write_files(tmp_path / "made", shards | others | {"config.json": "{}", "README.md": "---\n---\n# Made\n"})


@pytest.fixture
def run(tmp_path) -> Path:
    """The files of a finished run, and of its training."""
    results = {"config": {"dataset_name": "/home/me/genres", "eval_datasets": ["noisy=/home/me/noisy"]}, "score": 0.5}
    return write_files(
        tmp_path / "run",
        {
            "model.safetensors": b"weights",
            "config.json": "{}",
            "preprocessor_config.json": "{}",
            "modeling_spectrogram_cnn.py": "",
            RECORD_FILE: "{}",
            "confusion_test.png": b"png",
            "README.md": "---\n---\n",
            "results.json": json.dumps(results),
            "config.yaml": yaml.safe_dump(results["config"] | {"cache_dir": "~/cache"}),
            "training_args.bin": b"pickle",
            "trainer_state.json": "{}",
            "predictions_test.csv": "x",
            "mistakes.html": "x",
            "audio/blues.00001.ogg": b"music",
            "setup.py": "x",
            "tensorboard/events.1": b"/home/me",
            "checkpoint-2/optimizer.pt": b"x",
        },
    )


def files_of(server: HubServer, name: str) -> dict[str, bytes]:
    return server.repos[name].files


def test_only_listed_files_go_up_and_without_paths(hub, run):
    repository = open_repository("cnn", "model")
    assert repository.name == f"{OWNER}/cnn"
    assert push_folder(run, repository) == f"{hub.url}/me/cnn"
    uploaded = files_of(hub, "models/me/cnn")
    assert sorted(uploaded) == [
        ".gitattributes",
        "README.md",
        "config.json",
        "config.yaml",
        "confusion_test.png",
        "model.safetensors",
        "modeling_spectrogram_cnn.py",
        "preprocessor_config.json",
        "results.json",
        RECORD_FILE,
    ]
    config = {"dataset_name": "genres", "eval_datasets": ["noisy=noisy"]}
    assert json.loads(uploaded["results.json"]) == {"config": config, "score": 0.5}
    assert yaml.safe_load(uploaded["config.yaml"]) == config | {"cache_dir": "cache"}


def test_a_push_replaces_what_would_be_read_together_and_nothing_else(hub, made):
    repository = open_repository("me/made", "dataset")
    repository.commit({"data/train-00000-of-00001.parquet": b"PAR1", "LICENSE": b"mine"}, "an older push")
    push_folder(made, repository)
    assert sorted(files_of(hub, "datasets/me/made")) == [
        ".gitattributes",
        "LICENSE",
        "README.md",
        "config.json",
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
    ]
    push_folder(made, repository)
    assert len(hub.repos["datasets/me/made"].commits) == 3


SECOND_SHARD = hashlib.sha256(b"PAR1" + b"\1" * 1000).hexdigest()


@pytest.mark.parametrize(
    ("request_", "how"),
    [
        ("GET .*/tree/", 500),
        ("POST .*/preupload/", 500),
        ("POST .*/preupload/", "drop"),
        ("POST .*/objects/batch", 500),
        ("POST .*/objects/batch", "drop"),
        ("PUT /lfs/", 500),
        (f"PUT /lfs/{SECOND_SHARD}", 500),
        (f"PUT /lfs/{SECOND_SHARD}", "drop"),
        ("POST .*/commit/", 500),
        ("POST .*/commit/", 412),
        ("POST .*/commit/", "drop"),
        ("POST .*/commit/", "drop after"),
    ],
)
def test_a_push_that_breaks_off_is_finished_by_its_command(hub, made, request_, how, capsys):
    repository = open_repository("me/made", "dataset")
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    hub.fail(request_, how, times=99)
    with pytest.raises(UserError) as error:
        push_folder(made, repository)
    message = str(error.value)
    command = shlex.split(message.splitlines()[-1])
    assert command == ["python", "-m", "hf_utils.hub", str(made), "me/made"]
    first = "data/train-00000-of-00002.parquet"
    assert (f"not sent again: {first}" in message) == (SECOND_SHARD in request_ or "commit" in request_)
    hub.recover()
    capsys.readouterr()  # what the first push wrote, whose bars are the caller's business
    assert pushes.main(command[3:]) == 0
    written = capsys.readouterr()
    assert written.out == f"Pushed: {hub.url}/datasets/me/made\n" and "\r" not in written.err
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before
    expected = {name: (made / name).read_bytes() for name in select_published(made, "dataset")}
    assert files_of(hub, "datasets/me/made") == expected | {".gitattributes": b""}
    # One commit beside the first one, and every large file was stored once.
    assert [title for *_, title in hub.repos["datasets/me/made"].commits] == ["initial commit", "Upload dataset"]
    assert sum(r.startswith("PUT") and r.endswith("200") for r in hub.requests) == 2


@pytest.mark.parametrize(
    ("name", "token", "words"),
    [
        ("me/x", "hf_" + "wrongwrong" * 3, "me/x"),
        ("me/x", "odd\ntoken", "me/x"),
        ("stranger/x", TOKEN, "stranger/x"),
        (STRANGER, TOKEN, STRANGER),
        ("me/a b", TOKEN, "me/a b"),
        ("me/x", None, "hf auth login"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_the_work(hub, monkeypatch, name, token, words):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="push_to_hub") as error:
        open_repository(name, "model", token=token)
    assert words in str(error.value) and (token or "?!") not in str(error.value)
    assert list(hub.repos) == [f"models/{STRANGER}"]


def adopt(options: dict, *, do_eval: bool = True, **model_options) -> DataArguments:
    job = {"do_eval": True} if do_eval else {"do_predict": True, "predict_path": "."}
    return adopt_data_options(
        RunArguments.from_options({"model_name_or_path": "me/cnn", "use_cpu": True, **job, **model_options, **options})
    ).data


def test_a_checkpoint_on_the_hub_is_tested_on_the_split_of_its_revision(hub, monkeypatch, caplog):
    repository = open_repository("me/cnn", "model")
    for seed in (3, 4):
        config = {"dataset_name": "me/music", "split_protocol": "stratified", "window_seconds": 5.0}
        config["split_seed"] = seed
        repository.commit({"config.yaml": yaml.safe_dump(config).encode()}, f"seed {seed}")
    first = hub.repos["models/me/cnn"].commits[1][0]
    for online in (True, False):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", not online)
        for revision, seed in ((first, 3), (None, 4)):
            adopted = adopt({}, model_revision=revision)
            assert (adopted.dataset_name, adopted.split_seed, adopted.window_seconds) == ("me/music", seed, 5.0)
    with pytest.raises(UserError, match="split_seed.*me/cnn.*4"):
        adopt({"split_seed": 3})
    assert adopt({"dataset_name": "me/other"}).split_protocol == "auto"
    caplog.clear()
    with caplog.at_level("INFO"):
        tagging = adopt({}, do_eval=False)
    assert (tagging.dataset_name, tagging.window_seconds) == (DataArguments.dataset_name, 5.0)
    [message] = caplog.messages
    assert "me/cnn: windows" in message and "split" not in message
    caplog.clear()
    with caplog.at_level("INFO"):
        adopt({"window_seconds": 2.5})
    [message] = caplog.messages
    assert "me/cnn: data, split" in message and "window_seconds is 2.5, there 5.0" in message


def test_the_record_of_a_checkpoint_on_the_hub_is_that_of_its_revision(hub, monkeypatch, tmp_path):
    arguments = RunArguments.from_options({"model_name_or_path": "me/cnn", "use_cpu": True, "do_train": True})
    assert read_past_split(arguments) is None
    repository = open_repository("me/cnn", "model")
    for seed in (3, 4):
        record = SplitRecord({"name": "stratified", "seed": seed}, ["a", "b"], dict.fromkeys(SPLITS, {}), set(), set())
        record.write(tmp_path)
        repository.commit({RECORD_FILE: tmp_path / RECORD_FILE}, f"seed {seed}")
    first = dataclasses.replace(arguments.model, model_revision=hub.repos["models/me/cnn"].commits[1][0])
    for online in (True, False):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", not online)
        assert read_past_split(arguments).protocol["seed"] == 4
        assert read_past_split(dataclasses.replace(arguments, model=first)).protocol["seed"] == 3
    assert read_past_split(arguments).checkpoint == "me/cnn"


def test_a_checkpoint_of_the_hub_that_was_trained_on_a_folder_wants_to_know_where_it_is(hub):
    config = {"dataset_name": "genres", "split_protocol": "stratified", "split_seed": 3}
    open_repository("me/cnn", "model").commit({"config.yaml": yaml.safe_dump(config).encode()}, "x")
    with pytest.raises(UserError, match="me/cnn.*genres.*--dataset_name"):
        adopt({})
    adopted = adopt({"dataset_name": "/data/genres/"})
    assert (adopted.dataset_name, adopted.split_seed) == ("/data/genres/", 3)
    with pytest.raises(UserError, match="split_seed.*me/cnn.*3"):
        adopt({"dataset_name": "/data/genres", "split_seed": 1})
    assert adopt({"dataset_name": "/data/others"}).split_seed == 0
    adopt({}, do_eval=False)


@pytest.mark.parametrize("files", [{}, {"config.yaml": b"window_seconds: {min: 1}\nsplit: x\n"}])
def test_a_checkpoint_of_the_hub_that_says_nothing_of_its_data_is_tested_with_a_notice(hub, files, caplog):
    open_repository("me/cnn", "model").commit({"config.json": b"{}", **files}, "x")
    for options in ({}, {"model_name_or_path": "me/absent"}):
        caplog.clear()
        assert adopt({"split_seed": 3}, **options).split_seed == 3
        [message] = caplog.messages
        assert "config.yaml" in message and "test tracks" in message


def test_a_hub_that_is_not_there_is_one_message(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"(?s)me/x.*network"):
        open_repository("me/x", "model")


def test_unfinished_folders_are_not_pushed(hub, made, run, capsys):
    (made / "README.md").unlink()
    (run / "results.json").unlink()
    for folder, absent in ((made, "README.md"), (run, "results.json")):
        assert pushes.main([str(folder), "me/x"]) == 2
        error = capsys.readouterr().err
        assert str(folder) in error and absent in error
    assert "models/me/x" not in hub.repos and "datasets/me/x" not in hub.repos


def test_a_dataset_that_lost_a_file_is_not_pushed(made):
    (made / "config.json").write_text('{"shards": {"train": 2, "test": 1}}')
    with pytest.raises(UserError, match="no finished dataset.*1 of test are missing"):
        select_published(made, "dataset")
    (made / "data" / "train-00001-of-00002.parquet").rename(made / "data" / "test-00000-of-00001.parquet")
    with pytest.raises(UserError, match="1 of train are missing"):
        select_published(made, "dataset")


def test_pickles_and_foreign_code_of_the_hub_need_to_be_asked_for(hub, tmp_path):
    folder = tiny_models.save_hubert(tmp_path / "hubert")
    model, _ = load_classifier(Checkpoint(str(folder)), ["a", "b"])
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    open_repository("me/pickled", "model").commit(files, "x")
    cache = {"cache_dir": str(tmp_path / "cache")}
    with pytest.raises(UserError, match="--allow_pickle"):
        load_classifier(Checkpoint("me/pickled", **cache), None)
    loaded, _ = load_classifier(Checkpoint("me/pickled", allow_pickle=True, **cache), None)
    assert torch.equal(loaded.state_dict()["classifier.weight"], model.state_dict()["classifier.weight"])

    config = {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.C", "AutoModel": "modeling_own.M"}}
    open_repository("me/foreign", "model").commit({"config.json": json.dumps(config).encode()}, "x")
    with pytest.raises(UserError, match=r"configuration_own\.py, modeling_own\.py.*--trust_remote_code"):
        Checkpoint("me/foreign", cache_dir=str(tmp_path / "cache")).load_config()


@pytest.mark.parametrize(
    ("strategy", "places"),
    [
        ("end", set()),
        ("every_save", {"model.safetensors"}),
        ("checkpoint", {"model.safetensors", "last-checkpoint/optimizer.pt", "best-checkpoint/model.safetensors"}),
        ("all_checkpoints", {"checkpoint-2/optimizer.pt", "checkpoint-4/optimizer.pt"}),
    ],
)
def test_checkpoints_come_back_with_the_best_one(hub, tmp_path, strategy, places, caplog):
    repository = open_repository("me/run", "model")
    push = HubCheckpoints(repository, HubStrategy(strategy))
    args = SimpleNamespace(output_dir=str(tmp_path / "there"), distributed_state=PartialState())
    for step in (2, 4):
        best = str(tmp_path / "there" / "checkpoint-2")
        facts = {"global_step": step, "best_model_checkpoint": best, "log_history": [{"loss": 0.1 + 0.2}]}
        write_files(
            tmp_path / "there" / f"checkpoint-{step}",
            {
                "config.json": "{}",
                "model.safetensors": f"weights {step}",
                "adapter/adapter_model.safetensors": f"weights {step}",
                "optimizer.pt": f"optimizer {step}",
                "training_args.bin": "pickle",
                "trainer_state.json": json.dumps(facts),
            },
        )
        state = SimpleNamespace(is_world_process_zero=True, **facts)
        if step == 4 and strategy == "all_checkpoints":
            hub.fail("POST .*/commit/", 500)
            push.on_save(args, state, None)
            assert "me/run" in caplog.text
        push.on_save(args, state, None)
    uploaded = files_of(hub, "models/me/run")
    assert places <= set(uploaded) and not [name for name in uploaded if "training_args" in name]
    assert not [name for name, content in uploaded.items() if str(tmp_path).encode() in content]
    here = tmp_path / "here"
    with_state = strategy in ("checkpoint", "all_checkpoints")
    for _ in range(2):  # the second time, as another process does
        assert fetch_checkpoint(repository, str(here)) == (str(here / "checkpoint-4") if with_state else None)
    if with_state:
        facts["best_model_checkpoint"] = str(here / "checkpoint-2")
        assert json.loads((here / "checkpoint-4" / "trainer_state.json").read_text()) == facts
        for step in (2, 4):
            for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
                weights = here / f"checkpoint-{step}" / name
                assert weights.read_text() == f"weights {step}" and not weights.is_symlink()
        assert (here / "checkpoint-4" / "optimizer.pt").read_text() == "optimizer 4"


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_nothing_of_an_earlier_training_stays_in_a_checkpoint(hub, tmp_path, strategy):
    repository = open_repository("me/twice", "model")
    push = HubCheckpoints(repository, HubStrategy(strategy))

    def save(run: str, step: int, best: int, contents: dict) -> None:
        folder = tmp_path / run / f"checkpoint-{step}"
        facts = {"global_step": step, "best_model_checkpoint": str(tmp_path / run / f"checkpoint-{best}")}
        texts = {"model.safetensors": f"{run} {step}", "trainer_state.json": json.dumps(facts)}
        write_files(folder, {"config.json": "{}", **texts, **contents})
        args = SimpleNamespace(output_dir=str(tmp_path / run), distributed_state=PartialState())
        push.on_save(args, SimpleNamespace(is_world_process_zero=True, **facts), None)

    optimizer = {"optimizer.pt": "one", "adapter/adapter_model.safetensors": "one"}
    for step in (2, 4):
        save("one", step, 2, optimizer)
    here = tmp_path / "here"
    fetch_checkpoint(repository, str(here))
    assert (here / "checkpoint-4" / "optimizer.pt").is_file() and (here / "checkpoint-2" / "adapter").is_dir()
    for step in (2, 4):
        save("other", step, step, {})
    assert b"one" not in files_of(hub, "models/me/twice").values()
    assert fetch_checkpoint(repository, str(here)) == str(here / "checkpoint-4")
    weights = {"config.json", "model.safetensors", "trainer_state.json"}
    assert {path.name for path in (here / "checkpoint-4").iterdir()} == weights
    assert (here / "checkpoint-4" / "model.safetensors").read_text() == "other 4"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hub_model_id": "me/x"}, "hub_model_id.*push_to_hub"),
        ({"resume_from_checkpoint": "hub"}, "resume_from_checkpoint.*push_to_hub"),
        ({"push_to_hub": True, "do_eval": True}, "push_to_hub.*do_train.*python -m hf_utils.hub"),
        ({"push_to_hub": True, "hub_revision": "x"}, "hub_revision"),
    ],
)
def test_options_of_the_hub_that_contradict_each_other(tmp_path, options, words):
    args, given = build_arguments([ClassificationTrainingArguments], {"output_dir": str(tmp_path), **options})
    with pytest.raises(UserError, match=words):
        open_model_repository(args, given)


FRESH_PROCESS = r"""
import hashlib, json, sys
import datasets, numpy, torch, transformers
waves, revision = numpy.load(sys.argv[1]), sys.argv[2]
try:
    transformers.AutoModelForAudioClassification.from_pretrained("me/cnn")
    sys.exit("ran code that nobody trusted")
except ValueError:
    pass
options = {"trust_remote_code": True, "revision": revision}
tagger = transformers.pipeline("audio-classification", "me/cnn", **options)
rate = tagger.feature_extractor.sampling_rate
ranked = [tagger({"raw": wave, "sampling_rate": rate}) for wave in waves]
scores = [{entry["label"]: entry["score"] for entry in each} for each in ranked]
model = transformers.AutoModelForAudioClassification.from_pretrained("me/cnn", **options).eval()
extractor = transformers.AutoFeatureExtractor.from_pretrained("me/cnn", trust_remote_code=True)
with torch.no_grad():
    logits = model(**extractor(list(waves), sampling_rate=rate, return_tensors="pt")).logits
assert not [name for name in sys.modules if name.split(".")[0] == "hf_utils"]
bare = datasets.Audio(decode=False)
def list_clips(clips):
    return [[row["track_id"], hashlib.sha256(row["audio"]["bytes"]).hexdigest(), row["label"]] for row in clips]
noisy = datasets.load_dataset("me/gtzan-awgn10", split="train").cast_column("audio", bare)
stream = datasets.load_dataset("me/gtzan-awgn10", split="train", streaming=True).cast_column("audio", bare)
synthetic = datasets.load_dataset("me/synth", split="train").cast_column("audio", bare)
print("\n" + json.dumps({
    "pipeline": scores, "probabilities": logits.softmax(-1).tolist(),
    "noisy": list_clips(noisy), "stream": list_clips(stream), "synthetic": list_clips(synthetic),
    "genres": noisy.features["label"].names,
}))
"""


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Everything by the scripts: two datasets, a run on one of them, one that is killed, and its continuation."""
    work = tmp_path_factory.mktemp("story")
    music = work / "machine" / "genres"
    for genre, hz in zip(GENRES, (220, 440, 880), strict=True):
        for track in range(10):
            write_tone(music / genre / f"<b>{track}|.wav", hz * (1 + 0.01 * track), 0.7, seed=int(hz) + track)
    convnext = tiny_models.save_convnext(work / "machine" / "convnext")
    augmentation = work / "awgn.yaml"
    augmentation.write_text(
        "description: '</table><script>alert(1)</script>'\n"
        "transforms:\n  - AddGaussianSNR: {min_snr_db: 10, max_snr_db: 10, p: 1.0}\n"
    )
    logs = []
    with HubServer() as server:

        def start(*command, token=TOKEN, cwd=ROOT):
            environment = server.environment(work / "home", token) | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
            return subprocess.Popen(
                [sys.executable, *map(str, command)],
                **{"env": environment, "cwd": cwd, "text": True},
                **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE},
            )

        def finish(process, code=0):
            output, errors = process.communicate(timeout=300)
            logs.extend([output, errors])
            assert process.returncode == code, errors
            return output, errors

        # The push of the second one breaks off.
        server.fail("POST /api/datasets/me/synth/commit/", 412)
        options = ["--dataset_name", music, "--push_to_hub", "gtzan-awgn10", "--num_proc", 1]
        noisy = start("augment_dataset.py", augmentation, *options, "--output_dir", work / "noisy")
        options = "--genres blues jazz --clips_per_genre 1 --clip_seconds 1 --batch_size 1 --dtype fp32".split()
        model = save_tiny_musicgen(work / "machine" / "tiny")
        options += ["--model_name_or_path", model, "--push_to_hub", "me/synth", "--output_dir", work / "synth"]
        synthetic = start("generate_music.py", *options)
        finish(noisy)
        _, errors = finish(synthetic, code=2)
        completion = start(*shlex.split(errors.splitlines()[-1])[1:])

        options = f"--model_name_or_path {convnext} --window_seconds 0.5 --num_train_epochs 3 --learning_rate 1e-2 "
        options += "--num_mel_bins 32 --n_fft 512 --hop_length 256 --dataloader_num_workers 0 --num_proc 1 --use_cpu "
        options += f"--dataset_name {music} --train_datasets real me/gtzan-awgn10 --push_to_hub --hub_model_id me/"
        own = (
            f"run_classification.py {options}cnn --output_dir {work}/cnn --hub_token {TOKEN} --hub_strategy every_save"
        )
        other = f"run_classification.py {options}killed --hub_strategy checkpoint"
        killed = start(*f"{other} --output_dir {work}/killed".split())
        whole = start(*own.split(), token=None)
        repo = "models/me/killed"
        while repo not in server.repos or len(server.repos[repo].commits) < 3:
            assert killed.poll() is None, killed.communicate()
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        logs.extend(killed.communicate())
        left = dict(files_of(server, repo))
        continued = start(*f"{other} --output_dir {work}/continued --resume_from_checkpoint hub".split())
        finish(whole)
        finish(completion)
        np.save(work / "waves.npy", np.random.default_rng(0).normal(0, 0.1, (2, 11025)).astype(np.float32))
        revision = server.repos["models/me/cnn"].commits[-1][0]
        fresh = start("-c", FRESH_PROCESS, work / "waves.npy", revision, cwd=work)
        finish(continued)
        seen = json.loads(finish(fresh)[0].splitlines()[-1])
        yield SimpleNamespace(work=work, server=server, left=left, seen=seen, logs=logs)


def test_a_fresh_process_without_this_repository_gives_the_same_probabilities(story):
    model, extractor = load_classifier(Checkpoint(str(story.work / "cnn")), None)
    waves = np.load(story.work / "waves.npy")
    with torch.no_grad():
        inputs = extractor(list(waves), sampling_rate=extractor.sampling_rate, return_tensors="pt")
        expected = model(**inputs).logits.softmax(-1).numpy()
    assert np.abs(np.array(story.seen["probabilities"]) - expected).max() < 1e-6
    labels = [model.config.id2label[k] for k in range(3)]
    scores = [[each[label] for label in labels] for each in story.seen["pipeline"]]
    assert np.abs(np.array(scores) - expected).max() < 1e-6


def test_datasets_come_back_as_they_are_on_disk(story):
    for name, key in (("noisy", "noisy"), ("noisy", "stream"), ("synth", "synthetic")):
        clips = load_clips(str(story.work / name))
        rows = zip(clips["track_id"], clips["audio"], clips["label"], strict=True)
        on_disk = [[track, hashlib.sha256(audio["bytes"]).hexdigest(), label] for track, audio, label in rows]
        assert story.seen[key] == on_disk and on_disk
    assert sorted(story.seen["genres"]) == sorted(GENRES)
    for repo, name in (("gtzan-awgn10", "noisy"), ("synth", "synth")):
        uploaded = files_of(story.server, f"datasets/me/{repo}")
        shards = [path for path in uploaded if path.endswith(".parquet")]
        assert shards and all(uploaded[path] == (story.work / name / path).read_bytes() for path in shards)
    results = json.loads((story.work / "cnn" / "results.json").read_text())
    assert results["data"]["train_mix"]["sources"]["me/gtzan-awgn10"]


def test_a_killed_training_goes_on_from_the_hub_to_the_same_weights(story):
    assert "last-checkpoint/optimizer.pt" in story.left and "README.md" not in story.left
    uploaded = files_of(story.server, "models/me/killed")
    assert uploaded["model.safetensors"] == files_of(story.server, "models/me/cnn")["model.safetensors"]
    assert uploaded[RECORD_FILE] == uploaded[f"last-checkpoint/{RECORD_FILE}"] == story.left[RECORD_FILE]
    assert (story.work / "continued" / "model.safetensors").read_bytes() == uploaded["model.safetensors"]
    for name in ("killed", "cnn"):
        contents = [str(sorted(files.items())) for _, files, _ in story.server.repos[f"models/me/{name}"].commits]
        assert len(set(contents)) == len(contents) >= 5
    state = json.loads((story.work / "continued" / "trainer_state.json").read_text())
    assert state["global_step"] == json.loads(uploaded["last-checkpoint/trainer_state.json"])["global_step"]


def test_cards_on_the_hub_are_valid_whatever_the_names(story):
    for repo in ("models/me/cnn", "datasets/me/gtzan-awgn10", "datasets/me/synth"):
        text = files_of(story.server, repo)["README.md"].decode()
        _, header, body = text.split("---\n", 2)
        assert yaml.safe_load(header).get("license") != "mit"
        code = body.split("```")[1::2]
        prose = "".join(body.split("```")[::2])
        assert "<img" not in prose and "<script" not in prose and "<b>" not in prose and code
        assert repo.partition("/")[2] in body
    card = huggingface_hub.ModelCard(files_of(story.server, "models/me/cnn")["README.md"].decode())
    measured = {(result.dataset_split, result.metric_type) for result in card.data.eval_results}
    assert {("test", "accuracy"), ("validation", "accuracy")} <= measured


def test_nothing_that_is_secret_or_of_this_machine_goes_up(story):
    for name, repo in story.server.repos.items():
        for _, files, _ in repo.commits:
            for path, content in files.items():
                assert TOKEN.encode() not in content, (name, path)
                assert b"/machine/" not in content and str(story.work).encode() not in content, (name, path)
                assert "training_args" not in path and "events" not in path and not path.endswith(".csv")
                assert not path.endswith((".pt", ".pth")) or path.startswith("last-checkpoint/")
    written = [path for path in story.work.rglob("*") if path.is_file()]
    assert len(written) > 50 and not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert not [log for log in story.logs if TOKEN in log]
