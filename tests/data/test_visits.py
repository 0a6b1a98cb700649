"""Visits of an epoch: the windows of before, every visit another, genres equally often, partners of any batch."""

from collections import Counter

import numpy as np
import pytest

from hf_utils.data.visits import VisitPlan
from hf_utils.seeding import derive_seed

# Five tracks of one genre, two of each of the others.
CLIPS = [{"track_id": f"t{i}", "label": label} for i, label in enumerate([4, 0, 4, 4, 1, 0, 4, 1, 4])]


def labels_of(visits):
    return Counter(CLIPS[visit.clip]["label"] for visit in visits)


def test_one_visit_of_each_track_has_the_seeds_of_before():
    visits = VisitPlan().list_visits(CLIPS, 7, 3)
    assert visits == [(clip, derive_seed(7, 3, f"t{clip}")) for clip in range(9)]


@pytest.mark.parametrize("balanced", [False, True])
def test_every_visit_has_a_seed_of_its_own(balanced):
    plan = VisitPlan(per_track=3, balanced=balanced)
    seeds = [visit.seed for epoch in (0, 1) for visit in plan.list_visits(CLIPS, 7, epoch)]
    assert len(set(seeds)) == len(seeds) == 2 * 27
    if not balanced:
        assert plan.list_visits(CLIPS, 7, 0)[:9] == VisitPlan().list_visits(CLIPS, 7, 0)


def test_balanced_epochs_by_hand():
    """Nine visits are three per genre: three of five tracks; of two tracks, one twice. In every epoch it is others."""
    seen, twice = set(), set()
    for epoch in range(12):
        visits = VisitPlan(balanced=True).list_visits(CLIPS, 7, epoch)
        assert labels_of(visits) == {4: 3, 0: 3, 1: 3}
        counts = Counter(visit.clip for visit in visits)
        assert all(counts[clip] <= 1 for clip, row in enumerate(CLIPS) if row["label"] == 4)
        assert sorted(counts[clip] for clip in (1, 5)) == sorted(counts[clip] for clip in (4, 7)) == [1, 2]
        seen |= counts.keys()
        twice |= {clip for clip, count in counts.items() if count == 2}
    assert seen == set(range(9)) and twice == {1, 5, 4, 7}
    assert labels_of(VisitPlan(per_track=2, balanced=True).list_visits(CLIPS[:8], 7, 0)) == {4: 5, 0: 5, 1: 5}


def test_balanced_visits_do_not_depend_on_the_order_of_the_tracks():
    turned = CLIPS[::-1]
    plans = [VisitPlan(per_track=2, balanced=True).list_visits(clips, 7, 1) for clips in (CLIPS, turned)]
    one, other = ({(c[v.clip]["track_id"], v.seed) for v in p} for c, p in zip((CLIPS, turned), plans, strict=True))
    assert one == other


def test_the_only_window_of_an_epoch_is_its_own_partner():
    plan = VisitPlan(mixup_alpha=0.4)
    assert plan.draw_partner(0, plan.list_visits(CLIPS[:1], 7, 0))[0] == 0


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_partners_are_any_other_window_and_shares_follow_beta(alpha):
    """Beta(alpha, alpha) has the mean 1/2 and the variance 1 / (4 (2 alpha + 1))."""
    plan, partners, shares = VisitPlan(mixup_alpha=alpha), Counter(), []
    for epoch in range(400):
        visits = plan.list_visits(CLIPS, 7, epoch)
        drawn = [plan.draw_partner(number, visits) for number in range(9)]
        partners.update((number - partner) % 9 for number, (partner, _) in enumerate(drawn))
        shares += [share for _, share in drawn]
    assert partners.keys() == set(range(1, 9)) and max(partners.values()) < 1.3 * min(partners.values())
    assert np.mean(shares) == pytest.approx(0.5, abs=0.02)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.06)
