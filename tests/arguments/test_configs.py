"""Every YAML file and config folder that is shipped, through the code that will read it."""

import math
from pathlib import Path

import pytest
from accelerate.commands.config import load_config_from_file
from transformers import AutoConfig

from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.config_files import read_config
from hf_utils.models.sample_cnn import SampleCNNConfig

CONFIGS = Path(__file__).parents[2] / "configs"
# YAML files that are read by something else than the options of run_classification.py.
OTHER_READERS = {
    "accelerate",
    "augment",
    "corruptions.yaml",
    "corruptions_short.yaml",
    "generate",
    "models",
    "study",
    "search",
}
TRAINING = sorted(
    path.relative_to(CONFIGS)
    for path in CONFIGS.rglob("*.y*ml")
    if path.relative_to(CONFIGS).parts[0] not in OTHER_READERS
)
OVERLAYS = [path for path in TRAINING if path.parts[0] == "train"]
TWO_STAGE = Path("train/two_stage.yaml")
MIXES = [path for path in OVERLAYS if path != TWO_STAGE]
RECIPES = [path for path in TRAINING if len(path.parts) == 1]
# Short recipes and overlays of the field's systems: tested in test_recipes.py.
SYSTEMS = [path for path in TRAINING if path.parts[0] in ("recipes", "overlays")]


def parse(*paths: Path, flags=("--use_cpu",)):
    return RunArguments.parse([*(str(CONFIGS / path) for path in paths), *flags])


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_lists_below_are_of_all_files():
    assert len(RECIPES) == 4 and len(OVERLAYS) == 6 and len(SYSTEMS) == 22 and len(TRAINING) == 32


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_a_recipe_is_complete_and_a_lab_note(recipe):
    training = parse(recipe).training
    given = read_config(CONFIGS / recipe)
    assert {"model_name_or_path", "dataset_name", "split_protocol", "learning_rate", "output_dir"} <= given.keys()
    assert training.output_dir == f"runs/{recipe.stem}"
    text = (CONFIGS / recipe).read_text(encoding="utf-8")
    sections = [text.index(f"# --- {name}\n") for name in ("model", "data", "training", "output")]
    assert sections == sorted(sections)
    assert f"run_classification.py configs/{recipe}" in text and "Hardware:" in text[: sections[0]]


@pytest.mark.parametrize("overlay", MIXES, ids=str)
def test_an_overlay_goes_on_every_recipe_and_changes_only_the_mix(overlay):
    for recipe in RECIPES:
        parse(recipe, overlay)
    budget = {"max_steps", "eval_strategy", "eval_steps", "save_strategy", "save_steps"}
    assert read_config(CONFIGS / overlay).keys() == {"train_datasets"} | budget


def test_all_arms_of_the_study_have_the_same_budget():
    configs = [read_config(CONFIGS / overlay) for overlay in MIXES]
    stages = read_config(CONFIGS / TWO_STAGE)["stages"]
    assert sum(stage["max_steps"] for stage in stages) == configs[0]["max_steps"]
    mixes = [tuple(config.pop("train_datasets")) for config in configs]
    assert len(set(mixes)) == len(mixes)
    assert all(config == configs[0] for config in configs)
    # Chosen so that "clean" visits each of the 443 tracks 75 times, 8 at a time, looking at validation 30 times.
    steps_per_visit = -(-443 // 8)
    assert (configs[0]["max_steps"], configs[0]["eval_steps"]) == (75 * steps_per_visit, 75 * steps_per_visit // 30)
    assert all(stage["max_steps"] % configs[0]["eval_steps"] == 0 for stage in stages)
    assert all(
        read_config(CONFIGS / recipe)["per_device_train_batch_size"] == 8
        for recipe in RECIPES
        if recipe.stem != "demo"
    )


@pytest.mark.parametrize(("recipe", "num_windows"), [("ast.yaml", 33_225), ("hubert.yaml", 26_580)])
def test_recipes_that_follow_a_published_one_hear_as_many_windows_as_they_say(recipe, num_windows):
    arguments = parse(recipe)
    assert 443 * arguments.data.windows_per_track * arguments.training.num_train_epochs == num_windows
    text = (CONFIGS / recipe).read_text(encoding="utf-8")
    steps_per_epoch = math.ceil(443 * arguments.data.windows_per_track / 8)
    assert f"{num_windows:,} windows" in text and f"{steps_per_epoch} steps per epoch" in text
    assert f"{steps_per_epoch * int(arguments.training.num_train_epochs):,} in all" in text
    # The study trains it as long as its own recipe does, or longer.
    assert read_config(CONFIGS / MIXES[0])["max_steps"] * 8 >= num_windows


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_the_plateau_overlay_goes_with_every_score(metric):
    parse("convnext.yaml", "overlays/plateau.yaml", flags=("--use_cpu", "--metric_for_best_model", metric))


def test_the_demo_needs_no_network_and_no_gpu():
    arguments = parse("demo.yaml", flags=())
    model, data, training = arguments.model, arguments.data, arguments.training
    assert model.model_name_or_path == "configs/models/convnext_small" and data.dataset_name == "data/demo"
    assert training.use_cpu and training.overwrite and not training.bf16


def test_config_only_folders_are_configurations_of_small_models():
    models = {folder.name: AutoConfig.from_pretrained(folder) for folder in (CONFIGS / "models").iterdir()}
    types = {name: config.model_type for name, config in models.items()}
    assert types == {
        "cnn_2d": "resnet",
        "cnn_2d_three_channels": "resnet",
        "convnext_small": "convnext",
        "efficientnet_lite0": "timm_wrapper",
        "resnet18_small": "resnet",
        "sample_cnn": SampleCNNConfig.model_type,
    }
    staged = [config for config in models.values() if config.model_type in ("convnext", "resnet")]
    assert all(len(config.depths) == len(config.hidden_sizes) for config in staged)


def test_accelerate_reads_its_files():
    files = {path.stem: load_config_from_file(str(path)) for path in sorted((CONFIGS / "accelerate").glob("*.yaml"))}
    assert files.keys() == {"cpu_2", "gpu"}
    assert files["cpu_2"].num_processes == 2 and files["cpu_2"].use_cpu and not files["gpu"].use_cpu
    # Else `accelerate launch` would decide the precision, before the option `precision` can.
    assert all(config.mixed_precision == "no" for config in files.values())
