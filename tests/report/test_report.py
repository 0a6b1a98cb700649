"""The report on hand-made runs: who shares a table, pooled folds, texts from outside, the page itself."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from made_runs import GENRES, TRACKS, draw_probabilities, write_run, write_study
from page_reader import HOSTILE, PageReader

from hf_utils.data.gtzan import track_facts
from hf_utils.errors import UserError
from hf_utils.files import write_predictions
from hf_utils.report.findings import confused_pairs, describe_track, missed_tracks
from hf_utils.report.report_files import main, write_report
from hf_utils.report.run_folders import make_tables, read_runs
from hf_utils.report.scores import score_and_compare
from hf_utils.report.sections import percent, score_grid


def load_tables(*folders):
    runs, left_out = read_runs(folders)
    tables, doubled = make_tables(runs)
    return tables, [*left_out, *doubled]


def test_scores_are_means_over_seeds_of_the_runs_own(tmp_path):
    write_study(tmp_path, models=["ast"], arms=["clean"], seeds=[1, 2, 3])
    [table], left_out = load_tables(tmp_path)
    assert left_out == []
    scored = score_and_compare(table, "clean", num_resamples=200)
    accuracies = [
        json.loads(path.read_text())["evaluations"]["test"]["track"]["accuracy"]
        for path in tmp_path.rglob("results.json")
    ]
    score = scored.scores["ast", "clean", "accuracy"]
    assert score.mean == pytest.approx(np.mean(accuracies))
    assert score.deviation == pytest.approx(np.std(accuracies, ddof=1))
    assert score.low < score.mean < score.high
    assert scored.comparisons == []


def test_all_seeds_together_are_the_mean_of_their_probabilities(tmp_path):
    """By hand: of four tracks each seed misses another one narrowly, and together they miss none."""
    labels = np.array([0, 1, 2, 0])
    for seed in (1, 2, 3):
        probabilities = np.full((4, 3), 0.1) + 0.7 * np.eye(3)[labels]
        probabilities[seed] = [1 / 3 - 0.01] * 3
        probabilities[seed, (labels[seed] + 1) % 3] += 0.03
        write_run(tmp_path / str(seed), seed=seed, tracks=TRACKS[:4], labels=labels, probabilities=probabilities)
    write_run(tmp_path / "noisy", arm="noisy", tracks=TRACKS[:4], labels=labels, probabilities=probabilities)
    [table], _ = load_tables(tmp_path)
    scored = score_and_compare(table, "clean", num_resamples=50)
    assert scored.scores["ast", "clean", "accuracy"].mean == 0.75
    assert scored.scores_together["ast", "clean", "accuracy"].mean == 1
    assert scored.scores_together["ast", "clean", "accuracy"].deviation is None
    assert {cell[:2] for cell in scored.scores_together} == {("ast", "clean")}, "one seed is no ensemble"
    grid = score_grid(scored, "accuracy")
    assert [row[0] for row in grid.rows] == ["ast", "ast, all seeds together"]
    assert grid.rows[1][1:] == ["100.0 [100.0 to 100.0] (3)", "–"]


def test_a_clear_difference_is_found_and_its_absence_is_said(tmp_path):
    # 40 of 60 tracks are right in clean; the better arm gets 18 more, the other arm exchanges one for one.
    labels = np.arange(60) % 3
    right = {
        "clean": np.arange(60) < 40,
        "better": np.arange(60) < 58,
        "same": (np.arange(60) > 0) & (np.arange(60) < 41),
    }
    for arm, answers in right.items():
        for seed in (1, 2):
            chosen = np.where(answers, labels, (labels + 1) % 3)
            write_run(
                tmp_path / arm / str(seed),
                "ast",
                arm,
                seed,
                labels=labels,
                probabilities=0.7 * np.eye(3)[chosen] + 0.1,
            )
    [table], _ = load_tables(tmp_path)
    by_arm = {item.arm: item for item in score_and_compare(table, "clean", num_resamples=500).comparisons}
    assert by_arm["better"].verdict == "better"
    assert by_arm["better"].accuracy.mean == pytest.approx(18 / 60)
    assert by_arm["same"].verdict == "no detectable difference"
    assert by_arm["same"].accuracy.mean == pytest.approx(0)
    assert by_arm["same"].p_corrected == 1


def test_one_run_per_arm_is_mcnemars_test(tmp_path):
    labels = np.zeros(20, int)
    chosen = {"clean": np.repeat([0, 1], [10, 10]), "noisy": np.repeat([0, 1], [16, 4])}  # 6 to 0
    for arm in chosen:
        probabilities = 0.7 * np.eye(3)[chosen[arm]] + 0.1
        write_run(tmp_path / arm, "ast", arm, tracks=TRACKS[:20], labels=labels, probabilities=probabilities)
    [table], _ = load_tables(tmp_path)
    [comparison] = score_and_compare(table, "clean", num_resamples=500).comparisons
    assert comparison.accuracy.p == pytest.approx(2 / 2**6)
    assert comparison.verdict == "better"
    assert "other seeds" in " ".join(read_page(tmp_path, tmp_path / "report").words)


def test_runs_are_paired_by_seed(tmp_path):
    write_study(tmp_path, models=["ast"], arms=["clean"], seeds=[1, 2, 3])
    write_study(tmp_path / "more", models=["ast"], arms=["noisy"], seeds=[2, 3, 4])
    [table], _ = load_tables(tmp_path)
    [comparison] = score_and_compare(table, "clean", num_resamples=50).comparisons
    assert comparison.accuracy.num_seeds == 2


def split_sizes(train, test):
    mix = {"tracks": 2 * train, "origins": {"real": train, "noisy": train}}
    return {"splits": {"train": mix, "test": {"tracks": test, "origins": {"real": test}}}}


def test_the_page_says_what_data_it_is(tmp_path):
    write_run(tmp_path / "a", seed=1, dataset_name="/home/me/music", data=split_sizes(1443, 60))
    write_run(tmp_path / "b", seed=2, dataset_name="/home/me/music", data=split_sizes(1440, 60))
    note = f"A subset {HOSTILE}"
    page = read_page(tmp_path, tmp_path / "report", note=note)
    [data] = [words for words in page.words if words.startswith("Data: music;")]
    assert "1,440 to 1,443 train" in data and "60 test" in data
    assert note.split("<")[0].strip() in " ".join(page.words)
    assert "> A subset " in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize("data", [None, [], {"splits": []}, {"splits": {"train": 3, "test": {"origins": [1]}}}])
def test_a_run_that_does_not_say_its_data_is_reported_all_the_same(tmp_path, data):
    write_run(tmp_path / "a", data=data)
    assert "Data:" not in " ".join(read_page(tmp_path, tmp_path / "report").words)


@pytest.mark.parametrize(
    "other",
    [
        {"protocol": {"name": "filtered", "seed": None, "num_folds": None, "fold": None}},
        {"protocol": {"name": "stratified", "seed": 1, "num_folds": None, "fold": None}},
        {"tracks": [*TRACKS[:59], "rock.99999"]},
        {"genres": ["blues", "jazz", "metal"]},
        {"genres": ["jazz", "blues", "rock"]},
        {"demo": True},
    ],
)
def test_runs_that_cannot_be_compared_never_share_a_table(tmp_path, other):
    write_run(tmp_path / "a", arm="clean")
    write_run(tmp_path / "b", arm="noisy", **other)
    tables, _ = load_tables(tmp_path)
    assert sorted(list(table.cells) for table in tables) == [[("ast", "clean")], [("ast", "noisy")]]
    page = read_page(tmp_path, tmp_path / "report")
    assert "across tables" in " ".join(page.words)


def fold_protocol(fold, seed=0):
    return {"name": "artist_folds", "seed": seed, "num_folds": 3, "fold": fold}


def test_folds_are_pooled_so_that_every_track_counts_once(tmp_path):
    for arm in ("clean", "noisy"):
        for fold in range(3):
            write_run(
                tmp_path / arm / str(fold),
                arm=arm,
                tracks=TRACKS[20 * fold : 20 * fold + 20],
                protocol=fold_protocol(fold),
                accuracy=0.5 + 0.2 * fold,
                fold=fold,
            )
    [table], left_out = load_tables(tmp_path)
    assert left_out == []
    assert sorted(table.track_ids) == sorted(TRACKS)
    assert table.folds == (0, 1, 2)
    score = score_and_compare(table, "clean", num_resamples=50).scores["ast", "clean", "accuracy"]
    singles = [json.loads((tmp_path / "clean" / str(fold) / "results.json").read_text()) for fold in range(3)]
    # Folds of equal size: the pooled accuracy is the mean of the folds'.
    assert score.mean == pytest.approx(np.mean([run["evaluations"]["test"]["track"]["accuracy"] for run in singles]))
    assert score.deviation is None


def test_an_unfinished_set_of_folds_has_a_table_of_its_own(tmp_path):
    for arm, folds in (("clean", (0, 1, 2)), ("noisy", (0, 1))):
        for fold in folds:
            tracks = TRACKS[20 * fold : 20 * fold + 20]
            write_run(tmp_path / arm / str(fold), arm=arm, tracks=tracks, protocol=fold_protocol(fold))
    tables, _ = load_tables(tmp_path)
    assert [(table.folds, list(table.cells)) for table in tables] == [
        ((0, 1, 2), [("ast", "clean")]),
        ((0, 1), [("ast", "noisy")]),
    ]


def test_folds_that_test_a_track_twice_are_refused(tmp_path):
    write_run(tmp_path / "0", tracks=TRACKS[:20], protocol=fold_protocol(0))
    write_run(tmp_path / "1", tracks=TRACKS[19:39], protocol=fold_protocol(1))
    _, [left_out] = load_tables(tmp_path)
    assert Path(left_out.folder).name == "1" and "fold" in left_out.reason


def test_unfinished_broken_and_doubled_runs_are_listed(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")  # the same cell again
    write_run(tmp_path / "c", seed=2, complete=False)
    (write_run(tmp_path / "d", seed=3) / "predictions_test.csv").unlink()
    stale = write_run(tmp_path / "e", seed=4, accuracy=1.0)
    write_predictions(stale / "predictions_test.csv", TRACKS, *draw_probabilities(60, 0.0, 0), GENRES)
    (tmp_path / "f" / "checkpoint-5").mkdir(parents=True)
    (tmp_path / "f" / "checkpoint-5" / "trainer_state.json").write_text("{}")
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "results.json").write_text("{")
    runs, left_out = read_runs([tmp_path])
    assert [Path(run.folder).name for run in runs] == ["a", "b"]
    reasons = {Path(item.folder).name: item.reason for item in left_out}
    assert reasons.keys() == set("cdefg")
    assert all("not finished" in reasons[name] for name in "cf")
    assert "predictions_test.csv" in reasons["d"] and "results.json" in reasons["g"]
    assert "predictions_test.csv" in reasons["e"] and "accuracy" in reasons["e"]
    _, [doubled] = make_tables(runs)
    assert Path(doubled.folder).name == "b" and str(tmp_path / "a") in doubled.reason


def test_a_study_without_results_yet_has_a_report(tmp_path):
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "study_cell.yaml").write_text("seed: 1")
    assert write_report([tmp_path / "runs"], tmp_path / "report") == []
    assert "not finished" in (tmp_path / "report" / "report.md").read_text()


def test_folders_without_runs_are_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        write_report([tmp_path / "nowhere"], tmp_path / "report")
    with pytest.raises(UserError, match=str(tmp_path)):
        write_report([tmp_path], tmp_path / "report")
    assert main([str(tmp_path), "--output", str(tmp_path / "report")]) == 2


def test_runs_without_a_name_are_named_by_what_they_trained_on(tmp_path):
    write_run(tmp_path / "a", run_name=None, model_name_or_path="MIT/ast-x", train_datasets=["real"])
    write_run(tmp_path / "b", run_name=None, model_name_or_path="MIT/ast-x", train_datasets=["real", "data/n"])
    [table], _ = load_tables(tmp_path)
    assert sorted(table.cells) == [("ast-x", "clean"), ("ast-x", "real + data/n")]


def test_an_evaluation_is_no_arm_that_others_are_compared_with(tmp_path):
    """Its options do not say what its checkpoint was trained on: perhaps on noise."""
    write_run(tmp_path / "a", run_name=None, model_name_or_path="runs/noisy", train_datasets=["real"], training=None)
    [table], _ = load_tables(tmp_path)
    assert sorted(table.cells) == [("noisy", "evaluated only")]


@pytest.mark.parametrize(
    ("options", "steps", "names", "warning"),
    [
        ({"mixup_alpha": 0.2, "learning_rate": 1e-3}, 20, {}, "learning_rate, mixup_alpha"),
        ({"seed": 2, "output_dir": "b", "augmentation": "mild.yaml"}, 20, {}, None),
        ({}, 40, {}, "40 instead of 20"),
        ({"max_steps": 40}, 40, {}, "max_steps"),
        ({"mixup_alpha": 0.2}, 20, {"run_name": "m/noisy"}, None),
    ],
)
def test_an_arm_that_differs_in_more_than_its_name_says_is_pointed_out(
    options, steps, names, warning, tmp_path, capsys
):
    unnamed = {"run_name": None, "model_name_or_path": "x/m"}
    write_run(tmp_path / "runs" / "a", **unnamed, train_datasets=["real"], training={"planned_steps": 20})
    options = unnamed | {"train_datasets": ["real", "data/n"], "training": {"planned_steps": steps}} | options | names
    write_run(tmp_path / "runs" / "b", **options)
    assert main([str(tmp_path / "runs"), "--output", str(tmp_path / "report")]) == 0
    page = PageReader((tmp_path / "report" / "report.html").read_text())
    found = [words for words in page.words if "differs from that of clean" in words]
    assert len(found) == (warning is not None) == ("Warning: m, " in capsys.readouterr().out)
    if warning is not None:
        assert warning in found[0] and "output_dir" not in found[0] and "train_datasets" not in found[0]


def test_runs_whose_steps_have_other_windows_are_pointed_out(tmp_path):
    """As where a study goes on under more processes; of an earlier run, its options tell."""
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    windows = {1: {}, 2: {"windows_per_step": 8}, 3: {"windows_per_step": 16}}
    for seed in windows:
        write_run(tmp_path / "runs" / str(seed), seed=seed, training={"planned_steps": 20} | windows[seed], **options)
        words = " ".join(read_page(tmp_path / "runs", tmp_path / "report").words)
        assert ("ast, clean: the runs differ in windows_per_step" in words) == (seed == 3)


def test_paths_of_this_machine_are_shortened_where_names_stay_distinct(tmp_path):
    model = {"run_name": None, "model_name_or_path": "MIT/ast-x"}
    for name, mix in (("a", ["real"]), ("b", ["real", "/home/me/noisy:0.5"]), ("c", ["real", "/mnt/one/synth"])):
        write_run(tmp_path / "runs" / name, **model, train_datasets=mix)
    page = read_page(tmp_path / "runs", tmp_path / "report")
    assert "real + noisy:0.5" in page.words and "train_datasets: real, noisy:0.5 instead of real" in page.words
    for file in ("report.html", "report.md", "results.csv"):
        assert "/home" not in (tmp_path / "report" / file).read_text()
    write_run(tmp_path / "runs" / "d", **model, train_datasets=["real", "/mnt/two/synth"])
    [table], _ = load_tables(tmp_path / "runs")
    assert {arm for _, arm in table.cells} >= {"real + /mnt/one/synth", "real + /mnt/two/synth", "real + noisy:0.5"}


def test_equal_runs_have_no_deviation(tmp_path):
    labels = np.arange(60) % 3
    probabilities = 0.7 * np.eye(3)[np.where(np.arange(60) < 41, labels, (labels + 1) % 3)] + 0.1
    for seed in (1, 2, 3):
        write_run(tmp_path / str(seed), seed=seed, labels=labels, probabilities=probabilities)
    [table], _ = load_tables(tmp_path)
    assert {score.deviation for score in score_and_compare(table, "clean", num_resamples=50).scores.values()} == {0.0}


def test_confusions_and_missed_tracks_by_hand(tmp_path):
    labels = np.array([0, 0, 1, 2])
    for seed, chosen in ((1, [1, 0, 1, 0]), (2, [1, 0, 0, 2])):
        probabilities = 0.7 * np.eye(3)[chosen] + 0.1
        write_run(tmp_path / str(seed), seed=seed, tracks=list("abcd"), labels=labels, probabilities=probabilities)
    [table], _ = load_tables(tmp_path)
    pairs = [(pair.genre, pair.chosen, pair.count, pair.total) for pair in confused_pairs(table, 2)]
    assert pairs == [("blues", "jazz", 2, 4), ("jazz", "blues", 1, 2)]
    missed = [(track.track_id, track.missed, track.num_runs, track.chosen) for track in missed_tracks(table, 9)]
    assert missed == [("a", 2, 2, "jazz"), ("c", 1, 2, "blues"), ("d", 1, 2, "blues")]


def test_known_faults_are_told():
    repeated = next(name for name, facts in track_facts().items() if facts["repetition_of"])
    facts = track_facts()[repeated]
    assert f"FAULT: the same recording as {facts['repetition_of']}" in describe_track(repeated, facts["genre"])
    assert "FAULT" not in describe_track("blues.00000", "blues")
    assert "john lee hooker" in describe_track("blues.00000", "blues")
    assert describe_track("blues.00000", "jazz") == describe_track("my-song", "blues") == ""


def write_filtered_study(root):
    names = [name for name, facts in track_facts().items() if facts["filtered_split"] == "test"]
    genres = sorted({track_facts()[name]["genre"] for name in names})
    labels = np.array([genres.index(track_facts()[name]["genre"]) for name in names])
    for model, base in (("convnext", 0.68), ("ast", 0.82), ("hubert", 0.74)):
        for arm, lift in (("clean", 0.0), ("noisy", 0.2 if model == "convnext" else 0.01), ("synthetic", -0.01)):
            corrupted = {
                (kind, str(level), snr): base + lift - level * 0.1
                for kind in ("white_noise", "codec")
                for level, snr in enumerate((30.0, 20.0, 10.0) if kind == "white_noise" else (None,) * 3)
            }
            for seed in (1, 2, 3):
                write_run(
                    root / model / arm / f"seed-{seed}",
                    model,
                    arm,
                    seed,
                    accuracy=base + lift,
                    tracks=names,
                    genres=genres,
                    labels=labels,
                    protocol={"name": "filtered", "seed": None, "num_folds": None, "fold": None},
                    corrupted=corrupted,
                    train_datasets=["real"] if arm == "clean" else ["real", f"data/{arm}"],
                )
    return root


def read_page(runs, output, **options):
    write_report([runs], output, num_resamples=200, **options)
    return PageReader((output / "report.html").read_text(encoding="utf-8"))


def test_the_whole_report(tmp_path):
    page = read_page(write_filtered_study(tmp_path / "runs"), tmp_path / "report")
    text = " ".join(page.words)
    assert "convnext, noisy, against clean: on clean tracks it gains" in text
    assert "ast, synthetic, against clean: on clean tracks no difference found" in text
    # Others' numbers on this split, and no others.
    assert "EVAR" in text and "M2D-AS" in text and "AML24MST" not in text
    pictures = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 8  # comparison, changes per genre, three models' robustness and confusions
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    assert all(attributes["class"] for tag, attributes in page.tags if tag == "div")
    markdown = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    shown = re.findall(r"\]\(([\w-]+\.png)\)", markdown)
    assert len(shown) == 8 and all((tmp_path / "report" / name).stat().st_size < 200_000 for name in shown)
    with open(tmp_path / "report" / "comparisons.csv", newline="", encoding="utf-8") as file:
        rows = {(row["model"], row["arm"], row["tested_under"]): row for row in csv.DictReader(file)}
    # Six pairs on clean tracks, under six corruptions, and in the mean over kinds.
    assert len(rows) == 6 * (1 + 6 + 1)
    better = rows["convnext", "noisy", "no corruption"]
    assert better["verdict"] == "better" and float(better["difference"]) == pytest.approx(0.2, abs=0.06)


def test_reports_of_the_same_runs_are_equal(tmp_path):
    write_study(tmp_path / "runs")
    for name in ("one", "two"):
        write_report([tmp_path / "runs"], tmp_path / name, num_resamples=100)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


def test_texts_from_outside_are_shown_and_never_run(tmp_path):
    genres = [HOSTILE, "**bold**|", "=1+1"]
    tracks = [f"{HOSTILE}{index}" for index in range(12)]
    for arm in ("clean", HOSTILE.replace("/", "")):
        for seed in (1, 2):
            folder = tmp_path / "runs" / f"{len(arm)}-{seed}"
            write_run(
                folder,
                HOSTILE.replace("/", ""),
                arm,
                seed,
                genres=genres,
                tracks=tracks,
                class_weights=HOSTILE[:30] + arm,
            )
    page = read_page(tmp_path / "runs", tmp_path / "report")
    allowed = "html head meta title style body h1 h2 h3 p ul li div table thead tbody tr th td img section".split()
    assert {tag for tag, _ in page.tags} <= set(allowed)
    assert not any(name.startswith("on") or name == "href" for _, attributes in page.tags for name in attributes)
    assert '<script>alert("x")</script>|`' in " ".join(page.words)
    markdown = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown
    assert not re.search(r"(?<!\\)\]\((?!\w+-)", markdown)  # no link but to the pictures
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_demo_data_is_marked(tmp_path):
    write_study(tmp_path / "runs", models=["ast"], demo=True)
    page = read_page(tmp_path / "runs", tmp_path / "report")
    assert "Demo data" in " ".join(page.words)
    assert "Demo data" in (tmp_path / "report" / "report.md").read_text()


def test_a_cell_of_different_configurations_is_pointed_out(tmp_path):
    write_run(tmp_path / "runs" / "a", seed=1, learning_rate=1e-4, output_dir="a")
    write_run(tmp_path / "runs" / "b", seed=2, learning_rate=1e-3, output_dir="b")
    page = read_page(tmp_path / "runs", tmp_path / "report")
    [warning] = [words for words in page.words if "differ" in words and "learning_rate" in words]
    assert warning.startswith("ast, clean:") and "output_dir" not in warning


@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_the_page_opens_in_a_browser_without_errors(tmp_path):
    page = tmp_path / "report" / "report.html"
    read_page(write_study(tmp_path / "runs"), tmp_path / "report")
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking".split()
    options += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--enable-logging=stderr", "--window-size=390,800", "--virtual-time-budget=2000", "--dump-dom"]
    done = subprocess.run(["chromium", *options, page.as_uri()], capture_output=True, text=True, timeout=60)
    assert "</table>" in done.stdout
    assert "CONSOLE" not in done.stderr


@pytest.mark.parametrize(
    ("value", "shown"), [(0.1, "+10.0"), (-0.1, "-10.0"), (-0.00001, "0.0"), (0.00001, "0.0"), (float("nan"), "–")]
)
def test_a_difference_of_nothing_has_no_sign(value, shown):
    assert percent(value, "+.1f") == shown


@pytest.mark.parametrize(
    ("data", "config", "is_apart"),
    [
        ({"seen_tracks": {"test": {"trained on": 3}}}, {}, True),
        ({"seen_tracks": {"validation": {"trained on": 3}}}, {}, True),
        ({"seen_tracks": {}}, {"allow_seen_tracks": True}, False),
        ({"seen_tracks": {"live": {"trained on": 3}}}, {"allow_seen_tracks": True}, False),
        (None, {"allow_seen_tracks": True}, True),
        (None, {}, False),
    ],
)
def test_runs_that_knew_test_tracks_are_marked_and_not_averaged_with_others(data, config, is_apart, tmp_path):
    write_run(tmp_path / "1", seed=1)
    write_run(tmp_path / "2", seed=2, data=data, **config)
    tables, _ = load_tables(tmp_path)
    assert [table.knew_tracks for table in tables] == ([False, True] if is_apart else [False])
    write_report([tmp_path], tmp_path / "report", num_resamples=50)
    page = (tmp_path / "report" / "report.md").read_text()
    marks = [row["knew_tracks"] for row in csv.DictReader((tmp_path / "report" / "results.csv").open())]
    assert ("weights of these runs knew tracks" in page) == is_apart
    assert page.count("KNOWN TRACKS") == marks.count("1") == is_apart
