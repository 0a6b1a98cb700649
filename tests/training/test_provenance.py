"""What a model is made from: licences on cards, and the trainings of the checkpoint that it started from."""

import json

import huggingface_hub
import pytest

from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.errors import UserError
from hf_utils.hub.licenses import read_licenses
from hf_utils.training.provenance import find_earlier_trainings, find_licenses


def write_card(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    ("text", "licenses"),
    [
        ("---\nlicense: cc-by-nc-4.0\n---\n\n# Made\n", ["cc-by-nc-4.0"]),
        ("---\r\nlicense:\r\n- mit\r\n- cc0-1.0\r\n---\r\n", ["mit", "cc0-1.0"]),
        ("---\ntags: [x]\n---\n", []),
        ("---\nlicense: [\n---\n", []),
        ("---\n- license\n---\n", []),
        ("# No metadata\n\n---\nlicense: mit\n---\n", []),
        ("", []),
    ],
)
def test_a_card_states_its_licence_in_its_metadata(tmp_path, text, licenses):
    assert read_licenses(write_card(tmp_path, text), "dataset") == licenses


def test_what_has_no_card_states_none(tmp_path):
    (tmp_path / "clips.csv").touch()
    for name in (str(tmp_path), str(tmp_path / "clips.csv"), str(tmp_path / "nowhere"), "me/not-in-the-cache"):
        assert read_licenses(name, "dataset") == []


def test_licences_of_the_mix_and_of_the_checkpoint(tmp_path):
    synth = write_card(tmp_path / "synth", "---\nlicense: cc-by-nc-4.0\n---\n")
    model = write_card(tmp_path / "net", "---\nlicense: apache-2.0\n---\n")
    songs = write_card(tmp_path / "songs", "---\nlicense: cc-by-4.0\n---\n")
    options = {"model_name_or_path": model, "dataset_name": songs, "output_dir": str(tmp_path), "use_cpu": True}
    arguments = RunArguments.from_options({**options, "train_datasets": [f"{synth}:0.5"]})
    assert find_licenses(arguments) == {synth: ["cc-by-nc-4.0"], model: ["apache-2.0"]}
    arguments = RunArguments.from_options({**options, "train_datasets": ["real", synth]})
    assert list(find_licenses(arguments)) == [songs, synth, model]


def test_a_training_that_goes_on_from_a_run_knows_what_was_before(tmp_path):
    (tmp_path / "stage-1").mkdir()
    data = {"dataset": "songs", "splits": {"train": {"tracks": 4, "origins": {"synthetic": 4}}}}
    data["train_mix"] = {"sources": {"synth": {"clips": 4, "of": 4}}}
    results = {"data": data, "earlier": [{"checkpoint": "before"}], "licenses": {"synth": ["cc-by-nc-4.0"]}}
    (tmp_path / "stage-1" / "results.json").write_text(json.dumps(results))
    options = {"output_dir": str(tmp_path / "run"), "use_cpu": True}
    arguments = RunArguments.from_options({**options, "model_name_or_path": str(tmp_path / "stage-1")})
    first, second = find_earlier_trainings(arguments)
    assert first == {"checkpoint": "before"}
    assert second["checkpoint"] == str(tmp_path / "stage-1") and second["train"]["tracks"] == 4
    assert second["licenses"] == {"synth": ["cc-by-nc-4.0"]} and list(second["sources"]) == ["synth"]
    for other in ("{}", '{"data": {"splits": {}}}', "[1]"):
        (tmp_path / "stage-1" / "results.json").write_text(other)
        assert find_earlier_trainings(arguments) == []
    arguments = RunArguments.from_options({**options, "model_name_or_path": "me/not-in-the-cache"})
    assert find_earlier_trainings(arguments) == []


RESULTS = {
    "data": {
        "dataset": "songs",
        "splits": {"train": {"tracks": 4}},
        "train_mix": {"sources": {"synth": {"clips": 4, "of": 4}}},
    }
}
NON_COMMERCIAL = "---\nlicense: cc-by-nc-4.0\n---\n"


def make_arguments(tmp_path, checkpoint, **options):
    options |= {"dataset_name": str(tmp_path / "songs"), "output_dir": str(tmp_path / "next"), "use_cpu": True}
    return RunArguments.from_options({"model_name_or_path": str(checkpoint), **options})


def test_a_checkpoint_in_the_middle_has_the_past_of_its_run(tmp_path):
    run = tmp_path / "run"
    write_card(run, NON_COMMERCIAL)
    (run / "results.json").write_text(json.dumps(RESULTS))
    for name in ("checkpoint-40", "other"):
        (run / name).mkdir()
    arguments = make_arguments(tmp_path, run / "checkpoint-40")
    assert [past["dataset"] for past in find_earlier_trainings(arguments)] == ["songs"]
    assert find_licenses(arguments) == {str(run / "checkpoint-40"): ["cc-by-nc-4.0"]}
    arguments = make_arguments(tmp_path, run / "other")
    assert find_earlier_trainings(arguments) == [] and find_licenses(arguments) == {}


def test_the_past_of_a_checkpoint_on_the_hub_is_in_the_cache_of_the_model(tmp_path, monkeypatch):
    """--cache_dir says where models are, and nothing is fetched for a run without a network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder, commit = tmp_path / "cache" / "models--me--net", 40 * "a"
    write_card(folder / "snapshots" / commit, NON_COMMERCIAL)
    (folder / "snapshots" / commit / "results.json").write_text(json.dumps(RESULTS))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    arguments = make_arguments(tmp_path, "me/net", cache_dir=str(tmp_path / "cache"))
    assert [past["dataset"] for past in find_earlier_trainings(arguments)] == ["songs"]
    assert find_licenses(arguments) == {"me/net": ["cc-by-nc-4.0"]}


@pytest.mark.parametrize("content", [b"{", b"", b"\xff"])
def test_damaged_results_of_the_checkpoint_are_named(content, tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "results.json").write_bytes(content)
    options = {"output_dir": str(tmp_path / "run"), "use_cpu": True, "model_name_or_path": str(tmp_path / "net")}
    with pytest.raises(UserError, match="results.json cannot be read"):
        find_earlier_trainings(RunArguments.from_options(options))
