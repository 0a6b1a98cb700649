"""Model inputs: exact keys, masks that depend on the window's seed, statistics of the training split by hand."""

import copy

import numpy as np
import pytest
import tiny_models
import torch
import torchaudio

from hf_utils.data.clips import load_clips
from hf_utils.data.waveforms import decode_clips, read_samples
from hf_utils.errors import UserError
from hf_utils.models.families import window_samples_for
from hf_utils.models.feature_stats import fit_feature_stats, wants_training_stats
from hf_utils.models.features import (
    SpecAugment,
    WindowCollator,
    clip_windows,
    make_spec_augment,
    run_windows,
)

GENRES = ["blues", "hiphop", "rock"]
SMALL = {"n_fft": 512, "hop_length": 256, "num_mel_bins": 32}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """(model, extractor) by family, for windows of 1 s."""

    def load(name, **options):
        return tiny_models.load(tiny_models.saved(name, tmp_path_factory), GENRES, **options)

    return {
        "ast": load("ast"),
        "hubert": load("hubert"),
        "wav2vec2": load("wav2vec2"),
        "convnext": load("convnext", spectrogram=SMALL),
        "musicnn": load("musicnn"),
    }


def make_windows(num_samples: int, seeds=(1, 2)) -> list[dict]:
    noise = np.random.default_rng(0).normal(0, 0.1, (len(seeds), num_samples)).astype(np.float32)
    return [{"samples": row, "label": i, "seed": seed} for i, (row, seed) in enumerate(zip(noise, seeds, strict=True))]


@pytest.mark.parametrize("family", ["ast", "hubert", "wav2vec2", "convnext", "musicnn"])
def test_inputs_are_the_main_input_and_the_labels(loaded, family):
    """No attention mask: windows have one length, and AST takes none."""
    model, extractor = loaded[family]
    if family == "convnext":
        extractor.mean, extractor.std = 0.0, 1.0
    windows = make_windows(window_samples_for(model.config, extractor, 1.0))
    batch = WindowCollator(extractor)(windows)
    assert batch.keys() == {"input_values", "labels"}
    assert batch["labels"].tolist() == [0, 1] and len(batch["input_values"]) == 2
    assert model(**batch).logits.shape == (2, 3)


@pytest.mark.parametrize("family", ["ast", "convnext"])
def test_training_windows_are_masked_by_their_seed_and_evaluated_ones_never(loaded, family):
    model, extractor = loaded[family]
    if family == "convnext":
        extractor.mean, extractor.std = 0.0, 1.0
    window_samples = window_samples_for(model.config, extractor, 1.0)
    masks = make_spec_augment(model.config, extractor, window_samples, time_seconds=0.3, frequency_bins=8)
    plain = WindowCollator(extractor)(make_windows(window_samples))["input_values"]
    state = torch.random.get_rng_state()
    masked = WindowCollator(extractor, spec_augment=masks)(make_windows(window_samples))["input_values"]
    assert torch.equal(state, torch.random.get_rng_state()), "the model's own randomness was disturbed"
    again = WindowCollator(extractor, spec_augment=masks)(make_windows(window_samples)[::-1])["input_values"]
    assert torch.equal(masked[0], again[1]) and torch.equal(masked[1], again[0])
    hidden = (masked == 0) & (plain != 0)
    assert hidden.any() and torch.equal(masked[~hidden], plain[~hidden])
    # A mask is a band over the whole other axis.
    frames = hidden[0] if family == "ast" else hidden[0, 0].T
    assert frames.all(dim=0).sum() <= 8 and frames.all(dim=1).sum() <= 0.3 * len(frames) + 1
    unseeded = make_windows(window_samples, seeds=(None, None))
    assert torch.equal(WindowCollator(extractor, spec_augment=masks)(unseeded)["input_values"], plain)


@pytest.mark.parametrize("family", ["ast", "hubert", "convnext"])
def test_mixed_windows_have_shares_of_masked_features_and_of_genres(loaded, family):
    model, extractor = loaded[family]
    if family == "convnext":
        extractor.mean, extractor.std = 0.0, 1.0
    masks = {}
    if family != "hubert":
        masks["spec_augment"] = make_spec_augment(model.config, extractor, 16000, time_seconds=0.3, frequency_bins=8)
    windows = make_windows(16000, seeds=(1, 2, 3))
    collate = WindowCollator(extractor, num_genres=3, **masks)
    plain = collate(windows)["input_values"]
    mixed = [{**windows[0], "partner": windows[1], "share": 0.75}, {**windows[2], "partner": windows[0], "share": 0.1}]
    batch = collate(mixed)
    torch.testing.assert_close(batch["input_values"][0], 0.75 * plain[0] + 0.25 * plain[1])
    torch.testing.assert_close(batch["input_values"][1], 0.1 * plain[2] + 0.9 * plain[0])
    torch.testing.assert_close(batch["labels"], torch.tensor([[0.75, 0.25, 0], [0.9, 0, 0.1]]))
    torch.testing.assert_close(collate(mixed[1:])["input_values"][0], batch["input_values"][1])


def test_whether_masks_are_zero_is_the_extractors_to_say(loaded):
    model, extractor = loaded["ast"]
    extractor = copy.copy(extractor)
    for extractor.do_normalize in (True, False):
        masks = make_spec_augment(model.config, extractor, 16000, time_seconds=0.3, frequency_bins=8)
        assert masks.is_normalised == extractor.do_normalize


def test_masks_reach_every_place_and_width(loaded):
    mask = SpecAugment(time_axis=0, frequency_axis=1, time_frames=4, frequency_bins=0)
    hits, widths = torch.zeros(20), set()
    for seed in range(300):
        hidden = (mask(torch.ones(1, 20, 6), [seed])[0] == 0).all(dim=1)
        hits += hidden
        widths.add(int(hidden.sum()))
    assert widths == {0, 1, 2, 3} and (hits[1:-1] > 0).all()


