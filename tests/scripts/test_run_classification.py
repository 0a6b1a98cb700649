"""The script from end to end on tiny models: as users start it, and by its `main` where only the outcome counts."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import tiny_models
import torch
import transformers
import yaml
from damaged_files import DAMAGES
from noted_runs import run_and_note
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import run_classification
from hf_utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CPU_2 = ROOT / "configs" / "accelerate" / "cpu_2.yaml"
TINY = ["--window_seconds", "0.5", "--dataloader_num_workers", "0", "--num_proc", "1", "--use_cpu"]
SAVERS = {"ast": tiny_models.save_ast, "hubert": tiny_models.save_hubert, "convnext": tiny_models.save_convnext}


def run_script(
    *arguments, launcher=(sys.executable,), script=ROOT / "run_classification.py", cwd=ROOT
) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [*map(str, launcher), str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)


def read_results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def read_rows(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    """Three genres of ten tones each, enough for a stratified split."""
    from tones import GENRE_TONES_HZ, write_tone

    folder = tmp_path_factory.mktemp("music") / "genres"
    for index, (genre, hz) in enumerate(GENRE_TONES_HZ.items()):
        for track in range(10):
            path = folder / genre / f"{genre}-{track}.wav"
            write_tone(path, hz * (1 + 0.01 * track), 0.9 + 0.1 * (track % 3), seed=100 * index + track)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    return {name: save(tmp_path_factory.mktemp("models") / name) for name, save in SAVERS.items()}


@pytest.fixture(scope="module")
def run(music, checkpoints, tmp_path_factory) -> Path:
    """A finished run of the spectrogram CNN, started as a user does."""
    output_dir = tmp_path_factory.mktemp("runs") / "convnext"
    done = run_script(
        *("--model_name_or_path", checkpoints["convnext"], "--dataset_name", music, "--output_dir", output_dir),
        *("--num_train_epochs", 2, "--learning_rate", 1e-2, "--num_mel_bins", 32, "--n_fft", 512, "--hop_length", 256),
        *TINY,
    )
    assert done.returncode == 0, done.stderr
    assert "validation" in done.stdout and "test" in done.stdout
    return output_dir


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--spec_augment_freq_bins 200", "spec_augment_freq_bins would mask 200 of 32"),
        ("--freeze all_but_last --unfrozen_layers 9", "unfrozen_layers is 9"),
    ],
)
def test_what_the_model_cannot_do_is_found_before_the_audio_is_decoded(
    options, words, music, checkpoints, tmp_path, monkeypatch
):
    monkeypatch.setattr("hf_utils.training.experiment.decode_corpus", lambda *args, **kwargs: pytest.fail("decoded"))
    data = "--dataset_name", str(music), "--output_dir", str(tmp_path / "run"), "--num_mel_bins", "32"
    with pytest.raises(UserError, match=words):
        run_classification.main(["--model_name_or_path", str(checkpoints["convnext"]), *data, *options.split(), *TINY])


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("hubert", "", "tells LABEL_0, LABEL_1 apart"),
        ("musicnn", "", "tells tag 0, tag 1, tag 2, tag 3 apart"),
        ("run", "--head mlp", "no trained head"),
    ],
)
def test_an_untrained_head_is_not_evaluated(model, options, words, music, tmp_path):
    data, name = ("--dataset_name", str(music)), str(tmp_path / "model")
    tiny_models.SAVERS["hubert" if model == "run" else model](tmp_path / "model")
    if model == "run":
        output = "--output_dir", str(tmp_path / "run")
        run_classification.main(["--model_name_or_path", name, *data, *output, *TINY, "--num_train_epochs", "1"])
        name = str(tmp_path / "run")
    output = "--output_dir", str(tmp_path / "eval")
    with pytest.raises(UserError, match=words):
        run_classification.main(["--model_name_or_path", name, "--do_eval", *data, *output, *options.split(), *TINY])


def test_a_run_leaves_what_the_report_and_the_reader_need(run):
    results = read_results(run)
    assert results["complete"] and results["genres"] == ["blues", "hiphop", "rock"] and not results["demo"]
    assert results["protocol"]["name"] == "stratified"
    assert results["model"]["eval_batch_size"] == 16 and results["config"]["per_device_eval_batch_size"] is None
    assert results["model"]["parameters"]["trainable"] == results["model"]["parameters"]["total"] > 0
    for name in ("validation", "test"):
        rows = read_rows(run / f"predictions_{name}.csv")
        assert len(rows) == len({row["track_id"] for row in rows}) == results["evaluations"][name]["num_tracks"] == 3
        share = sum(row["label"] == row["prediction"] for row in rows) / len(rows)
        assert results["evaluations"][name]["track"]["accuracy"] == pytest.approx(share)
        assert (run / f"confusion_{name}.png").stat().st_size > 1000
    assert yaml.safe_load((run / "config.yaml").read_text())["learning_rate"] == 1e-2
    assert list((run / "tensorboard").rglob("events*"))
    card = (run / "README.md").read_text()
    assert "stratified" in card and "--learning_rate" in card
    assert {"model.safetensors", "config.json", "preprocessor_config.json"} <= {p.name for p in run.iterdir()}


def test_tensorboard_shows_curves_pictures_and_the_options_that_tell_runs_apart(run):
    page = EventAccumulator(str(run / "tensorboard"))
    page.Reload()
    assert {"train/loss", "eval/accuracy"} <= set(page.Tags()["scalars"])
    assert set(page.Tags()["images"]) == {"confusion/validation", "confusion/test"}
    metadata = page.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    shown = HParamsPluginData.FromString(metadata).session_start_info.hparams
    assert shown["train_datasets"].string_value == "real" and shown["num_mel_bins"].number_value == 32
    assert shown["num_train_epochs"].number_value == 2 and "max_steps" not in shown and "allow_pickle" not in shown


def test_a_checkpoint_is_evaluated_on_the_split_it_was_trained_with(run, music, tmp_path, capsys):
    again = tmp_path / "again"
    run_classification.main(["--model_name_or_path", str(run), "--do_eval", "--output_dir", str(again), *TINY])
    assert read_results(again)["evaluations"]["test"]["track"] == read_results(run)["evaluations"]["test"]["track"]
    with pytest.raises(UserError, match="training tracks would be among the test tracks"):
        run_classification.main(
            ["--model_name_or_path", str(run), "--do_eval", "--split_seed", "3", "--output_dir", str(tmp_path / "x")]
        )


SMALL_MELS = ["--head_dropout", 0, "--num_mel_bins", 32, "--n_fft", 512, "--hop_length", 256]
REGULARISED = ["--head_learning_rate", 2e-2, "--layer_decay", 0.8, "--mixup_alpha", 0.4]
REGULARISED += ["--windows_per_track", 2, "--balanced_sampling", "--average_weights"]
# The bias of keys, and at first the adapters, have no gradient but rounding errors, which Adam would blow up.
CALM = ["--adam_epsilon", 1e-4]
# {case: (model, options, end of the name of a weight that must have learnt)}.
TWO_PROCESS_RUNS = {
    "convnext, ema": ("convnext", [*SMALL_MELS, *REGULARISED, "ema"], ".layernorm.weight"),
    "ast, ema": ("ast", [*CALM, *REGULARISED, "ema"], ".layernorm.weight"),
    "convnext, swa": ("convnext", [*SMALL_MELS, *CALM, *REGULARISED, "swa", "--lora_rank", 2], ".pwconv1.weight"),
    "ast, swa": ("ast", [*CALM, *REGULARISED, "swa", "--lora_rank", 2], ".intermediate.dense.weight"),
}
CORRUPTED_RUN = "convnext, ema"  # tested under corruptions as well
CORRUPTIONS = {
    "white_noise": {
        name: [{"AddGaussianSNR": {"min_snr_db": snr_db, "max_snr_db": snr_db, "p": 1.0}}]
        for name, snr_db in (("low", 20.0), ("high", -30.0))
    },
    "polarity": {"turned": [{"PolarityInversion": {"p": 1.0}}]},
}


@pytest.fixture(scope="module")
def run_as(checkpoints, music, tmp_path_factory):
    """A function (case, folder name, windows per process and step) -> (prefix of the notes, command line)."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "corruptions.yaml").write_text(yaml.safe_dump({"kinds": CORRUPTIONS}, sort_keys=False))

    def command(case: str, name: str, batch_size: int) -> tuple[Path, list[str]]:
        family, options, _ = TWO_PROCESS_RUNS[case]
        arguments = ["--model_name_or_path", checkpoints[family], "--dataset_name", music, *TINY, *options]
        arguments += ["--per_device_eval_batch_size", 2, "--num_train_epochs", 2, "--learning_rate", 1e-2]
        arguments += ["--precision", "fp32", "--per_device_train_batch_size", batch_size]
        place = folder / case.replace(", ", "-")
        place.mkdir(exist_ok=True)
        if case == CORRUPTED_RUN:
            arguments += ["--corruptions", folder / "corruptions.yaml", "--cache_corruptions", "false"]
            arguments += ["--waveform_cache_dir", place / f"{name}-cache"]
        return place / f"{name}-windows", [str(word) for word in [*arguments, "--output_dir", place / name]]

    return command


