"""Every recipe and overlay of the field's systems: the command in its comment loads, trains a step and comes back.

Weights cannot be downloaded here, so a tiny or randomly filled model of the recipe's architecture takes their place;
everything else comes from the YAML files.
"""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
import tiny_models
import torch

from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.config_files import read_config
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.families import needs_feature_stats, set_feature_stats, window_samples_for
from hf_utils.models.features import WindowCollator
from hf_utils.models.freezing import freeze
from hf_utils.models.heads import HeadOptions
from hf_utils.models.loading import load_classifier
from hf_utils.training.classifier import load_model

ROOT = Path(__file__).parents[2]
GENRES = "blues classical country disco hiphop jazz metal pop reggae rock".split()
FILES = sorted(ROOT.glob("configs/recipes/*.yaml")) + sorted(ROOT.glob("configs/overlays/*.yaml"))
TABLES = (ROOT / "configs/README.md").read_text(encoding="utf-8")
START = "accelerate launch run_classification.py"
# The commands in the tables' cells: of image backbones, and of systems of several parts.
TABLE_COMMANDS = [shlex.split(words) for words in re.findall(rf"^\|.*\| `{START} ([^<`]*)` \|", TABLES, re.MULTILINE)]
BACKBONES = [words for words in TABLE_COMMANDS if "configs/recipes/image.yaml" in words]
# What makes an architecture of timm small, by the start of its name; the others are small enough.
TIMM_SIZES = {
    "resnetv2": {"layers": [1, 1, 1, 1], "channels": [16, 16, 32, 32], "stem_chs": 8},
    "resnet": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]},
    "convnext": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]},
    "vgg": {"mlp_ratio": 0.01},
}


def command_in(path: Path) -> list[str]:
    """Return the words after run_classification.py in the file's comment."""
    (line,) = re.findall(rf"^#   {START} (.*)$", path.read_text(), re.MULTILINE)
    assert str(path.relative_to(ROOT)) in line
    return shlex.split(line)


def stand_in(name: str, folder: Path) -> Path:
    """Return a folder with a model of the same architecture as the checkpoint `name`; config-only folders stay."""
    if name.startswith("configs/"):
        return ROOT / name
    if name.startswith("timm/"):
        architecture, tag = name.removeprefix("timm/").split(".")
        assert timm.is_model_pretrained(f"{architecture}.{tag}"), "no weights of this name"
        sizes = next((sizes for start, sizes in TIMM_SIZES.items() if architecture.startswith(start)), {})
        return tiny_models.save_timm(folder, architecture, sizes)
    (saver,) = (save for start, save in SAVERS.items() if name.startswith(start))
    return saver(folder)


SAVERS = {
    "MIT/ast": tiny_models.save_ast,
    "facebook/hubert": tiny_models.save_hubert,
    "facebook/convnext": tiny_models.save_convnext,
    "m-a-p/MERT": lambda folder: tiny_models.save_mert(folder, num_hidden_layers=7),
    "OpenMuQ/MuQ": lambda folder: tiny_models.save_muq(folder, encoder_depth=6),
    "laion/clap": tiny_models.save_clap_towers,
    "mtg-upf/discogs-maest": tiny_models.save_maest,
    "models/musicnn_": tiny_models.save_musicnn,
    "models/efficientnet_lite0": lambda folder: tiny_models.save_timm(folder, "tf_efficientnet_lite0", {}),
}


def load(arguments, genres):
    classifier = load_model(arguments, genres)
    model, extractor = classifier.model, classifier.feature_extractor
    if needs_feature_stats(extractor):
        set_feature_stats(extractor, -8.0, 4.0)
    return model, extractor


def make_batch(model, extractor, window_seconds) -> dict:
    samples = window_samples_for(model.config, extractor, window_seconds)
    noise = np.random.default_rng(0).normal(0, 0.1, (2, samples)).astype(np.float32)
    return WindowCollator(extractor)([{"samples": x, "label": i, "seed": None} for i, x in enumerate(noise)])


