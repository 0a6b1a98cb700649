"""Arms under corruptions: scores, comparisons and words against hand arithmetic; which runs are compared at all."""

import dataclasses
import json

import numpy as np
import pytest
from made_runs import GENRES, TRACKS, write_run
from scipy import stats

from hf_utils.report.report_files import write_report
from hf_utils.report.run_folders import make_tables, read_runs
from hf_utils.report.scores import BETTER, NO_DIFFERENCE, WORSE, Comparison, score_and_compare
from hf_utils.report.statistics import Difference, paired_p
from hf_utils.report.sweep_sections import describe_effects, describe_losses
from hf_utils.report.sweeps import make_sweeps

LABELS = np.arange(60) % 3
NOISE_20, NOISE_0 = ("white_noise", "20_db", 20.0), ("white_noise", "0_db", 0.0)
MP3, QUIETER = ("mp3", "16_kbps", None), ("quieter", "20_db", None)


def answer(num_right):
    """Chosen genres (60,) of which the first `num_right` are right."""
    return np.where(np.arange(60) < num_right, LABELS, (LABELS + 1) % 3)


def write(folder, arm, seed, clean, corrupted, **options):
    probabilities = 0.7 * np.eye(3)[answer(clean)] + 0.1
    corrupted = {key: answer(num_right) for key, num_right in corrupted.items()}
    return write_run(
        folder, "ast", arm, seed, labels=LABELS, probabilities=probabilities, corrupted=corrupted, **options
    )


def load(*folders):
    runs, left_out = read_runs(folders)
    [table], _ = make_tables(runs)
    return table, make_sweeps(table, "clean", num_resamples=200), left_out


def test_scores_and_comparisons_by_hand(tmp_path):
    write(tmp_path / "a", "clean", 1, 42, {NOISE_0: 6, MP3: 24, NOISE_20: 30})
    write(tmp_path / "b", "noisy", 1, 41, {NOISE_0: 30, MP3: 27, NOISE_20: 36})
    _, [sweep], left_out = load(tmp_path)
    assert not left_out
    names = ["no corruption", "white noise 20 dB", "white noise 0 dB", "mp3 16 kbit/s", "mean over 2 kinds"]
    assert [condition.name for condition in sweep.conditions] == names
    accuracies = [sweep.accuracy["ast", "clean", condition].mean for condition in sweep.conditions]
    # The mean of the noise is (0.5 + 0.1) / 2, and of the kinds (0.3 + 0.4) / 2.
    assert accuracies == pytest.approx([0.7, 0.5, 0.1, 0.4, 0.35])
    # Every track is chosen with 0.8. Under the corruptions the runs say 0.00, 0.01 and 0.02 in their order.
    errors = [float(sweep.ece["ast", "clean", condition][0]) for condition in sweep.conditions]
    assert errors == pytest.approx([0.1, 0.02, 0.0, 0.01, (0.01 + 0.01) / 2])
    noise_20, noise_0, mp3, overall = (sweep.comparisons[condition][0] for condition in sweep.conditions[1:])
    assert [c.accuracy.mean for c in (noise_20, noise_0, mp3, overall)] == pytest.approx([0.1, 0.4, 0.05, 0.15])
    # McNemar: 6, 24 and 3 tracks that only the noisy arm gets right.
    assert [c.accuracy.p for c in (noise_20, noise_0, mp3)] == pytest.approx([2 / 2**6, 2 / 2**24, 2 / 2**3])
    gains = [(0.5 * (answer(36) == LABELS) + 0.5 * (answer(30) == LABELS) + (answer(27) == LABELS)) / 2]
    gains.append((0.5 * (answer(30) == LABELS) + 0.5 * (answer(6) == LABELS) + (answer(24) == LABELS)) / 2)
    assert overall.accuracy.p == pytest.approx(stats.ttest_rel(*gains).pvalue)
    # Two families: three comparisons by Holm, smallest p first, and one.
    assert overall.accuracy.p < noise_0.accuracy.p
    assert [overall.p_corrected, noise_0.p_corrected, noise_20.p_corrected] == pytest.approx(
        [3 * overall.accuracy.p, 2 * 2 / 2**24, 2 / 2**6], rel=1e-6, abs=0
    )
    assert mp3.p_corrected == mp3.accuracy.p
    assert (noise_20.verdict, noise_0.verdict, mp3.verdict) == (BETTER, BETTER, NO_DIFFERENCE)