@pytest.fixture(scope="module")
def two_processes(run_as, tmp_path_factory) -> None:
    """All runs of TWO_PROCESS_RUNS, one after the other in two processes that are started once."""
    file = tmp_path_factory.mktemp("two") / "runs.json"
    file.write_text(json.dumps([run_as(case, "two", batch_size=2) for case in TWO_PROCESS_RUNS], default=str))
    launcher = sys.executable, "-m", "accelerate.commands.launch", "--config_file", CPU_2
    done = run_script(file, launcher=launcher, script=ROOT / "tests/noted_runs.py")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", TWO_PROCESS_RUNS)
def test_two_processes_train_and_evaluate_as_one(case, two_processes, run_as, checkpoints, tmp_path):
    """The same windows, weights and scores; every track counted once, 3 of them, with an odd number of windows.

    Of the run under corruptions, the same scores there, too.

    Without dropout, which every process draws for itself, and with as many tracks as fill the batches.
    """
    family, _, learning = TWO_PROCESS_RUNS[case]
    notes, argv = run_as(case, "one", batch_size=4)
    run_and_note(notes, argv)
    folder = notes.parent
    seen = [sorted("".join(p.read_text() for p in folder.glob(f"{n}-windows-*")).split("\n")) for n in ("one", "two")]
    # Partners of mixup, windows of a track, epochs and tracks.
    assert seen[0] == seen[1] and len(seen[0]) == 1 + 2 * 2 * 2 * 24
    assert len(list(folder.glob("two-windows-*"))) == 2, "only one process drew windows"
    weights = [safetensors.torch.load_file(folder / name / "model.safetensors") for name in ("one", "two")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=0, atol=1e-5, msg=name)
    assert [read_results(folder / n)["training"]["windows_per_step"] for n in ("one", "two")] == [4, 4]
    before = safetensors.torch.load_file(checkpoints[family] / "model.safetensors")
    moved = [[t for n, t in w.items() if n.endswith(learning)] for w in (before, weights[0])]
    assert (moved[0][0] - moved[1][0]).abs().max() > 1e-3, "nothing was trained"
    # Of the two processes' own model: what they found, and what one process finds.
    run_classification.main(
        ["--model_name_or_path", str(folder / "two"), "--do_eval", "--output_dir", str(tmp_path), *TINY]
        + ["--precision", "fp32"]
        + (["--corruptions", str(folder.parent / "corruptions.yaml")] if case == CORRUPTED_RUN else [])
    )
    for split in ("validation", "test"):
        rows = read_rows(folder / "two" / f"predictions_{split}.csv")
        assert len({row["track_id"] for row in rows}) == len(rows) == 3
        two, one = (read_results(path)["evaluations"][split] for path in (folder / "two", tmp_path))
        assert two["num_windows"] == one["num_windows"]
        assert two["track"] == pytest.approx(one["track"], abs=1e-6)
    if case == CORRUPTED_RUN:
        two, one = (read_results(path)["robustness"] for path in (folder / "two", tmp_path))
        assert [row["kind"] for row in two] == ["white_noise", "white_noise", "polarity"]
        for row, expected in zip(two, one, strict=True):
            assert row == pytest.approx(expected, abs=1e-6)
        assert len(list((folder / "two-cache").iterdir())) == 1, "corrupted tracks were kept, too"


