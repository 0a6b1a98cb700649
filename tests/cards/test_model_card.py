import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from made_results import MODEL, evaluate, write
from markdown_it import MarkdownIt

from hf_utils.cards.dataset_card import DatasetDescription, dataset_card, use_for_evaluation, use_for_training
from hf_utils.cards.markup import Markdown, code_block, escape, table
from hf_utils.cards.model_card import RobustnessText, write_model_card
from hf_utils.disclosure import is_hub_id, show_command, show_source

HOSTILE = [
    "a|b",
    "<script>alert(1)</script>",
    "---",
    "```",
    "line\n---\nbreak",
    "qu\"o'te",
    "](http://x)",
    "![x](http://x/y.png)",
    "{{ 7 * 7 }}",
    "\\| $x$ # *b* _i_ `c`",
    "- item: [a, b]",
    "&lt;b&gt; www.x.org a@b.org",
    "1. one",
    "\u202eedoc \u2028 \x1b[31m",
]
GENRES = ["blues", "jazz", "rock"]
COMMAND = "accelerate launch run_classification.py configs/ast.yaml --seed 1"


def write_card(folder, *, genres=GENRES, evaluations=None, command=COMMAND, robustness=None, **facts):
    config = {
        "model_name_or_path": "MIT/ast-finetuned-audioset-10-10-0.4593",
        "dataset_name": "sanchit-gandhi/gtzan",
        "train_datasets": ["real"],
        "window_seconds": 10.24,
        "learning_rate": 1e-5,
        "output_dir": "/home/anna/runs/ast",
    } | facts.pop("config", {})
    counts = {name: {"tracks": 6, "origins": {"real": 6}} for name in ("validation", "test", "train")}
    facts.setdefault("data", {"dataset": config["dataset_name"], "demo": False, "splits": counts})
    evaluations = evaluations or [evaluate(genres, np.arange(6) % len(genres))]
    results = write(folder, evaluations, genres, config=config, **facts)
    write_model_card(folder, results, command=command, robustness=robustness)
    return (folder / "README.md").read_text()


def parse(text):
    """Return the tokens of a card's body."""
    return MarkdownIt("commonmark").enable("table").parse(ModelCard(text).text)


def flat(tokens):
    for token in tokens:
        yield token
        yield from flat(token.children or [])


def check_harmless(text, widths):
    """No HTML, no link out, no picture from elsewhere, and tables of the given widths."""
    tokens = list(flat(parse(text)))
    assert not [t for t in tokens if t.type in ("html_inline", "html_block", "link_open")]
    # Bare addresses become links on the Hub.
    assert not re.search(r"<script|https?://|www\.", text.split("\n---\n", 1)[1])
    assert all(re.fullmatch(r"[\w.%-]+", t.attrs["src"]) for t in tokens if t.type == "image")
    columns, found = 0, []
    for token in tokens:
        columns += token.type in ("th_open", "td_open")
        if token.type == "tr_close":
            found.append(columns)
            columns = 0
    assert set(found) == widths


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        ({"max_steps": 1120}, {"max_steps"}),
        ({"max_steps": -1}, {"num_train_epochs"}),
        ({"max_steps": -1, "stages": [{"max_steps": 5}, {"max_steps": 6}]}, set()),
        ({"max_steps": 7, "stages": [{"max_steps": 5}, {"learning_rate": 1e-3}]}, {"max_steps"}),
        ({"max_steps": -1, "stages": [{"max_steps": 5}, {}]}, {"num_train_epochs"}),
    ],
)
def test_settings_show_the_length_of_training_that_counted(tmp_path, config, shown):
    text = write_card(tmp_path, config={"num_train_epochs": 10.0, **config})
    names = {line.split("|")[1].strip().replace("\\", "") for line in text.splitlines() if line.startswith("|")}
    assert "learning_rate" in names
    assert names & {"max_steps", "num_train_epochs"} == shown


