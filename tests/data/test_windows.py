"""Random windows must be random, reproducible under any number of workers, and free of padding."""

import datasets
import numpy as np
import pytest
import torch

from hf_utils.audio import from_pcm16
from hf_utils.data.visits import VisitPlan
from hf_utils.data.window_lengths import WindowLengths
from hf_utils.data.windows import EvaluationWindows, TrainingWindows

WINDOW_SAMPLES = 100


@pytest.fixture
def clips(tmp_path):
    """Five clips whose samples count upwards from a number of their own, so that a window tells where it is from."""
    lengths = [1000, 150, 100, 30, 400]
    path = tmp_path / "pcm"
    ramps = [np.arange(n, dtype="<i2") + 2000 * i for i, n in enumerate(lengths)]
    path.write_bytes(np.concatenate(ramps).tobytes())
    return datasets.Dataset.from_dict(
        {
            "track_id": [f"t{i}" for i in range(5)],
            "label": [0, 1, 0, 1, 2],
            "num_samples": lengths,
            "pcm_path": [str(path)] * 5,
            "pcm_offset": [int(o) for o in np.cumsum([0] + lengths[:-1]) * 2],
            "pcm_gain": [1.0] * 5,
        }
    )


def samples_as_integers(samples: np.ndarray) -> np.ndarray:
    return np.round(samples * 32768).astype(int)


def draw_epoch(windows, epoch: int, num_workers: int) -> list[np.ndarray]:
    windows.set_epoch(epoch)
    loader = torch.utils.data.DataLoader(windows, batch_size=2, num_workers=num_workers, collate_fn=list)
    return [window["samples"] for batch in loader for window in batch]


def test_windows_are_the_same_under_any_number_of_workers_and_differ_between_epochs(clips):
    windows = TrainingWindows(clips, WINDOW_SAMPLES, seed=7)
    alone, workers = draw_epoch(windows, 3, 0), draw_epoch(windows, 3, 2)
    assert all(np.array_equal(a, b) for a, b in zip(alone, workers, strict=True))
    assert not np.array_equal(alone[0], draw_epoch(windows, 4, 0)[0])


def test_mixed_windows_come_with_a_window_of_the_epoch_in_any_batch(clips):
    plan = VisitPlan(per_track=2, mixup_alpha=0.4)
    windows, plain = (TrainingWindows(clips, WINDOW_SAMPLES, seed=7, plan=p) for p in (plan, VisitPlan(per_track=2)))
    together, alone = windows.__getitems__(range(10)), [windows[i] for i in range(10)]
    unmixed = {window["seed"]: window for window in plain.__getitems__(range(10))}
    assert len(unmixed) == 10
    for one, other in zip(together, alone, strict=True):
        assert one["share"] == other["share"] and one["partner"]["seed"] == other["partner"]["seed"] != one["seed"]
        for window in (one, one["partner"]):
            expected = unmixed[window["seed"]]
            assert np.array_equal(window["samples"], expected["samples"]) and window["label"] == expected["label"]
    assert windows.varying_option and TrainingWindows(clips, 100, seed=7, grid=True, plan=plan).varying_option
    assert draw_epoch(windows, 1, 0)[3].tolist() == draw_epoch(windows, 1, 2)[3].tolist()


def test_a_window_depends_on_its_track_and_not_on_its_place(clips):
    whole = TrainingWindows(clips, WINDOW_SAMPLES, seed=7)
    part = TrainingWindows(clips.select([4, 0]), WINDOW_SAMPLES, seed=7)
    assert np.array_equal(whole[4]["samples"], part[0]["samples"])
    assert whole[4]["seed"] == part[0]["seed"] != whole[0]["seed"]


def test_starts_spread_over_the_whole_clip(clips):
    windows = TrainingWindows(clips, WINDOW_SAMPLES, seed=0)
    starts = []
    for epoch in range(2000):
        windows.set_epoch(epoch)
        starts.append(samples_as_integers(windows[0]["samples"])[0])
    # 901 possible starts; 2000 uniform draws: the mean is within 5 standard errors, and both ends are visited.
    assert abs(np.mean(starts) - 450) < 5 * 260 / np.sqrt(2000)
    assert min(starts) < 10 and max(starts) > 890


def test_windows_are_whole_and_in_place(clips):
    for index, window in enumerate(TrainingWindows(clips, WINDOW_SAMPLES, seed=1)[i] for i in (0, 1, 2)):
        values = samples_as_integers(window["samples"])
        assert np.array_equal(np.diff(values), np.ones(WINDOW_SAMPLES - 1)), "not one stretch of the clip"
        assert 2000 * index <= values[0] <= 2000 * index + clips["num_samples"][index] - WINDOW_SAMPLES


def test_a_short_clip_is_repeated_in_training_and_evaluation(clips):
    expected = from_pcm16(np.tile(np.arange(30, dtype=np.int16) + 6000, 4)[:WINDOW_SAMPLES])
    assert np.array_equal(TrainingWindows(clips, WINDOW_SAMPLES, seed=0)[3]["samples"], expected)
    evaluation = EvaluationWindows(clips, WINDOW_SAMPLES, 50)
    assert np.array_equal(evaluation[int(np.flatnonzero(evaluation.track_index == 3)[0])]["samples"], expected)


def test_evaluation_covers_every_sample_of_every_track(clips):
    windows = EvaluationWindows(clips, WINDOW_SAMPLES, 60)
    seen = {name: set() for name in windows.track_ids}
    for i in range(len(windows)):
        seen[windows.track_ids[windows.track_index[i]]].update(samples_as_integers(windows[i]["samples"]).tolist())
    for index, clip in enumerate(clips):
        assert seen[clip["track_id"]] == set(range(2000 * index, 2000 * index + clip["num_samples"]))
    assert windows.labels.tolist() == [0, 1, 0, 1, 2]


def test_a_transform_sees_the_windows_seed(clips):
    calls = []
    windows = TrainingWindows(clips, WINDOW_SAMPLES, seed=0, transform=lambda x, seed: calls.append(seed) or -x)
    plain = TrainingWindows(clips, WINDOW_SAMPLES, seed=0)
    assert np.array_equal(windows[1]["samples"], -plain[1]["samples"])
    assert calls == [plain[1]["seed"]]


@pytest.mark.parametrize(
    ("num_short", "told"), [(0, []), (7, ["7 of 20 clips", "window of 10.24 s", "--window_seconds"])]
)
def test_clips_shorter_than_the_window_are_told_of(num_short, told, caplog):
    WindowLengths(16_000, 163_840, 81_920).warn_of_short(num_short, 20)
    assert bool(caplog.messages) == bool(told) and all(words in caplog.text for words in told)