@pytest.mark.parametrize(("family", "num_layers"), [("hubert", 18), ("convnext", 10)])
def test_adapters_are_merged_into_what_is_saved_and_evaluated(
    family, num_layers, music, checkpoints, tmp_path, monkeypatch
):
    run, again = tmp_path / "run", tmp_path / "again"
    options = ["--dataset_name", music, "--output_dir", run, "--num_train_epochs", 1, "--learning_rate", 1e-2, *TINY]
    options += SMALL_MELS[2:] if family == "convnext" else ["--freeze", "feature_encoder"]
    options += ["--model_name_or_path", checkpoints[family], "--lora_rank", 2]
    run_classification.main([str(word) for word in options])
    results = read_results(run)
    assert results["model"]["adapters"]["layers"] == num_layers and results["config"]["lora_rank"] == 2
    parameters = results["model"]["parameters"]
    assert 0 < parameters["trainable"] < parameters["total"] / 2
    assert f"Linear layers: {num_layers} have an adapter (LoRA) of rank 2" in (run / "README.md").read_text()
    assert (run / "adapter" / "adapter_config.json").is_file() and not (run / "adapter_config.json").exists()
    # Whoever loads the folder has no peft, and finds what the run found.
    monkeypatch.setitem(sys.modules, "peft", None)
    model, info = transformers.AutoModelForAudioClassification.from_pretrained(run, output_loading_info=True)
    assert not any(info.values()) and sum(p.numel() for p in model.parameters()) == parameters["total"]
    evaluate = ["--model_name_or_path", str(run), "--do_eval", "--output_dir", str(again), *TINY]
    run_classification.main(evaluate)
    for name in ("validation", "test"):
        assert read_rows(again / f"predictions_{name}.csv") == read_rows(run / f"predictions_{name}.csv")