def test_metadata_names_every_evaluated_set(tmp_path):
    evaluations = [evaluate(GENRES, np.arange(6) % 3, name, seed=i) for i, name in enumerate(["validation", "test"])]
    evaluations.append(evaluate(GENRES, np.zeros(4, int), "noisy"))
    sources = ("real", "me/gtzan-awgn10", "/data/own")
    data = {"dataset": "sanchit-gandhi/gtzan", "splits": {}, "train_mix": {"sources": {name: {} for name in sources}}}
    config = {"eval_datasets": ["noisy=me/gtzan-noisy"]}
    text = write_card(tmp_path, evaluations=evaluations, config=config, data=data)
    data = ModelCard(text).data
    assert data.base_model == "MIT/ast-finetuned-audioset-10-10-0.4593"
    assert data.datasets == ["sanchit-gandhi/gtzan", "me/gtzan-awgn10"]
    assert (data.pipeline_tag, data.library_name) == ("audio-classification", "transformers")
    scores = {(r.dataset_split, r.dataset_type, r.metric_type): r.metric_value for r in data.eval_results}
    for evaluated, source in zip(evaluations, ["sanchit-gandhi/gtzan"] * 2 + ["me/gtzan-noisy"], strict=True):
        for metric in ("accuracy", "f1", "roc_auc"):
            value = evaluated.scores["track"][metric]
            # One genre alone has no ROC-AUC, and a model index no place for what is undefined.
            assert scores.get((evaluated.name, source, metric)) == (None if np.isnan(value) else value)
    assert len(data.to_dict()["model-index"][0]["results"]) == 3


def test_body_has_scores_pictures_and_protocol(tmp_path):
    evaluations = [evaluate(GENRES, np.arange(6) % 3), evaluate(GENRES, np.zeros(4, int), "noisy")]
    text = write_card(tmp_path, evaluations=evaluations, protocol={"name": "filtered", "seed": None, "fold": None})
    track = evaluations[0].scores["track"]
    (row,) = re.findall(r"^\| test \| 6 \| 18 \|(.*)\|$", text, re.M)
    error = (track["accuracy"] * (1 - track["accuracy"]) / 6) ** 0.5
    assert row.split("|")[0].strip() == f"{track['accuracy']:.3f} ± {error:.3f}"
    assert f"{track['roc_auc']:.3f}" in row and "n/a" in re.findall(r"^\| noisy .*$", text, re.M)[0]
    assert "![Confusion matrix of noisy](confusion_noisy.png)" in text
    assert "fault-filtered" in text and "1306.1461" in text and "states no licence" in text
    assert COMMAND in text and "| learning\\_rate | 1e-05 |" in text
    check_harmless(text, {2, 3, 6, 7, 12})


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ({"name": "artist_folds", "seed": 3, "num_folds": 10, "fold": 4}, ["Fold 4 (counted from 0) of 10", "seed 3"]),
        ({"name": "stratified", "seed": 5}, ["seed 5", "artist or album can be on two sides"]),
        ({"name": "provided", "seed": 0}, ["came with the dataset", "too high"]),
    ],
)
def test_protocols_are_told_in_words(tmp_path, protocol, words):
    text = " ".join(write_card(tmp_path, protocol=protocol, config={"dataset_name": "me/songs"}).split())
    assert all(word in text for word in words) and "GTZAN" not in text


def test_what_makes_scores_too_good_or_leaves_a_genre_out_is_told(tmp_path):
    data = {"dataset": "x", "demo": False, "splits": {}}
    plain = write_card(tmp_path, data=data)
    assert "would not have started" in plain and "No track of" not in plain
    seen = {"seen_tracks": {"test": {"trained on": 3}}, "lacking_genres": {"test": ["blues"], "validation": ["<b>"]}}
    card = write_card(tmp_path, data=data | seen)
    assert "would not have started" not in card and "--allow_seen_tracks" in card
    assert "**No track of blues is in test**" in card and "is in validation**" in card and "<b>" not in card
    assert write_card(tmp_path, data=data | {"seen_tracks": {}, "lacking_genres": {}}) == plain


def test_demo_says_that_nothing_is_a_result(tmp_path):
    text = write_card(tmp_path, demo=True)
    assert "no number on this page is a result" in " ".join(text.split())
    data = ModelCard(text).data
    assert "demo" in data.tags and all("not a result" in r.dataset_name for r in data.eval_results)