COMMANDS = {f"{path.parent.name}/{path.stem}": command_in(path) for path in FILES}
COMMANDS |= {words[words.index("--model_name_or_path") + 1]: words for words in BACKBONES}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS.keys())
def test_the_command_of_a_recipe_loads_trains_a_step_and_comes_back(words, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    torch.manual_seed(0)
    as_given = RunArguments.parse([*words, "--use_cpu"])
    # Windows of 10 s are tested with short ones; models of the full size take long otherwise. CLAP takes no others.
    is_long = (as_given.data.window_seconds or 10) >= 10 and "clap" not in as_given.model.model_name_or_path
    short = ["--window_seconds", "2.0"] if is_long else []
    model_folder = stand_in(as_given.model.model_name_or_path, tmp_path / "model")
    arguments = RunArguments.parse([*words, "--model_name_or_path", str(model_folder), "--use_cpu", *short])
    model_args, data_args, training_args = arguments.model, arguments.data, arguments.training
    genres = data_args.genres or GENRES
    model, extractor = load(arguments, genres)
    trainable, total = freeze(model, model_args.freeze, model_args.unfrozen_layers)
    assert (trainable < total) == (model_args.freeze == "backbone")

    batch = make_batch(model, extractor, data_args.window_seconds)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=training_args.learning_rate)
    model.train()
    loss = torch.nn.functional.cross_entropy(model(**batch).logits, batch["labels"])
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    unmoved = [name for name, p in model.named_parameters() if name in before and torch.equal(p, before[name])]
    assert len(unmoved) <= 0.1 * len(before), unmoved  # a layer of few units may be dead by chance

    model.eval().save_pretrained(tmp_path / "out")
    extractor.save_pretrained(tmp_path / "out")
    saved = Checkpoint(str(tmp_path / "out"), trust_remote_code=model_args.trust_remote_code)
    again, extractor_again = load_classifier(saved, None)
    assert list(again.config.id2label.values()) == genres
    batch_again = make_batch(again, extractor_again, None)
    with torch.no_grad():
        torch.testing.assert_close(again(**batch_again).logits, model(**batch).logits, rtol=1e-6, atol=1e-6)


def test_sample_cnn_sees_three_to_the_tenth_samples_and_takes_any_length():
    config = read_config(ROOT / "configs/models/sample_cnn/config.json")
    assert round(config["window_seconds"] * 22050) == pytest.approx(3 ** (len(config["hidden_sizes"]) + 1), abs=1)
    model, _ = load_classifier(
        Checkpoint(str(ROOT / "configs/models/sample_cnn")), GENRES, head=HeadOptions(head_dropout=0.2)
    )
    assert model.classifier[0].p == 0.2
    lengths = []
    model.backbone.blocks[-1].register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[2]))
    for num_samples in (3**10, 2 * 3**10, 1000):
        assert model(input_values=torch.randn(1, num_samples)).logits.shape == (1, 10)
    assert lengths == [1, 2, 1]


def test_table_has_every_recipe():
    missing = [path.stem for path in FILES if f"`{path.relative_to(ROOT / 'configs')}`" not in TABLES]
    assert missing == []


def test_commands_of_the_table_have_folders_of_their_own(monkeypatch):
    monkeypatch.chdir(ROOT)
    folders = [RunArguments.parse([*words, "--use_cpu"]).training.output_dir for words in TABLE_COMMANDS]
    assert len(BACKBONES) == 11 and len(TABLE_COMMANDS) == 14
    assert len(set(folders)) == len(folders) and all(folder.startswith("runs/") for folder in folders)


def test_an_ensemble_of_the_table_is_made_of_runs_of_the_tables(monkeypatch):
    monkeypatch.chdir(ROOT)
    runs = [RunArguments.parse([*words, "--use_cpu"]) for words in [*TABLE_COMMANDS, *COMMANDS.values()]]
    (ensemble,) = [run for run in runs if run.model.ensemble_with]
    members = [ensemble.model.model_name_or_path, *ensemble.model.ensemble_with]
    assert len(members) == 3 and set(members) <= {run.training.output_dir for run in runs if run is not ensemble}
    segments = next(run for run in runs if run.training.output_dir == members[1])
    assert segments.data.window_seconds == segments.data.eval_hop_seconds == 4.0 and segments.data.augmentation
    assert ensemble.training.do_eval


def test_image_backbones_share_one_regularisation():
    options = ("weight_decay", "warmup_steps", "spec_augment_time_seconds", "spec_augment_freq_bins")
    convnext, image = (read_config(ROOT / "configs" / name) for name in ("convnext.yaml", "recipes/image.yaml"))
    assert [[recipe[option] for option in options] for recipe in (convnext, image)] == [[0.01, 0.1, 1.0, 16]] * 2
    assert {name: convnext[name] for name in image} == image
    assert not image.keys() & {"model_name_or_path", "output_dir"}