@pytest.mark.parametrize("family", ["ast", "hubert"])
def test_audio_checkpoints_train_from_yaml_and_flags(family, music, checkpoints, tmp_path):
    config = tmp_path / "options.yaml"
    config.write_text(f"model_name_or_path: {checkpoints[family]}\nmax_steps: 2\nsave_strategy: 'no'\n")
    output_dir = tmp_path / "run"
    run_classification.main(
        [str(config), "--dataset_name", str(music), "--output_dir", str(output_dir), "--eval_strategy", "no"]
        + [
            "--load_best_model_at_end",
            "false",
            "--class_weights",
            "balanced",
            "--label_smoothing_factor",
            "0.1",
            *TINY,
        ]
    )
    assert read_results(output_dir)["evaluations"]["test"]["num_tracks"] == 3


def test_files_of_any_kind_are_tagged_and_bad_ones_listed(run, music, tmp_path):
    folder = tmp_path / "My Music"
    (folder / "deep").mkdir(parents=True)
    wav = next(music.rglob("*.wav"))
    (folder / "deep" / "a, song.wav").write_bytes(wav.read_bytes())
    (folder / "broken.mp3").write_bytes(b"no music")
    done = run_script(
        *("--model_name_or_path", run, "--do_predict", "--predict_path", folder, "--per_window"),
        *("--output_dir", tmp_path / "tags"),
    )
    assert done.returncode == 1 and "1 file tagged, 1 skipped" in done.stdout
    assert (done.stdout + done.stderr).count("broken.mp3") == 1
    (row,) = read_rows(tmp_path / "tags" / "predictions.csv")
    probabilities = [float(row[genre]) for genre in ("blues", "hiphop", "rock")]
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)
    assert list((tmp_path / "tags").rglob("timeline/**/*.csv"))


def test_nothing_is_tagged_by_a_spectrogram_of_unknown_mean_and_deviation(run, music, tmp_path):
    words = ["--model_name_or_path", str(run), "--do_predict", "--predict_path", str(music)]
    words += ["--output_dir", str(tmp_path), "--use_cpu"]
    with pytest.raises(UserError, match="no mean and deviation"):
        run_classification.main([*words, "--level_normalization", "false"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--evaluation_strategy", "epoch"], ["evaluation_strategy", "eval_strategy"]),
        (["--learning_rat", "0.1"], ["learning_rat", "learning_rate"]),
        (["--dataset_name", "marsyas/gtzan"], ["sanchit-gandhi/gtzan"]),
        (["--dataset_name", "./nowhere"], ["nowhere"]),
    ],
)
def test_a_users_mistake_is_one_message(arguments, words, checkpoints, tmp_path):
    with pytest.raises(UserError) as error:
        model = ["--model_name_or_path", str(checkpoints["ast"]), "--output_dir", str(tmp_path / "run")]
        run_classification.main([*model, *arguments])
    assert all(word in str(error.value) for word in words)


def test_a_mistake_prints_no_traceback():
    done = run_script("--model_name_or_path", "runs/none", "--do_predict", "--predict_path", "nowhere")
    assert done.returncode == 2 and "nowhere" in done.stderr and "Traceback" not in done.stderr