def test_generated_and_noisy_music_bring_their_caveats(tmp_path):
    splits = {"train": {"tracks": 9, "origins": {"real": 3, "synthetic": 4, "noisy": 2}}}
    sources = {"real": {"clips": 3, "of": 3, "fraction": 1.0}, "/x/musicgen": {"clips": 4, "of": 8, "fraction": 0.5}}
    text = write_card(tmp_path, data={"splits": splits, "train_mix": {"sources": sources, "origins": {}}})
    assert "CC BY-NC" in text and "altered copies" in text
    assert "| train | 9 | 2 | 3 | 4 |" in text and "| musicgen | 4 | 8 | 0.5 |" in text
    (tmp_path / "2").mkdir()
    assert "CC BY-NC" not in write_card(tmp_path / "2")


def training_of(checkpoint, sources, licenses, **origins):
    train = {"tracks": sum(origins.values()), "origins": origins}
    return {
        "checkpoint": checkpoint,
        "dataset": "me/songs",
        "train": train,
        "sources": {name: {"clips": train["tracks"], "of": 20} for name in sources},
        "licenses": licenses,
    }


def test_a_run_in_stages_is_described_as_a_whole(tmp_path):
    earlier = [training_of("runs/two/stage-1", ["data/synth"], {"data/synth": ["cc-by-nc-4.0"]}, synthetic=12)]
    config = {"dataset_name": "me/songs", "model_name_or_path": "me/net", "output_dir": str(tmp_path)}
    config["stages"] = [{"train_datasets": ["data/synth"]}, {"train_datasets": ["real"]}]
    splits = {"train": {"tracks": 24, "origins": {"real": 24}}, "test": {"tracks": 3, "origins": {"real": 3}}}
    data = {"dataset": "me/songs", "splits": splits, "train_mix": {"sources": {"real": {"clips": 24, "of": 24}}}}
    text = write_card(tmp_path, config=config, data=data, earlier=earlier, model=MODEL | {"name": "runs/two/stage-1"})
    assert "\n# net for music genres (data/synth, then me/songs)\n" in text
    assert "| train, stage-1 | 12 | 0 | 12 |" in text and "| train | 24 | 24 | 0 |" in text
    assert "| stage-1 | data/synth | 12 | 20 |" in text
    card = ModelCard(text).data
    assert (card.base_model, card.datasets, card.license) == ("me/net", ["data/synth", "me/songs"], "cc-by-nc-4.0")
    assert "not for commercial use" in text and "generated music" in text


def test_the_length_of_a_stage_is_shown_where_the_stage_sets_it(tmp_path):
    """Epochs of a stage replace the steps of the whole run."""
    config = {"model_name_or_path": "me/net", "output_dir": str(tmp_path), "max_steps": 100}
    for number, (stages, expected) in enumerate((([{}], True), ([{"num_train_epochs": 3}], False), (None, True))):
        text = write_card(tmp_path / str(number), config={**config, "stages": stages})
        assert ("| 100 |" in text) == expected


def test_the_card_of_a_first_stage_promises_no_scores(tmp_path):
    config = {"output_dir": str(tmp_path), "model_name_or_path": "me/net", "stages": [{}, {}]}
    results = write(tmp_path / "stage-1", [], GENRES, config=config, data={"dataset": "me/songs"})
    write_model_card(tmp_path / "stage-1", results, command=COMMAND)
    text = (tmp_path / "stage-1" / "README.md").read_text()
    assert "\n# net for music genres (me/songs), stage 1 of 2\n" in text
    assert "| set |" not in text and ".png" not in text and "Numbers are per track" not in text