def test_runs_are_compared_under_what_all_were_tested_under(tmp_path):
    for arm in ("clean", "noisy", "synthetic"):
        for seed in (1, 2):
            more = {QUIETER: 20, NOISE_0: 10} if seed == 1 else {}
            write(tmp_path / arm / str(seed), arm, seed, 40, {NOISE_20: 30, **more, MP3: 20})
    write_run(tmp_path / "cnn", "cnn", labels=LABELS, probabilities=np.eye(3)[LABELS])  # tested under nothing
    table, [sweep, further], _ = load(tmp_path)
    assert ("cnn", "clean") in table.cells and ("cnn", "clean") not in sweep.table.cells
    assert [condition.name for condition in sweep.conditions][1:-1] == ["white noise 20 dB", "mp3 16 kbit/s"]
    assert (sweep.seeds, further.seeds) == ([1, 2], [1])
    assert len(further.conditions) == 6
    assert {c.arm for c in sweep.comparisons[sweep.overall]} == {"noisy", "synthetic"}


def test_many_corruptions_have_a_row_for_each_kind(tmp_path):
    codecs = {("mp3", f"{rate}_kbps", None): rate for rate in range(20)}  # 0 to 19 of 60 tracks right
    write(tmp_path / "a", "clean", 1, 40, {NOISE_0: 6, **codecs, QUIETER: 30})
    _, [sweep], _ = load(tmp_path)
    names = ["no corruption", "white noise 0 dB", "mp3 (mean of 20)", "quieter 20 dB", "mean over 3 kinds"]
    assert [condition.name for condition in sweep.conditions] == names and sweep.num_corruptions == 22
    accuracies = [sweep.accuracy["ast", "clean", condition].mean for condition in sweep.conditions]
    assert accuracies == pytest.approx([40 / 60, 0.1, 9.5 / 60, 0.5, (0.1 + 9.5 / 60 + 0.5) / 3])


def test_corruptions_of_one_name_that_differ_are_not_compared(tmp_path):
    write(tmp_path / "a", "clean", 1, 40, {NOISE_20: 30, MP3: 20})
    other = write(tmp_path / "b", "noisy", 1, 40, {NOISE_20: 30, MP3: 20})
    path = other / "results.json"
    path.write_text(path.read_text().replace("white_noise20_db", "another version"))
    _, [sweep], _ = load(tmp_path)
    assert [condition.name for condition in sweep.conditions] == ["no corruption", "mp3 16 kbit/s"]
    write_report([tmp_path], tmp_path / "report", num_resamples=50)
    assert "Not compared: white\\_noise\\_20\\_db" in (tmp_path / "report" / "report.md").read_text()


def test_mean_corruption_errors_are_shown_where_all_runs_of_an_arm_have_them(tmp_path):
    measured = {"clean": [(0.8, 0.9), (0.9, None)], "noisy": [(0.6, 0.5), None], "synthetic": [(0.7, 0.5), (0.7, 0.7)]}
    for arm, seeds in measured.items():
        for seed, errors in enumerate(seeds):
            error = errors and dict(zip(("mce", "relative_mce"), errors, strict=True))
            facts = {"robustness_benchmark": "genre-c 1", "corruption_error": error}
            write(tmp_path / "runs" / arm / str(seed), arm, seed, 40, {MP3: 20}, facts=facts)
    write_report([tmp_path / "runs"], tmp_path / "report", num_resamples=50)
    page = (tmp_path / "report" / "report.md").read_text()
    assert "under 1 corruptions of genre-c 1 (seeds 0, 1)" in page
    assert "| ast | clean | 85.0 ± 7.1 | – |" in page and "| ast | synthetic | 70.0 ± 0.0 | 60.0 ± 14.1 |" in page
    assert "| ast | noisy | 60" not in page