def test_an_earlier_run_is_not_overwritten_unasked(run, music, checkpoints):
    arguments = ["--model_name_or_path", str(checkpoints["convnext"]), "--dataset_name", str(music)]
    with pytest.raises(UserError, match="overwrite"):
        run_classification.main([*arguments, "--output_dir", str(run)])


def test_a_folder_that_another_process_writes_is_refused(music, checkpoints, tmp_path):
    arguments = ["--model_name_or_path", str(checkpoints["convnext"]), "--dataset_name", str(music), *TINY]
    script = f"""
from hf_utils.launch import claim_folder
with claim_folder({str(tmp_path)!r}, is_main_process=True):
    print("claimed", flush=True)
    input()
"""
    other = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert other.stdout.readline() == b"claimed\n"
        with pytest.raises(UserError, match="is being written by another process"):
            run_classification.main([*arguments, "--output_dir", str(tmp_path)])
    finally:
        other.kill()
        other.communicate()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    # The lock does not outlive its process.
    run_classification.main([*arguments, "--output_dir", str(tmp_path)])
    assert read_results(tmp_path)["complete"]


def test_a_mistake_leaves_no_folder_behind(checkpoints, tmp_path):
    arguments = ["--model_name_or_path", str(checkpoints["ast"]), "--dataset_name", str(tmp_path / "nothing")]
    with pytest.raises(UserError):
        run_classification.main([*arguments, "--output_dir", str(tmp_path / "run"), *TINY])
    assert not (tmp_path / "run").exists()