@pytest.mark.parametrize(
    ("licenses", "chosen"),
    [
        ({}, None),
        ({"me/songs": ["cc-by-4.0"]}, None),  # the other dataset states none
        ({"me/songs": ["cc-by-4.0"], "me/noisy": ["cc-by-4.0"]}, "cc-by-4.0"),
        ({"me/songs": ["cc-by-4.0"], "me/noisy": ["mit"]}, None),
        ({"me/songs": ["cc-by-4.0"], "me/noisy": ["cc-by-nc-sa-4.0"]}, "cc-by-nc-sa-4.0"),
        ({"me/songs": ["cc-by-nc-4.0"], "me/noisy": ["cc-by-nc-sa-4.0"]}, "other"),
        ({"me/net": ["cc-by-nc-4.0"]}, "cc-by-nc-4.0"),  # the checkpoint that it started from
    ],
)
def test_licenses_are_handed_on(tmp_path, licenses, chosen):
    sources = {"real": {"clips": 3}, "me/noisy": {"clips": 4}}
    data = {"dataset": "me/songs", "splits": {}, "train_mix": {"sources": sources}}
    text = write_card(tmp_path, data=data, licenses=licenses)
    assert ModelCard(text).data.license == chosen
    assert all(f"{name} ({ids[0]})" in text for name, ids in licenses.items())


def test_windows_are_told_in_seconds_and_overlap_only_where_they_do(tmp_path):
    text = write_card(tmp_path)
    assert "windows of 10 s" in text and "overlapping windows, one every 5 s" in text
    text = write_card(tmp_path, model=MODEL | {"hop_samples": 160000})
    assert "back-to-back" in text and "overlapping" not in text
    assert "| window | 10 s (160,000 samples) |" in text


def test_the_score_that_chose_the_checkpoint_may_be_of_fewer_windows(tmp_path):
    evaluations = [evaluate(GENRES, np.arange(6) % 3, "validation")]
    model = MODEL | {"validation_hop_samples": 160000}
    # Of a run in stages, the options are those of the whole run, and the samples those of its last stage.
    text = write_card(tmp_path, evaluations=evaluations, model=model, config={"validation_hop_seconds": 5.0})
    assert "one every 10 s" in text
    text = write_card(tmp_path, evaluations=evaluations, model=model | {"validation_hop_samples": 80000})
    assert "selected on *validation*" in text and "While training" not in text


def test_settings_are_those_that_somebody_chose(tmp_path):
    config = {"weight_decay": 0.0, "label_smoothing_factor": 0.1, "freeze": "none", "num_proc": 9, "hub_token": "x"}
    text = write_card(tmp_path, config=config | {"learning_rate": 5e-5, "per_device_train_batch_size": 8})
    rows = dict(re.findall(r"^\| (.+?) \| (.*) \|$", text.split("## Training")[1].replace("\\", ""), re.M))
    assert rows["label_smoothing_factor"] == "0.1"
    assert (rows["learning_rate"], rows["per_device_train_batch_size"]) == ("5e-05", "8")  # defaults, but asked for
    assert not {"weight_decay", "freeze", "num_proc", "hub_token", "window_seconds"} & rows.keys()
    assert rows["parameters"] == "2,000, of which 10 learned" and rows["time: training"] == "1.5 s"


def test_own_code_needs_trust(tmp_path):
    assert "trust_remote_code" not in write_card(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "x.Y"}}))
    text = write_card(tmp_path, config={"hub_model_id": "me/cnn"})
    assert 'model="me/cnn", top_k=None, trust_remote_code=True' in text and 'revision="<commit>"' in text
    compile(re.search(r"```python\n(.*?)```", text, re.S).group(1), "card", "exec")


def test_robustness(tmp_path):
    header, rows = ["test tracks", "accuracy"], [["white noise 10 dB", "0.500"]]
    text = write_card(tmp_path, robustness=RobustnessText("Mean over kinds: 0.5", "robustness.png", header, rows))
    assert "| white noise 10 dB | 0.500 |" in text and "(robustness.png)" in text and "Mean over kinds" in text