def test_errors_of_two_versions_are_not_put_into_one_table(tmp_path):
    for version, arm in enumerate(("clean", "noisy"), start=1):
        facts = {"robustness_benchmark": f"genre-c {version}", "corruption_error": {"mce": 0.8, "relative_mce": 0.9}}
        write(tmp_path / "runs" / arm, arm, 1, 40, {MP3: 20}, facts=facts)
    write_report([tmp_path / "runs"], tmp_path / "report", num_resamples=50)
    page = (tmp_path / "report" / "report.md").read_text()
    assert "genre-c 1 and genre-c 2" in page and "Mean corruption error" not in page


def test_predictions_that_do_not_fit_are_told_and_the_run_stays(tmp_path):
    missing = write(tmp_path / "a", "clean", 1, 40, {MP3: 20})
    (missing / "robustness_predictions.csv").unlink()
    wrong = write(tmp_path / "b", "clean", 2, 40, {MP3: 20})
    results = json.loads((wrong / "results.json").read_text())
    results["robustness"][0]["accuracy"] += 0.1
    (wrong / "results.json").write_text(json.dumps(results))
    short = write(tmp_path / "c", "clean", 3, 40, {MP3: 20})
    lines = (short / "robustness_predictions.csv").read_text().splitlines()
    (short / "robustness_predictions.csv").write_text("\n".join(lines[:-1]))
    table, sweeps, left_out = load(tmp_path)
    assert len(table.cells["ast", "clean"]) == 3 and not sweeps
    assert [item.folder[-1] for item in left_out] == ["a", "b", "c"]
    assert all("robustness_predictions.csv" in left_out[index].reason for index in (0, 2))
    assert "mp3_16_kbps give an accuracy of 0.3333" in left_out[1].reason


def test_corruptions_belong_to_the_test_set(tmp_path):
    run = write(tmp_path / "a", "clean", 1, 40, {MP3: 20})
    results = json.loads((run / "results.json").read_text())
    results["evaluations"]["validation"] = results["evaluations"]["test"]
    (run / "results.json").write_text(json.dumps(results))
    (run / "predictions_validation.csv").write_bytes((run / "predictions_test.csv").read_bytes())
    [read], _ = read_runs([tmp_path], "validation")
    assert read.corrupted == {}


def test_folds_are_pooled_under_corruptions(tmp_path):
    for fold, (num_right, num_noisy) in enumerate([(20, 10), (10, 5), (15, 0)]):
        tracks = TRACKS[20 * fold : 20 * fold + 20]
        right = {"clean": np.arange(20) < num_right, "noise": np.arange(20) < num_noisy}
        chosen = {key: np.where(value, LABELS[:20], (LABELS[:20] + 1) % 3) for key, value in right.items()}
        write_run(
            tmp_path / str(fold),
            tracks=tracks,
            genres=GENRES,
            labels=LABELS[:20],
            probabilities=0.7 * np.eye(3)[chosen["clean"]] + 0.1,
            corrupted={NOISE_0: chosen["noise"]},
            protocol={"name": "artist_folds", "seed": 0, "num_folds": 3, "fold": fold},
        )
    _, [sweep], _ = load(tmp_path)
    clean, noise = sweep.conditions
    assert sweep.accuracy["ast", "clean", noise].mean == pytest.approx(15 / 60)
    # Each fold by itself: |0.8 - 1|, |0.8 - 0.5|, |0.8 - 0.75|.
    assert sweep.ece["ast", "clean", clean] == pytest.approx([(0.2 + 0.3 + 0.05) / 3])


def compare(mean, low, high, p, verdict):
    return Comparison("ast", "noisy", Difference(mean, low, high, p, 3, 0.07), None, p, verdict)


