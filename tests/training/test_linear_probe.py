"""Training on cached embeddings is training on the windows: same losses, same weights, whatever the family."""

import numpy as np
import pytest
import tiny_models
import torch
from transformers import set_seed

from hf_utils.arguments.data import DataArguments
from hf_utils.arguments.training import ClassificationTrainingArguments
from hf_utils.audio import window_starts
from hf_utils.data.clips import genre_names, load_clips
from hf_utils.data.visits import VisitPlan
from hf_utils.data.waveforms import decode_clips
from hf_utils.data.windows import EvaluationWindows, TrainingWindows
from hf_utils.errors import UserError
from hf_utils.models.families import window_samples_for
from hf_utils.models.feature_stats import fit_feature_stats, wants_training_stats
from hf_utils.models.features import SpecAugment, WindowCollator
from hf_utils.models.freezing import freeze
from hf_utils.models.heads import find_standardization
from hf_utils.training.linear_probe import Head, choose_trainer, compute_embeddings, load_embeddings
from hf_utils.training.trainer import GenreTrainer

WINDOW_SECONDS = 0.5
KINDS = {
    "ast": (tiny_models.save_ast, {}),
    "hubert": (tiny_models.save_hubert, {}),
    "wavlm-mlp": (tiny_models.save_wavlm, {"head": "mlp"}),
    "hubert-layers": (
        tiny_models.save_hubert,
        {"feature_layer": "all", "head_pooling": "mean_max", "standardize_features": True},
    ),
    "musicnn-mlp": (tiny_models.save_musicnn, {"head": "mlp", "head_hidden_size": 8, "standardize_features": True}),
    "resnet-mlp": (
        tiny_models.save_timm_resnet,
        {"head": "mlp", "spectrogram": {"n_fft": 512, "hop_length": 256, "num_mel_bins": 32}},
    ),
}


MORE = {"plan": VisitPlan(per_track=2, balanced=True), "head_learning_rate": 3e-2, "average_weights": "ema"}


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    save, options = KINDS[request.param]
    return save(tmp_path_factory.mktemp(request.param) / "model"), options