def test_confidence_is_told_by_coverage_and_thresholds(tmp_path):
    labels = np.arange(40) % 3
    sets = [evaluate(GENRES, labels, name, seed=i) for i, name in enumerate(["validation", "test", HOSTILE[0]])]
    sets = [found.at_temperature(1.5, GENRES) for found in sets]
    robustness = SimpleNamespace(
        rows=[], means={}, benchmark=None, corruption_error=None, sets={"white_noise": [sets[1], sets[1]]}
    )
    config = {"model_name_or_path": "me/net", "output_dir": str(tmp_path)}
    model = MODEL | {"temperature": 1.5}
    results = write(tmp_path, sets, GENRES, config=config, model=model, robustness=robustness, data={})
    write_model_card(tmp_path, results, command=COMMAND)
    text = (tmp_path / "README.md").read_text()
    section = text.split("## Confidence")[1].split("\n## ")[0]
    assert "Temperature: 1.5, fitted to the validation tracks" in section
    threshold = results["confidence"]["thresholds"]["0.9"]
    assert f"For 90 % right: --unknown\\_below {threshold:g} keeps" in section and "somewhat too good there" in section
    rows = {
        line.split(" | ")[0].strip("| "): line.split(" | ")[1:7] for line in section.splitlines() if line[:1] == "|"
    }
    for name, found in (("validation", sets[0]), ("test", sets[1]), ("a\\|b", sets[2])):
        assert rows[name][:2] == ["40", f"{found.judged.is_right.mean():.3f}"]
        # 20 % of 40 tracks
        surest = np.argsort(-found.judged.confidence)[:8]
        assert rows[name][5].strip(" |") == f"{found.judged.is_right[surest].mean():.3f}"
    assert rows["test, white noise"] == ["80", *rows["test"][1:]]
    calibrated = sets[1].scores["track_calibrated"]
    (row,) = re.findall(r"^\| test, calibrated \|(.*)\|$", text, re.M)
    assert [cell.strip() for cell in row.split("|")][-2:] == [f"{calibrated[s]:.3f}" for s in ("log_loss", "ece")]
    check_harmless(text, {2, 6, 11, 12})


def test_hostile_names_stay_text(tmp_path):
    assert len(HOSTILE) == 14
    sets = ["test", *HOSTILE[:3], HOSTILE[4], HOSTILE[6]]
    evaluations = [evaluate(HOSTILE, np.arange(28) % 14, name) for name in sets]
    config = {"dataset_name": HOSTILE[4], "model_name_or_path": HOSTILE[1], "train_datasets": ["real", *HOSTILE[:10]]}
    config |= {"eval_datasets": [f"{name}={name}" for name in HOSTILE], "note": HOSTILE[0], HOSTILE[0]: HOSTILE}
    splits = {name: {"tracks": 1, "origins": {name: 1}} for name in HOSTILE}
    sources = {name: {"clips": 1, name: name} for name in HOSTILE}
    text = write_card(
        tmp_path,
        genres=HOSTILE,
        evaluations=evaluations,
        config=config,
        command=f"python run_classification.py {' '.join(HOSTILE)}",
        data={"splits": splits, "train_mix": {"sources": sources}},
        earlier=[
            {
                "checkpoint": HOSTILE[1],
                "dataset": HOSTILE[2],
                "train": splits["---"],
                "sources": {"real": {"clips": 1}, **sources},
                "licenses": {name: [name] for name in HOSTILE},
            }
        ],
        robustness=RobustnessText("\n\n".join(HOSTILE), HOSTILE[6], HOSTILE, [HOSTILE]),
    )
    check_harmless(text.replace(code_of(text), ""), {2, 6, 7, 12, 14, 16, 17})
    metadata = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---"))
    assert len(metadata["model-index"][0]["results"]) == len(sets)
    assert "base_model" not in metadata and "datasets" not in metadata
    headings = [t for t in parse(text) if t.type == "heading_open"]
    assert len(headings) == 10
    assert r"\{\{ 7 \* 7 \}\}" in text
    assert not re.search("[\u202e\u2028\x1b]", text)


def code_of(text):
    return re.search(r"## Training\n\n(`{3,})bash\n.*?\n\1\n", text, re.S).group()


@pytest.mark.parametrize("name", HOSTILE)
def test_escaped_names_are_shown_as_they_are(name):
    shown = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    for line, wanted in (
        (str(escape(name)), [shown]),
        (str(table([name, "x"], [[name, name]])), [shown, "x", shown, shown]),
    ):
        tokens = MarkdownIt("commonmark").enable("table").parse(line)
        texts = ["".join(c.content for c in t.children) for t in tokens if t.type == "inline"]
        assert texts == wanted
        assert {c.type for t in tokens for c in t.children or []} <= {"text", "text_special"}