@pytest.mark.parametrize(
    ("comparison", "words"),
    [
        (compare(0.341, 0.28, 0.402, 0.0001, BETTER), "it gains 34.1 points (+28.0 to +40.2)"),
        (compare(-0.05, -0.08, -0.02, 0.01, WORSE), "it costs 5.0 points (-8.0 to -2.0)"),
        (
            compare(-0.01, -0.03, 0.02, 0.4, NO_DIFFERENCE),
            "no difference found (-1.0, -3.0 to +2.0; one of 7.0 points would mostly be found)",
        ),
        (
            compare(0.04, 0.01, 0.07, 0.08, NO_DIFFERENCE),
            "no difference found once all comparisons are counted (+4.0, +1.0 to +7.0; corrected p 0.080)",
        ),
    ],
)
def test_words_follow_from_the_numbers(tmp_path, comparison, words):
    write(tmp_path / "a", "clean", 1, 40, {NOISE_0: 20})
    write(tmp_path / "b", "noisy", 1, 40, {NOISE_0: 20})
    _, [sweep], _ = load(tmp_path)
    [noise] = sweep.noises
    sweep.comparisons[noise][:] = [comparison]
    sentences = describe_effects([comparison], sweep, "clean")
    expected = f"ast, noisy, against clean: on clean tracks {words}; under white noise 0 dB {words}."
    assert sentences == {("ast", "noisy"): expected}


def test_a_loss_under_any_corruption_is_told(tmp_path):
    write(tmp_path / "a", "clean", 1, 40, {NOISE_0: 20, MP3: 20})
    write(tmp_path / "b", "noisy", 1, 40, {NOISE_0: 20, MP3: 20})
    _, [sweep], _ = load(tmp_path)
    [noise], [mp3] = sweep.noises, sweep.others
    worse, better = compare(-0.05, -0.08, -0.02, 0.01, WORSE), compare(0.05, 0.02, 0.08, 0.01, BETTER)
    sweep.comparisons[noise][:] = [worse]
    sweep.comparisons[mp3][:] = [better]
    assert describe_losses([sweep], "clean") == []  # `describe_effects` tells what is found under noise
    sweep.comparisons[mp3][:] = [worse]
    told = f"ast, noisy, against clean: under {mp3.name} it costs 5.0 points (-8.0 to -2.0), seed 1."
    assert describe_losses([sweep], "clean") == [told]
    another = dataclasses.replace(sweep)
    assert len(describe_losses([another, sweep], "clean")) == 3


def test_the_page_answers_for_every_arm(tmp_path):
    for arm, under in {"clean": 10, "noisy": 40, "synthetic": 11}.items():
        for seed in (1, 2):
            write(tmp_path / "runs" / arm / str(seed), arm, seed, 42 - (arm == "noisy"), {NOISE_0: under, MP3: 20})
    write_report([tmp_path / "runs"], tmp_path / "report", num_resamples=100)
    page = (tmp_path / "report" / "report.md").read_text()
    noisy, synthetic = (line for line in page.splitlines() if line.startswith("- ast, "))
    assert "under white noise 0 dB it gains 50.0 points" in noisy and "on clean tracks no difference found" in noisy
    assert "it gains" not in synthetic and "it costs" not in synthetic
    assert "| no corruption | 70.0 | 68.3 | 70.0 |" in page  # by the arms: clean, noisy, synthetic
    assert "6 on the tracks as they are, one per run, and 12 on corrupted copies of them." in page
    assert "Calibration error (ECE), points, under 2 corruptions of genre-c 1 (seeds 1, 2)" in page
    assert (tmp_path / "report" / "robustness-1-1-0.png").stat().st_size > 5000


def test_two_single_runs_with_means_have_the_paired_t_test():
    generator = np.random.default_rng(0)
    first, second = generator.random(50), generator.random(50)
    assert paired_p(first, second) == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert paired_p(first, first) == 1
    # Three tracks that differ: no smaller than a quarter, however regular.
    moved = first + np.where(np.arange(50) < 3, 0.25, 0)
    assert paired_p(moved, first) == pytest.approx(0.25)
    assert paired_p(np.full(4, 0.5), np.zeros(4)) == pytest.approx(2.0**-3)


def test_clean_scores_are_those_of_the_table(tmp_path):
    write(tmp_path / "a", "clean", 1, 42, {NOISE_0: 6})
    table, [sweep], _ = load(tmp_path)
    scored = score_and_compare(table, "clean", num_resamples=200)
    assert sweep.accuracy["ast", "clean", sweep.clean] == scored.scores["ast", "clean", "accuracy"]