def make_trainer(kind, folder, output_dir, *, mode="backbone", grid=True, spec_augment=None, plan=None, **options):
    """Return a trainer of windows of 0.5 s, the decoded clips and the length of a window in samples."""
    checkpoint, model_options = kind
    options = {"num_train_epochs": 3, "per_device_train_batch_size": 5, "learning_rate": 1e-2, "seed": 5} | options
    args = ClassificationTrainingArguments(
        output_dir=str(output_dir),
        use_cpu=True,
        precision="fp32",
        report_to="none",
        dataloader_num_workers=0,
        **options,
    )
    set_seed(args.seed)
    clips = load_clips(str(folder))
    model, extractor = tiny_models.load(checkpoint, genre_names(clips), window_seconds=WINDOW_SECONDS, **model_options)
    freeze(model, mode)
    decoded = decode_clips(clips, extractor.sampling_rate)
    window_samples = window_samples_for(model.config, extractor, WINDOW_SECONDS)
    if wants_training_stats(extractor, "auto", do_train=True):
        fit_feature_stats(extractor, decoded, window_samples)
    trainer = GenreTrainer(
        model=model,
        args=args,
        genres=genre_names(clips),
        train_dataset=TrainingWindows(decoded, window_samples, seed=args.seed, grid=grid, plan=plan),
        eval_dataset=EvaluationWindows(decoded, window_samples, window_samples // 2),
        data_collator=WindowCollator(extractor, spec_augment=spec_augment),
        processing_class=extractor,
    )
    return trainer, decoded, window_samples


def losses(trainer) -> list[float]:
    return [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]


def trainer_of(made, cache_dir, option="auto"):
    return choose_trainer(*made, DataArguments(cache_embeddings=option, waveform_cache_dir=str(cache_dir)))


@pytest.mark.parametrize("more", [{}, MORE])
def test_cached_training_gives_the_losses_and_the_model_of_the_slow_path(kind, more, genre_folder, tmp_path):
    slow = trainer_of(make_trainer(kind, genre_folder, tmp_path / "slow", **more), tmp_path / "cache", "never")
    slow.train()
    made = make_trainer(kind, genre_folder, tmp_path / "fast", **more)
    fast = made[0]
    trainer = trainer_of(made, tmp_path / "cache")
    assert isinstance(trainer.model, Head)
    before = {name: tensor.clone() for name, tensor in fast.model.state_dict().items()}
    trainer.train()
    assert len(losses(slow)) == 3 and losses(trainer) == pytest.approx(losses(slow), abs=1e-5)
    assert trainer.state.best_metric == slow.state.best_metric
    for name, tensor in slow.model.state_dict().items():
        torch.testing.assert_close(fast.model.state_dict()[name], tensor, rtol=0, atol=1e-5)
    moved = [name for name, tensor in fast.model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert moved and not any(name.startswith(fast.model.base_model_prefix + ".") for name in moved)
    # The whole model, evaluated on its windows, is what the head alone was on its embeddings.
    whole, alone = (t.evaluate_set(fast.eval_dataset, "validation") for t in (fast, trainer))
    np.testing.assert_allclose(whole.probabilities, alone.probabilities, atol=1e-5)
    fast.save_model(str(tmp_path / "saved"))
    again, _ = tiny_models.load(tmp_path / "saved", None, window_seconds=None)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, fast.model.state_dict()[name])


@pytest.fixture
def hubert(tmp_path):
    return tiny_models.save_hubert(tmp_path / "hubert"), {}


def test_embeddings_are_computed_once_per_backbone_data_and_windows(hubert, genre_folder, tmp_path, monkeypatch):
    trainer, decoded, window_samples = make_trainer(hubert, genre_folder, tmp_path / "run")
    cache = tmp_path / "cache"
    computed = []
    monkeypatch.setattr(
        "hf_utils.training.linear_probe.compute_embeddings",
        lambda *arguments: computed.append(1) or compute_embeddings(*arguments),
    )

    def load(hop=1.0, tracks=None, trainer=trainer):
        clips = decoded if tracks is None else decoded.select(tracks)
        windows = EvaluationWindows(clips, window_samples, int(hop * window_samples))
        return load_embeddings(trainer, windows, str(cache))

    first = load()
    assert np.array_equal(load(), first) and len(computed) == 1
    with torch.no_grad():
        trainer.model.classifier.weight.add_(1)
    assert np.array_equal(load(), first) and len(computed) == 1, "the head is not part of what embeddings depend on"
    load(hop=0.5)
    reversed_rows = load(tracks=range(len(decoded))[::-1])
    assert len(computed) == 3
    np.testing.assert_allclose(np.sort(reversed_rows, axis=0), np.sort(first, axis=0), atol=1e-5)
    with torch.no_grad():
        trainer.model.hubert.encoder.layer_norm.bias.add_(1)
    assert not np.array_equal(load(), first) and len(computed) == 4


def test_auto_keeps_to_the_windows_where_embeddings_would_change(hubert, genre_folder, tmp_path):
    masks = SpecAugment(0, 1, 2, 2)
    for changes, words in (
        ({"mode": "none"}, "freeze"),
        ({"grid": False}, "train_windows: random"),
        ({"spec_augment": masks}, "spec_augment"),
        ({"plan": VisitPlan(mixup_alpha=0.2)}, "mixup_alpha"),
    ):
        made = make_trainer(hubert, genre_folder, tmp_path / "run", **changes)
        assert trainer_of(made, tmp_path) is made[0]
        with pytest.raises(UserError, match=words):
            trainer_of(made, tmp_path, "always")
    made = make_trainer(hubert, genre_folder, tmp_path / "run")
    assert trainer_of(made, tmp_path, "never") is made[0]


def test_features_are_standardised_once_on_the_training_windows(genre_folder, tmp_path):
    """In training of the whole model as well, by the model in evaluation mode; and never anew for a trained head."""
    options = {"head": "mlp", "standardize_features": True}
    kind = tiny_models.save_hubert(tmp_path / "hubert"), options
    made = make_trainer(kind, genre_folder, tmp_path / "run", mode="none", grid=False)
    trainer, decoded, window_samples = made
    assert trainer_of(made, tmp_path) is trainer
    grid = EvaluationWindows(decoded, window_samples, window_samples)
    features, part = compute_embeddings(trainer, grid), find_standardization(trainer.model)
    assert part.num_windows == len(grid)
    np.testing.assert_allclose(part.mean, features.mean(0), atol=1e-5)
    np.testing.assert_allclose(part.std, features.std(0), rtol=1e-4)
    before = part.mean.clone()
    trainer.train()
    assert torch.equal(part.mean, before)
    trainer.save_model(str(tmp_path / "saved"))
    again = make_trainer((tmp_path / "saved", {}), genre_folder, tmp_path / "again")
    trainer_of(again, tmp_path)
    assert torch.equal(find_standardization(again[0].model).mean, before)


def test_grid_windows_are_drawn_back_to_back_from_the_whole_track(genre_folder):
    decoded = decode_clips(load_clips(str(genre_folder)), 16000)
    windows = TrainingWindows(decoded, 6000, seed=1, grid=True)
    seen = [set() for _ in range(len(windows))]
    for epoch in range(40):
        windows.set_epoch(epoch)
        for index, starts in enumerate(seen):
            starts.add(windows.draw(index)[1])
    # 1, 1.3, 1.6 and 1.9 s: 16,000 to 30,400 samples.
    assert seen == [set(window_starts(n, 6000, 6000)) for n in decoded["num_samples"]]
    assert seen[0] == {0, 6000, 10000}


@pytest.mark.parametrize("options", [{}, {"feature_layer": "all", "standardize_features": True}])
def test_a_probe_resumes_from_its_own_checkpoint_alone(options, genre_folder, tmp_path):
    hubert = tiny_models.save_hubert(tmp_path / "hubert"), options
    whole = trainer_of(make_trainer(hubert, genre_folder, tmp_path / "whole", save_total_limit=3), tmp_path / "cache")
    whole.train()
    part = trainer_of(make_trainer(hubert, genre_folder, tmp_path / "part"), tmp_path / "cache")
    resumed_from = str(tmp_path / "whole" / "checkpoint-6")
    part.train(resume_from_checkpoint=resumed_from)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(part.model.state_dict()[name], tensor)
    slow, *_ = make_trainer(hubert, genre_folder, tmp_path / "slow")
    with pytest.raises(UserError, match="Was it trained otherwise"):
        slow.train(resume_from_checkpoint=resumed_from)


def test_embeddings_are_of_the_windows_and_not_of_a_try_how_many_fit(genre_folder, tmp_path, monkeypatch):
    kind, found = (tiny_models.save_ast(tmp_path / "ast"), {}), []
    for untried in (("cpu",), ()):
        monkeypatch.setattr("hf_utils.models.batch_sizes._UNTRIED_DEVICES", untried)
        trainer, _, _ = make_trainer(kind, genre_folder, tmp_path / "run")
        found.append(compute_embeddings(trainer, trainer.eval_dataset))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