def test_code_blocks_cannot_be_ended_from_inside():
    tokens = MarkdownIt("commonmark").parse(code_block("a\n```\n<b>\n````\n", "bash") + "\n\nafter")
    assert [t.type for t in tokens][:2] == ["fence", "paragraph_open"] and "````" in tokens[0].content


def test_commands_lose_secrets_and_folders():
    token = "hf_" + "a1" * 17
    command = f"HF_TOKEN={token} python run.py --hub_token {token} --seed 1 --hub-token={token} --note {token}"
    assert show_command(command) == "python run.py --seed 1 --note ***"
    command = "python run.py --dataset_name /home/anna/music --eval_datasets own=/mnt/x:0.5 b=runs/b --output_dir=~/r"
    assert (
        show_command(command) == "python run.py --dataset_name path/to/music --eval_datasets own=path/to/x:0.5 "
        "b=runs/b --output_dir=path/to/r"
    )
    assert show_command("run.py --name 'unfinished") == "run.py --name ''\"'\"'unfinished'"
    assert show_command("run.py --hub_token --push_to_hub") == "run.py --push_to_hub"
    assert show_source(r"C:\Users\Anna\music") == "music" and show_source("data/demo") == "data/demo"
    assert [show_source(name) for name in ("../music", "./music", "/x/music/")] == ["music"] * 3
    assert show_source("..") == Path.cwd().parent.name and show_source(".") == Path.cwd().name


def test_no_secret_and_no_folder_of_the_machine_in_a_card(tmp_path):
    config = {"dataset_name": "/home/anna/music", "hub_token": "hf_secret", "stages": [{"train": ["/home/anna/x"]}]}
    text = write_card(tmp_path, config=config, command="run.py --dataset_name /home/anna/music --hub_token hf_secret")
    assert "anna" not in text and "hf_secret" not in text and str(tmp_path) not in text
    assert "--dataset_name path/to/music" in text and "secrets are left out" in text
    assert "path/to/" not in write_card(tmp_path, command=COMMAND).split("## Training")[1]


def test_hub_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/demo").mkdir(parents=True)
    assert is_hub_id("sanchit-gandhi/gtzan") and is_hub_id("gpt2")
    assert not any(map(is_hub_id, ["data/demo", "a/b/c", "/abs/x", "../x", "a b", "---", ""]))


def test_dataset_card_comes_back(tmp_path):
    description = DatasetDescription(
        title=HOSTILE[4],
        summary="First.\n\nSecond <b>.",
        settings={name: name for name in HOSTILE},
        counts=[{"genre": name, "train": 3} for name in HOSTILE],
        sections=[("Licence", "Unknown <b>."), (HOSTILE[0], Markdown("see `config.json`"))],
        license="unknown",
        tags=["noisy"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    )
    use = use_for_training("me/gtzan-awgn10", {"dataset_name": HOSTILE[4]}, with_real=True)
    text = dataset_card(description, use, "me/gtzan-awgn10")
    check_harmless(text, {2})
    card = DatasetCard(text)
    assert card.data.license == "unknown"
    assert card.data.configs[0]["data_files"][0]["path"] == "data/train-*.parquet"
    assert 'load_dataset("me/gtzan-awgn10")' in text and "--train_datasets real me/gtzan-awgn10" in text
    assert "First.\n\nSecond &lt;b&gt;." in text and "see `config.json`" in text


def test_dataset_card_beside_parquet_files_loads(tmp_path):
    import datasets

    clips = datasets.Dataset.from_dict({"label": [0, 1]}).cast_column(
        "label", datasets.ClassLabel(names=["a|b", "---"])
    )
    (tmp_path / "data").mkdir()
    clips.to_parquet(tmp_path / "data/train-00000-of-00001.parquet")
    counts = [{"genre": "a|b", "train": 1}]
    configs = [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}]
    description = DatasetDescription("x", "y", settings={}, counts=counts, configs=configs)
    (tmp_path / "README.md").write_text(dataset_card(description, use_for_evaluation("me/x")))
    loaded = datasets.load_dataset(str(tmp_path), cache_dir=str(tmp_path / "cache"), split="train")
    assert loaded.features["label"].names == ["a|b", "---"]
