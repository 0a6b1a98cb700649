"""The plan is balanced and fixed by the seed; faulty clips are made again, and no other clip changes for them."""

import json
from collections import Counter

import numpy as np
import psutil
import pytest
import torch

from hf_utils import audio
from hf_utils.data.shards import open_shards
from hf_utils.generation.generators import GeneratorCheckpoint
from hf_utils.generation.plan import Recipe, clip_features
from hf_utils.generation.prompts import load_prompts
from hf_utils.generation.sampling import Sampling
from hf_utils.generation.synthesis import BatchError, BatchMaker, replace_duplicates, write_batches
from hf_utils.generation.synthetic_card import describe_dataset

RATE, NATIVE_RATE = 16000, 32000


def make_recipe(**changes) -> Recipe:
    genres = changes.pop("genres", ["blues", "jazz", "rock"])
    values = {
        "checkpoint": GeneratorCheckpoint("some/Tiny Model", "musicgen", "abc"),
        "sampling": Sampling(changes.pop("clip_seconds", 1.0), 0.0, 3.0, top_k=250, temperature=1.0, tokens=53),
        "dtype": "fp32",
        "genres": genres,
        "prompts": load_prompts(None, genres),
        "clips_per_genre": 4,
        "batch_size": 5,
        "seed": 1,
        "max_attempts": 3,
        "sample_rate": RATE,
        "rms_db": -20.0,
    }
    return Recipe(**(values | changes))