def test_features_that_are_not_normalised_are_masked_with_the_mean_of_their_window(loaded):
    """Zero would be silence, not the mean."""
    model, extractor = loaded["musicnn"]
    masks = make_spec_augment(model.config, extractor, 8000, time_seconds=0.3, frequency_bins=8)
    plain = WindowCollator(extractor)(make_windows(8000))["input_values"]
    masked = WindowCollator(extractor, spec_augment=masks)(make_windows(8000))["input_values"]
    changed = masked != plain
    assert changed[0].any() and (masked[0][changed[0]] == plain[0].mean()).all()
    assert changed[0].all(dim=0).sum() <= 8 and changed[0].all(dim=1).sum() <= 10


@pytest.mark.parametrize(("shape", "axes"), [((5, 40, 16), (0, 1)), ((5, 2, 16, 40), (2, 1))])
@pytest.mark.parametrize(("time_frames", "frequency_bins"), [(9, 5), (9, 0), (0, 5)])
def test_masks_are_those_of_torchaudio_and_leave_other_draws_alone(shape, axes, time_frames, frequency_bins):
    features, seeds = torch.randn(shape) + 10, [3, None, 2**63, 7, 8]
    before = torch.get_rng_state()
    masked = SpecAugment(*axes, time_frames, frequency_bins)(features, seeds)
    assert torch.equal(torch.get_rng_state(), before)
    for found, window, seed in zip(masked, features, seeds, strict=True):
        if seed is not None:
            torch.manual_seed(seed)
            for axis, width in zip(axes, (time_frames, frequency_bins), strict=True):
                if width:
                    window = torchaudio.functional.mask_along_axis(window, width, 0.0, axis)
        assert torch.equal(found, window)


def test_masks_are_refused_where_there_is_no_spectrogram_or_nothing_would_be_left(loaded):
    model, extractor = loaded["hubert"]
    with pytest.raises(UserError, match="mask_time_prob"):
        make_spec_augment(model.config, extractor, 16000, time_seconds=0.1, frequency_bins=0)
    model, extractor = loaded["ast"]
    with pytest.raises(UserError, match="--spec_augment_freq_bins.*32 of 32"):
        make_spec_augment(model.config, extractor, 16240, time_seconds=0, frequency_bins=32)
    assert make_spec_augment(model.config, extractor, 16240, time_seconds=0, frequency_bins=0) is None


@pytest.mark.parametrize("family", ["ast", "convnext"])
def test_feature_statistics_are_those_of_all_training_windows(loaded, family, genre_folder):
    model, extractor = loaded[family]
    clips = decode_clips(load_clips(str(genre_folder)), extractor.sampling_rate)
    window_samples = window_samples_for(model.config, extractor, 1.0)
    fit_feature_stats(extractor, clips, window_samples)
    values = []
    extractor.do_normalize = False
    for clip in clips:
        samples = read_samples(clip)
        starts = [*range(0, len(samples) - window_samples, window_samples), max(0, len(samples) - window_samples)]
        for start in sorted(set(starts)):
            window = np.resize(samples[start : start + window_samples], window_samples)
            features = extractor([window], sampling_rate=extractor.sampling_rate, return_tensors="pt")
            values.append(features["input_values"].double())
    extractor.do_normalize = True
    values = torch.cat(values)
    assert extractor.mean == pytest.approx(values.mean().item(), abs=1e-4)
    assert extractor.std == pytest.approx(values.std(correction=0).item(), abs=1e-4)


def test_which_statistics_are_used(loaded, tmp_path_factory):
    _, new_cnn = tiny_models.load(tiny_models.saved("convnext", tmp_path_factory), spectrogram=SMALL)
    ast, hubert = loaded["ast"][1], loaded["hubert"][1]
    assert wants_training_stats(new_cnn, "auto", do_train=True)
    assert not wants_training_stats(ast, "auto", do_train=True)
    assert wants_training_stats(ast, "train", do_train=True)
    assert not wants_training_stats(hubert, "auto", do_train=True)
    for extractor, option, do_train in (
        (hubert, "train", True),
        (new_cnn, "checkpoint", True),
        (new_cnn, "auto", False),
    ):
        with pytest.raises(UserError, match="feature_stats"):
            wants_training_stats(extractor, option, do_train=do_train)


@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_windows_run_through_the_model_in_batches_of_any_size(loaded, batch_size):
    model, extractor = loaded["hubert"]
    clip = np.random.default_rng(0).normal(0, 0.1, 5 * 8000 + 99).astype(np.float32)
    windows = clip_windows(extractor, clip, 16000, 16000)
    # Half overlapping, and the last one ends where the clip ends.
    starts = [0, 8000, 16000, 24000, len(clip) - 16000]
    assert len(windows) == len(starts) and np.array_equal(windows[4], clip[24099:])
    outputs = run_windows(model, extractor, iter(windows), batch_size=batch_size)
    with torch.no_grad():
        for row, start in zip(outputs, starts, strict=True):
            features = extractor(clip[start : start + 16000], sampling_rate=16000, return_tensors="pt").input_values
            torch.testing.assert_close(row, model(features).logits[0], rtol=1e-4, atol=1e-5)


def test_clips_at_another_rate_are_resampled(loaded):
    _, extractor = loaded["hubert"]
    clip = np.random.default_rng(0).normal(0, 0.1, 22050 * 2).astype(np.float32)
    windows = clip_windows(extractor, clip, 22050, 16000)
    assert [len(window) for window in windows] == [16000] * 3