def test_an_earlier_run_is_noticed_before_the_data_is_read(checkpoints, tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text("{}")
    arguments = ["--model_name_or_path", str(checkpoints["ast"]), "--dataset_name", str(tmp_path / "nothing")]
    with pytest.raises(UserError, match="Continue it by --resume_from_checkpoint auto"):
        run_classification.main([*arguments, "--output_dir", str(tmp_path), *TINY])
    assert (tmp_path / "checkpoint-2").is_dir()


@pytest.mark.parametrize("damage", ["pointer", "half", "no description"])
def test_a_checkpoint_that_cannot_be_used_is_noticed_before_the_data_is_read(
    damage, music, checkpoints, tmp_path, monkeypatch
):
    folder = shutil.copytree(checkpoints["hubert"], tmp_path / "model")
    if damage == "no description":
        (folder / "config.json").write_text("{}")
    else:
        DAMAGES[damage][0](folder / "model.safetensors")
    monkeypatch.setattr("hf_utils.training.experiment.load_split_clips", lambda *_: pytest.fail("the data was read"))
    arguments = ["--model_name_or_path", str(folder), "--dataset_name", str(music)]
    with pytest.raises(UserError, match=str(folder)):
        run_classification.main([*arguments, "--output_dir", str(tmp_path / "run"), *TINY])


def test_a_folder_that_cannot_be_written_is_refused(music, checkpoints, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        run_classification.main(
            ["--model_name_or_path", str(checkpoints["ast"]), "--output_dir", str(tmp_path / "file" / "run")]
        )


def test_stages_start_from_the_model_before_and_continue_where_they_were(music, checkpoints, tmp_path):
    config, output_dir = tmp_path / "stages.yaml", tmp_path / "run"
    config.write_text(
        "stages:\n  - {max_steps: 1, learning_rate: 1.0e-12}\n  - {max_steps: 2, label_smoothing_factor: 0.1}\n"
    )
    arguments = [str(config), "--model_name_or_path", str(checkpoints["ast"]), "--dataset_name", str(music), *TINY]
    options = ["--save_strategy", "no", "--eval_strategy", "no", "--load_best_model_at_end", "false"]
    run_classification.main([*arguments, *options, "--output_dir", str(output_dir)])
    first, last = read_results(output_dir / "stage-1"), read_results(output_dir)
    assert first["evaluations"] == {} and last["evaluations"]["test"]["num_tracks"] == 3
    assert last["model"]["name"] == str(output_dir / "stage-1")
    # The saved configuration is that of the whole run.
    assert yaml.safe_load((output_dir / "config.yaml").read_text())["stages"][1]["max_steps"] == 2
    before = (output_dir / "stage-1" / "results.json").stat().st_mtime_ns
    run_classification.main(
        [*arguments, *options, "--output_dir", str(output_dir), "--resume_from_checkpoint", "auto"]
    )
    assert (output_dir / "stage-1" / "results.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("family", ["ast", "convnext"])
@pytest.mark.parametrize("stages", ["", "stages: [{learning_rate: 1.0e-3}, {learning_rate: 1.0e-4}]\n"])
def test_files_are_tagged_by_the_model_that_was_trained(family, stages, music, checkpoints, tmp_path):
    (tmp_path / "options.yaml").write_text(f"max_steps: 2\nsave_strategy: 'no'\neval_strategy: 'no'\n{stages}")
    arguments = [str(tmp_path / "options.yaml"), "--model_name_or_path", str(checkpoints[family]), *TINY]
    arguments += ["--dataset_name", str(music), "--load_best_model_at_end", "false"]
    arguments += ["--num_mel_bins", "32", "--n_fft", "512", "--hop_length", "256"] if family == "convnext" else []
    tagging = ["--do_predict", "--predict_path", str(music / "rock")]
    run_classification.main([*arguments, "--do_train", *tagging, "--output_dir", str(tmp_path / "run")])
    together = read_rows(tmp_path / "run" / "predictions.csv")
    again = [
        "--model_name_or_path",
        str(tmp_path / "run"),
        *tagging,
        "--output_dir",
        str(tmp_path / "tags"),
        "--use_cpu",
    ]
    run_classification.main(again)
    assert together == read_rows(tmp_path / "tags" / "predictions.csv") and len(together) == 10
    names = ["file", "prediction", "confidence", "margin", "calibrated", "blues", "hiphop", "rock"]
    assert list(together[0]) == names


@pytest.fixture(scope="module")
def interrupted(music, checkpoints, tmp_path_factory):
    """A function that copies a run which was interrupted after its first epoch, and the options of that run."""
    folder = tmp_path_factory.mktemp("interrupted")
    options = ["--model_name_or_path", str(checkpoints["ast"]), "--dataset_name", str(music), *TINY, "--seed", "5"]
    options += ["--waveform_cache_dir", str(folder / "cache"), "--num_train_epochs", "2"]
    options += ["--per_device_train_batch_size", "4", "--precision", "fp32"]
    run_classification.main([*options, "--output_dir", str(folder / "whole")])

    def copy(place: Path) -> None:
        place.mkdir()
        shutil.copytree(folder / "whole" / "checkpoint-6", place / "checkpoint-6")

    copy.options = options
    copy.whole = folder / "whole"
    return copy


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--per_device_train_batch_size 8 --num_train_epochs 4", ["windows_per_step: 4 before, 8 now"]),
        ("--gradient_accumulation_steps 2", ["windows_per_step: 4 before, 8 now"]),
        ("--num_train_epochs 4", ["num_train_epochs: 2.0 before, 4.0 now"]),
        ("--learning_rate 0.01 --seed 6", ["learning_rate: 5e-05 before, 0.01 now", "seed: 5 before, 6 now"]),
        ("--weight_decay 0.1", ["weight_decay"]),
        ("--freeze backbone", ["freeze: none before, backbone now"]),
        ("--class_weights balanced", ["class_weights"]),
        ("--metric_for_best_model f1", ["metric_for_best_model"]),
        ("--augmentation {gain}", ["transforms: None before"]),
        ("--optim sgd", ["optim"]),
    ],
)
def test_a_resumed_training_with_other_options_is_refused_with_the_difference(interrupted, flags, words, tmp_path):
    interrupted(tmp_path / "run")
    gain = tmp_path / "gain.yaml"
    gain.write_text("transforms: [{Gain: {min_gain_db: -6, max_gain_db: -6, p: 1.0}}]\n")
    options = [*interrupted.options, "--output_dir", str(tmp_path / "run"), "--resume_from_checkpoint", "auto"]
    with pytest.raises(UserError) as error:
        run_classification.main([*options, *flags.format(gain=gain).split()])
    assert [word for word in words if word not in str(error.value)] == []
    assert "checkpoint-6" in str(error.value)
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name != ".lock"] == ["checkpoint-6"]


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--per_device_train_batch_size 2 --gradient_accumulation_steps 2",
        "--per_device_eval_batch_size 3 --save_total_limit 1 --logging_steps 1",
    ],
)
def test_a_resumed_training_that_can_go_on_exactly_does(interrupted, flags, tmp_path):
    interrupted(tmp_path / "run")
    options = [*interrupted.options, "--output_dir", str(tmp_path / "run"), "--resume_from_checkpoint", "auto"]
    run_classification.main([*options, *flags.split()])
    whole, resumed = (
        safetensors.torch.load_file(folder / "model.safetensors") for folder in (interrupted.whole, tmp_path / "run")
    )
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=1e-4 if "accumulation" in flags else 0)
    kept, again = (read_results(folder)["training"]["kept"] for folder in (interrupted.whole, tmp_path / "run"))
    assert kept["step"] == again["step"] and kept["log_loss"] == pytest.approx(again["log_loss"], abs=1e-4)


