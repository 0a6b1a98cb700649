"""Statistics against hand arithmetic, SciPy and scikit-learn, and the study's test against simulated studies."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from hf_utils.report.run_folders import Replicate, Table
from hf_utils.report.scores import NO_DIFFERENCE, compare_arms, resample_scores
from hf_utils.report.statistics import (
    SeedVariance,
    compare_runs,
    compare_seeds,
    correct_holm,
    mcnemar_p,
    plan_detectable,
    pool_seed_variances,
    weighted_accuracy,
    weighted_f1,
    weighted_roc_auc,
)
from hf_utils.results.intervals import percentile_interval, resample_tracks


def draw_predictions(num_tracks=60, num_genres=4, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(num_tracks) % num_genres
    probabilities = generator.dirichlet(np.ones(num_genres), num_tracks) + 0.4 * np.eye(num_genres)[labels]
    # Few levels, so that ties occur.
    probabilities = np.round(probabilities, 1) + 0.05
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


def test_weighted_scores_are_scikit_learns_on_the_repeated_tracks():
    labels, probabilities = draw_predictions()
    weights = np.vstack([np.ones(60), resample_tracks(60, 5, seed=3)])
    one_model = np.zeros(60)
    accuracy = weighted_accuracy(labels, probabilities, weights)
    f1 = weighted_f1(labels, probabilities, weights)
    roc_auc = weighted_roc_auc(labels, probabilities, weights, one_model)
    for index, counts in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(60), counts)
        truth, scores = labels[rows], probabilities[rows]
        assert set(truth) == set(range(4))
        assert accuracy[index] == pytest.approx(accuracy_score(truth, scores.argmax(axis=1)))
        assert f1[index] == pytest.approx(f1_score(truth, scores.argmax(axis=1), average="macro", labels=range(4)))
        by_genre = [roc_auc_score(truth == genre, scores[:, genre]) for genre in range(4)]
        assert roc_auc[index] == pytest.approx(np.mean(by_genre))


def test_scores_of_a_resample_without_a_genre_are_means_over_the_others():
    labels, probabilities = np.array([0, 0, 1, 2]), np.array([[0.8, 0.2, 0], [0.3, 0.7, 0], [0, 1, 0], [0, 0, 1]])
    weights = np.array([[2, 1, 1, 0], [4, 0, 0, 0]], float)
    # Genre 0: 2 hits of 3 true and 2 chosen, 4/5. Genre 1: 1 hit of 1 true and 2 chosen, 2/3.
    assert weighted_f1(labels, probabilities, weights)[0] == pytest.approx((4 / 5 + 2 / 3) / 2)
    # Genre 0 and 1 are ordered rightly in every pair: 0.8 and 0.3 against 0, 1 against 0.2 and 0.7.
    assert weighted_roc_auc(labels, probabilities, weights, np.zeros(4))[0] == 1
    assert np.isnan(weighted_roc_auc(labels, probabilities, weights, np.zeros(4))[1])


def test_roc_auc_of_folds_counts_only_pairs_of_one_model():
    labels = np.array([0, 1, 0, 1])
    first = np.array([0.9, 0.8, 0.2, 0.1])  # each fold alone is perfect; fold 1's probabilities are all lower
    probabilities = np.stack([first, 1 - first], axis=1)
    ones = np.ones((1, 4))
    assert weighted_roc_auc(labels, probabilities, ones, np.array([0, 0, 1, 1]))[0] == 1
    assert weighted_roc_auc(labels, probabilities, ones, np.zeros(4))[0] == pytest.approx(0.75)


def test_resamples_are_of_the_tracks_and_reproducible():
    weights = resample_tracks(30, 400, seed=1)
    assert (weights.sum(axis=1) == 30).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(30), abs=0.25)
    assert (weights == resample_tracks(30, 400, seed=1)).all()
    assert (weights != resample_tracks(30, 400, seed=2)).any()


def test_interval_agrees_with_scipy_bootstrap():
    correct = np.random.default_rng(0).random(200) < 0.7
    ours = percentile_interval(resample_tracks(200, 5000, seed=0) @ correct / 200)
    theirs = stats.bootstrap((correct,), np.mean, n_resamples=5000, method="percentile", rng=0).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.01)


def test_mcnemar_by_hand():
    first, second = np.array([1, 1, 1, 1, 0, 1, 0], bool), np.array([0, 0, 0, 0, 1, 1, 0], bool)
    # Of five tracks on which they differ, 4 to 1: twice (1 + 5) / 32.
    assert mcnemar_p(first, second) == pytest.approx(12 / 32)
    assert mcnemar_p(first, second) == mcnemar_p(second, first)
    assert mcnemar_p(first, first) == 1


def test_holm_by_hand():
    # In order .01 x 4, .02 x 3, .03 x 2, .04 x 1, each at least as large as the one before.
    assert correct_holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert correct_holm([0.5, 0.9]) == pytest.approx([1, 1])


def test_seed_variance_by_hand():
    pooled = pool_seed_variances([np.array([1.0, 3.0]), np.array([2.0, 2.0, 5.0]), np.array([7.0])])
    assert pooled == SeedVariance(variance=2 * (2 + 6) / 3, degrees=3)
    assert pool_seed_variances([np.array([1.0]), np.array([2.0])]) is None


def test_without_variance_over_tracks_it_is_the_t_test_of_the_seeds():
    per_seed = np.array([0.02, 0.05, 0.03, 0.06])
    result = compare_seeds(per_seed, np.full(10, 0.04), [], num_changed=100, num_tests=1)
    expected = stats.ttest_1samp(per_seed, 0)
    assert result.p == pytest.approx(expected.pvalue)
    assert (result.low, result.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_without_variance_over_seeds_it_is_the_normal_interval_of_the_tracks():
    resampled = np.random.default_rng(0).normal(0.1, 0.02, 5000)
    result = compare_seeds(np.array([0.1, 0.1]), resampled, [], num_changed=10**6, num_tests=1)
    assert (result.low, result.high) == pytest.approx((0.1 - 1.96 * 0.02, 0.1 + 1.96 * 0.02), abs=0.001)
    # Found in 80 % of repetitions: (1.96 + 0.84) standard errors.
    assert result.detectable == pytest.approx(2.80 * 0.02, rel=0.03)


def test_the_largest_variance_over_seeds_counts():
    per_seed, resampled = np.array([0.05, 0.05]), np.full(10, 0.05)
    lucky = compare_seeds(per_seed, resampled, [], num_changed=100, num_tests=1)
    pooled = [SeedVariance(0.0001, 6), SeedVariance(0.0018, 30)]
    honest = compare_seeds(per_seed, resampled, pooled, num_changed=100, num_tests=1)
    assert lucky.p < 0.001
    assert honest.p == pytest.approx(2 * stats.t.sf(0.05 / np.sqrt(0.0018 / 2), 6))


def test_few_tracks_cannot_give_a_small_p_value():
    # Three tracks, right in every run of one model and wrong in every run of the other: no chance left to estimate.
    result = compare_seeds(np.array([1.0, 1.0]), np.full(10, 1.0), [], num_changed=3, num_tests=1)
    assert result.p == pytest.approx(0.25)
    assert compare_seeds(np.zeros(2), np.zeros(10), [], num_changed=0, num_tests=1).p == 1


def test_two_runs_have_the_interval_over_tracks():
    resampled = np.random.default_rng(0).normal(0.1, 0.02, 5000)
    result = compare_runs(0.1, resampled, 0.03, num_tests=1)
    assert (result.low, result.high, result.p) == (*percentile_interval(resampled), 0.03)


WEIGHTS = np.vstack([np.ones(290), resample_tracks(290, 300, seed=0)])


def simulate(num_seeds, generator, *, lift=0.0, seed_sd=0.15, models=3, arms=4, tracks=290):
    """Right answers (models, arms, seeds, tracks); arm 0 is clean, the others are better by `lift`.

    Tracks differ in difficulty, an arm suits some tracks more than others, and a seed is good or bad as a whole
    (`seed_sd`, in logits: 0.15 gives a standard deviation of about 2.5 points over seeds, the tracks' noise included).
    """
    logits = generator.normal(1.5, 1.8, (models, 1, 1, tracks)) + generator.normal(0, 0.5, (models, arms, 1, tracks))
    logits = logits + seed_sd * generator.normal(size=(models, arms, num_seeds, 1))
    right = generator.random((models, arms, num_seeds, tracks)) < 1 / (1 + np.exp(-logits))
    wrong = ~right[:, 1:]
    right[:, 1:] |= wrong & (generator.random(wrong.shape) < lift / wrong.mean())
    return right


def make_table(right):
    """The report's table of runs with these right answers: two genres, every track of the first."""
    models, arms, num_seeds, num_tracks = right.shape
    cells = {
        (f"model {model}", f"arm {arm}"): [
            Replicate(seed, np.stack([answers, ~answers], axis=1).astype(float), np.zeros(num_tracks, int), ())
            for seed, answers in enumerate(right[model, arm])
        ]
        for model in range(models)
        for arm in range(arms)
    }
    tracks = tuple(f"track {index:03d}" for index in range(num_tracks))
    labels = np.zeros(num_tracks, int)
    return Table("filtered", None, None, (), ("rock", "other"), False, False, tracks, labels, cells)


def find_differences(right, weights):
    """Whether the report finds a difference, for every arm but arm 0, against arm 0 of the same model."""
    table = make_table(right)
    accuracy = resample_scores(table, "accuracy", weights)
    # Accuracy in place of ROC-AUC, which costs 100 times as much and decides about no verdict.
    comparisons = compare_arms(table, "arm 0", {"accuracy": accuracy, "roc_auc": accuracy})
    assert len(comparisons) == 9
    return np.array([comparison.verdict != NO_DIFFERENCE for comparison in comparisons])


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
@pytest.mark.parametrize("seed_sd", [0.0, 0.15, 0.6])
def test_without_a_difference_at_most_5_percent_of_studies_find_one(num_seeds, seed_sd):
    generator = np.random.default_rng(num_seeds)
    found = [find_differences(simulate(num_seeds, generator, seed_sd=seed_sd), WEIGHTS).any() for _ in range(120)]
    assert np.mean(found) <= 0.05


def test_a_difference_of_8_points_is_found_in_most_studies():
    generator = np.random.default_rng(0)
    found = [find_differences(simulate(5, generator, lift=0.08), WEIGHTS).mean() for _ in range(60)]
    assert np.mean(found) > 0.75


def test_the_planned_difference_by_hand():
    # Variance over tracks and over seeds 0.2 / 300 / 3 each; of both, 4 / (1 / 6 + 1 / 59) degrees of freedom.
    degrees, error = 4 / (1 / 6 + 1 / 59), np.sqrt(2 * 0.2 / 300 / 3)
    expected = (stats.t.isf(0.025 / 6, degrees) + stats.t.isf(0.2, degrees)) * error
    assert plan_detectable(300, 3, 0.2, num_arms=3, num_tests=6) == pytest.approx(expected)
    # One run per arm: tracks only, and the normal distribution.
    expected = (1.95996 + 0.84162) * np.sqrt(0.2 / 300)
    assert plan_detectable(300, 1, 0.2, num_arms=2, num_tests=1) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_the_planned_difference_is_what_the_report_will_say(num_seeds):
    generator = np.random.default_rng(num_seeds)
    said, disagreements = [], []
    for _ in range(10):
        right = simulate(num_seeds, generator, seed_sd=0.0, arms=3)
        table = make_table(right)
        accuracy = resample_scores(table, "accuracy", WEIGHTS)
        comparisons = compare_arms(table, "arm 0", {"accuracy": accuracy, "roc_auc": accuracy})
        said += [comparison.accuracy.detectable for comparison in comparisons]
        disagreements.append(np.mean(right[:, 1:] != right[:, :1]))
    planned = plan_detectable(290, num_seeds, np.mean(disagreements), num_arms=3, num_tests=6)
    assert planned == pytest.approx(np.mean(said), rel=0.25)