class NoiseGenerator:
    """Bursts of noise that depend on the batch's seed and the row; `spoil(call, audio)` may change them."""

    sample_rate, dtype = NATIVE_RATE, torch.float32

    def __init__(self, spoil=lambda call, audio: None, seconds=1.0):
        self.spoil, self.seconds, self.calls = spoil, seconds, []

    def generate(self, prompts, seed, continued=None):
        self.calls.append((list(prompts), seed))
        generator = np.random.default_rng(seed)
        num_samples = round(self.seconds * NATIVE_RATE)
        heard = generator.normal(0, 0.05, (len(prompts), 2, num_samples)).astype(np.float32)
        heard *= 1 + generator.random((len(prompts), 1, 50)).repeat(num_samples // 50, axis=2).astype(np.float32)
        self.spoil(len(self.calls) - 1, heard)
        return heard + np.float32(0.1)


def make_maker(recipe: Recipe, spoil=lambda call, audio: None) -> BatchMaker:
    return BatchMaker(recipe, NoiseGenerator(spoil, recipe.sampling.clip_seconds), {"torch": "1"})


def test_genres_are_balanced_and_every_clip_is_in_one_batch():
    recipe = make_recipe()
    indices = [index for batch in range(recipe.num_batches) for index in recipe.batch_indices(batch)]
    assert indices == list(range(12)) and recipe.num_batches == 3
    clips = [recipe.describe_clip(index) for index in indices]
    assert Counter(clip["label"] for clip in clips) == {0: 4, 1: 4, 2: 4}
    assert len({clip["track_id"] for clip in clips}) == 12
    assert clips[7]["track_id"] == "tiny-model-1-000007"
    assert len({clip["prompt"] for clip in clips}) == 12


def test_a_clip_depends_on_seed_and_batch_size_but_not_on_what_else_is_made():
    def sounds(**changes):
        maker = make_maker(make_recipe(**changes))
        return [row["sha256"] for row in maker.make(1)]

    assert sounds() == sounds(clips_per_genre=10)
    assert not set(sounds()) & set(sounds(seed=2))
    assert not set(sounds()) & set(sounds(batch_size=4))


def test_a_finished_clip_is_exact():
    maker = make_maker(make_recipe())
    rows = maker.make(0)
    features = clip_features(["blues", "jazz", "rock"])
    assert all(set(row) == set(features) for row in rows)
    for row in rows:
        samples, rate = audio.decode(row["audio"]["bytes"])
        assert (samples.size, rate) == (RATE, RATE)
        assert audio.hash_samples(samples) == row["sha256"]
        assert audio.rms_db(samples) == pytest.approx(-20, abs=0.05)
        assert abs(samples.mean()) < 1e-3  # the generator's offset of 0.1 is gone
        assert row["origin"] == "synthetic" and row["parent_id"] is None and row["rejected"] is None
        assert (row["batch"], row["batch_size"], row["attempt"], row["source_rate"]) == (0, 5, 0, NATIVE_RATE)
    assert [row["batch_row"] for row in rows] == list(range(5))


def spoiler(reason: str, rows, calls):
    def spoil(call, heard):
        if call in calls:
            for row in rows:
                if reason == "silent":
                    heard[row] *= 1e-5
                elif reason == "not finite":
                    heard[row, 0, 7] = np.nan
                elif reason == "near duplicate":
                    heard[row] = heard[0] * 0.5
                elif reason == "long silence":
                    heard[row, :, NATIVE_RATE // 4 :] = 0

    return spoil


@pytest.mark.parametrize("reason", ["silent", "not finite", "near duplicate", "long silence"])
def test_a_rejected_clip_is_made_again_with_the_next_seed_and_no_other_changes(reason):
    recipe = make_recipe()
    sound = make_maker(recipe).make(0)
    spoilt = spoiler(reason, rows=[3], calls=[0])
    maker = make_maker(recipe, spoilt)
    rows = maker.make(0)
    assert [a["sha256"] == b["sha256"] for a, b in zip(rows, sound, strict=True)] == [True, True, True, False, True]
    assert json.loads(rows[3]["rejected"]) == [reason] and rows[3]["attempt"] == 1
    assert rows[3]["prompt"] == sound[3]["prompt"] and rows[3]["seed"] != sound[3]["seed"]
    (_, first_seed), (again, second_seed) = maker._generator.calls
    assert again == [sound[3]["prompt"]] and first_seed != second_seed
    assert make_maker(recipe, spoilt).make(0) == rows


def test_a_clip_that_fails_every_attempt_stops_its_batch_with_the_reasons(tmp_path):
    recipe = make_recipe()
    maker = make_maker(recipe, spoiler("silent", rows=[-1], calls=range(99)))
    with pytest.raises(BatchError, match=r"Batch 0.*3 attempts.*\n.*tiny-model-1-000004.*silent, silent"):
        maker.make(0)
    # Only the first batch that is made: the others are written all the same.
    maker = make_maker(recipe, spoiler("silent", rows=[0], calls=range(3)))
    shards = open_shards(tmp_path / "d", {}, {"train": recipe.num_batches})
    with pytest.raises(BatchError, match="Batch 0"):
        write_batches(shards, recipe, maker, range(3), show_progress=False)
    assert shards.missing() == [0]


def test_a_clip_that_repeats_another_batch_is_made_again(tmp_path):
    recipe = make_recipe()

    heard_first = []

    def repeat(call, heard):
        if call == 0:
            heard_first.append(heard[1].copy())
        if call == 2:
            heard[0] = heard_first[0]

    shards, maker = open_shards(tmp_path / "d", {}, {"train": recipe.num_batches}), make_maker(recipe, repeat)
    write_batches(shards, recipe, maker, range(3), show_progress=False)
    before = shards.read(["sha256", "track_id"]).to_pylist()
    assert before[1]["sha256"] == before[10]["sha256"]
    assert replace_duplicates(shards, recipe, lambda: maker) == 1
    after = shards.read(["sha256", "track_id", "rejected", "attempt"]).to_pylist()
    assert [row["track_id"] for row in after] == [row["track_id"] for row in before]
    changed = [index for index in range(12) if after[index]["sha256"] != before[index]["sha256"]]
    assert changed == [10] and json.loads(after[10]["rejected"]) == ["duplicate"] and after[10]["attempt"] == 1
    assert replace_duplicates(shards, recipe, lambda: pytest.fail("nothing repeats, so nothing is loaded")) == 0


def test_the_card_counts_what_was_rejected_and_states_licence_and_lack_of_vocals():
    recipe = make_recipe(clips_per_genre=1)
    rows = make_maker(recipe, spoiler("silent", rows=[2], calls=[0])).make(0)
    config = {"model": "Tiny", "continue_from": None, "seed": 1, "versions": {"torch": "1"}, "shards": {}}
    card = describe_dataset(recipe, rows, config, {"dataset_name": "me/real"}, "me/data")
    assert "license: cc-by-nc-4.0" in card and "not for commercial use" in card and "No vocals" in card
    assert "Rejected and made again: silent 1. All 3 clips that were kept passed." in card
    assert "| rock | 1 | 0.0 | 1 |" in card and rows[1]["prompt"][:20] in card


def test_memory_does_not_grow_with_the_number_of_clips(tmp_path):
    recipe = make_recipe(clips_per_genre=20, batch_size=2, clip_seconds=10.0)
    shards = open_shards(tmp_path / "d", {}, {"train": recipe.num_batches})
    maker, process = make_maker(recipe), psutil.Process()
    write_batches(shards, recipe, maker, range(5), show_progress=False)
    before = process.memory_info().rss
    write_batches(shards, recipe, maker, range(5, 30), show_progress=False)
    # 50 clips are 32 MB as float32 and 14 MB as FLAC.
    assert process.memory_info().rss - before < 12e6