def test_a_training_whose_optimiser_was_not_kept_begins_again_if_asked_to(interrupted, tmp_path):
    interrupted(tmp_path / "run")
    (tmp_path / "run" / "checkpoint-6" / "optimizer.pt").unlink()
    options = [*interrupted.options, "--output_dir", str(tmp_path / "run"), "--resume_from_checkpoint", "auto"]
    with pytest.raises(UserError, match="lacks the state of the optimiser.*--overwrite"):
        run_classification.main(options)
    run_classification.main([*options, "--overwrite"])
    whole, again = ((folder / "model.safetensors").read_bytes() for folder in (interrupted.whole, tmp_path / "run"))
    assert whole == again


def test_results_are_there_whatever_fails_after_the_evaluation(music, checkpoints, tmp_path, monkeypatch):
    (tmp_path / "hum.yaml").write_text(
        "kinds: {gain: {quiet: [{Gain: {min_gain_db: -6, max_gain_db: -6, p: 1.0}}]}}\n"
    )
    arguments = ["--model_name_or_path", str(checkpoints["ast"]), "--dataset_name", str(music), *TINY]
    arguments += [
        "--max_steps",
        "1",
        "--output_dir",
        str(tmp_path / "run"),
        "--corruptions",
        str(tmp_path / "hum.yaml"),
    ]
    arguments += ["--waveform_cache_dir", str(tmp_path / "cache")]

    def fail(*arguments, **options):
        raise RuntimeError("the disk is full")

    for place in ("evaluate_corruptions", "write_model_card"):
        with monkeypatch.context() as patch:
            patch.setattr(f"hf_utils.training.run.{place}", fail)
            with pytest.raises(RuntimeError, match="disk is full"):
                run_classification.main([*arguments, "--resume_from_checkpoint", "auto"])
        results = read_results(tmp_path / "run")
        assert results["evaluations"]["test"]["num_tracks"] == 3 and results["complete"] is False
        assert len(read_rows(tmp_path / "run" / "predictions_test.csv")) == 3
    run_classification.main([*arguments, "--resume_from_checkpoint", "auto"])
    whole = read_results(tmp_path / "run")
    assert whole["complete"] is True and whole["evaluations"] == results["evaluations"]
    assert whole["training"]["steps"] == 1 and "Kept: step 1" in (tmp_path / "run" / "README.md").read_text()


def test_a_training_that_is_cut_off_has_no_results(music, checkpoints, tmp_path, monkeypatch):
    def stop(self, args, state, control, **options):
        control.should_training_stop = state.global_step == 1

    options = ["--model_name_or_path", checkpoints["hubert"], "--dataset_name", music, *TINY, "--freeze", "backbone"]
    options = [*map(str, options), "--max_steps", "2", "--output_dir", str(tmp_path / "run")]
    options += ["--per_device_train_batch_size", "3", "--gradient_accumulation_steps", "2"]
    monkeypatch.setattr("hf_utils.training.trainer.StopAgain.on_step_end", stop)
    with pytest.raises(UserError, match="step 1 of 2.*--resume_from_checkpoint auto"):
        run_classification.main(options)
    assert not (tmp_path / "run" / "results.json").exists()
    monkeypatch.undo()
    run_classification.main([*options, "--resume_from_checkpoint", "auto"])
    training = read_results(tmp_path / "run")["training"]
    assert (training["steps"], training["windows_per_step"]) == (2, 6)


def test_a_stage_may_not_change_the_run(checkpoints, tmp_path):
    config = tmp_path / "stages.yaml"
    config.write_text("stages: [{seed: 3}]\n")
    with pytest.raises(UserError, match="seed"):
        run_classification.main([str(config), "--model_name_or_path", str(checkpoints["ast"]), "--use_cpu"])
