"""Weights that are not whole, not finite, or another model's are refused in one message that names the file."""

import shutil

import numpy as np
import pytest
import torch
from damaged_files import DAMAGES, POINTER
from safetensors.torch import load_file, save_file
from tiny_models import load, save_hubert, saved
from transformers import AutoModelForAudioClassification

from hf_utils.errors import UserError
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.freezing import find_backbone
from hf_utils.models.loading import load_classifier
from hf_utils.models.weights import check_files, find_damage, reload_weights

FILE = "model.safetensors"
COMMIT = 40 * "a"


@pytest.fixture
def folder_of(tmp_path, tmp_path_factory):
    """A copy of a tiny model, to be damaged."""
    return lambda name: shutil.copytree(saved(name, tmp_path_factory), tmp_path / name)


def read_tensors(folder):
    """Copies: what safetensors gives lies in the file, which is written over."""
    return {name: tensor.clone() for name, tensor in load_file(folder / FILE).items()}


def refuse(folder, message, **options):
    with pytest.raises(UserError, match=message) as caught:
        load(folder, **options)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 500
    return str(caught.value)


@pytest.mark.parametrize("name", ["ast", "convnext", "timm_resnet"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_whole_is_named_with_what_to_do(name, damage, folder_of):
    folder, (change, word) = folder_of(name), DAMAGES[damage]
    change(folder / FILE)
    assert str(folder / FILE) in refuse(folder, word)


@pytest.mark.parametrize("damage", DAMAGES)
def test_one_of_several_files_is_named(damage, folder_of):
    folder, (change, word) = folder_of("hubert"), DAMAGES[damage]
    model = AutoModelForAudioClassification.from_pretrained(folder)
    (folder / FILE).unlink()
    model.save_pretrained(folder, max_shard_size="10KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2 and torch.equal(load(folder)[0].projector.weight, model.projector.weight)
    change(shards[1])
    assert str(shards[1]) in refuse(folder, word)


@pytest.mark.parametrize(("damage", "word"), [("pointer", "Git LFS"), ("empty", "empty"), ("half", "JSON")])
def test_the_list_of_several_files_is_checked_and_so_is_that_they_are_there(damage, word, folder_of):
    folder = folder_of("hubert")
    model = AutoModelForAudioClassification.from_pretrained(folder)
    (folder / FILE).unlink()
    model.save_pretrained(folder, max_shard_size="10KB")
    index = folder / f"{FILE}.index.json"
    whole = index.read_bytes()
    DAMAGES[damage][0](index)
    assert str(index) in refuse(folder, word)
    index.write_bytes(whole)
    (folder / sorted(folder.glob("model-*"))[0].name).unlink()
    refuse(folder, "index.json.* missing: model-00001-of-")
    check_files(folder, all_here=False)


@pytest.mark.parametrize("damage", ["pointer", "page", "text", "empty", "half", "a few bytes"])
def test_pickled_weights_are_checked_where_they_are_allowed(damage, folder_of):
    folder, change = folder_of("hubert"), DAMAGES[damage][0]
    torch.save(read_tensors(folder), folder / "pytorch_model.bin")
    (folder / FILE).unlink()
    load(folder, allow_pickle=True)
    change(folder / "pytorch_model.bin")
    refuse(folder, "pytorch_model.bin.*(LFS|web page|torch.save|empty|cut off)", allow_pickle=True)


@pytest.mark.parametrize("damage", ["pointer", "half", "empty"])
def test_downloaded_files_are_checked_too(damage, tmp_path):
    """As in the cache of the Hub after a download."""
    repository = tmp_path / "models--me--tiny"
    folder = save_hubert(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    checkpoint = Checkpoint("me/tiny", cache_dir=str(tmp_path))
    load_classifier(checkpoint, None)
    change, word = DAMAGES[damage]
    change(folder / FILE)
    with pytest.raises(UserError, match=f"snapshots.*{FILE}.*{word}"):
        load_classifier(checkpoint, None)


def test_files_that_are_not_loaded_may_be_anything(folder_of):
    """A clone without large files, of which only the safetensors were fetched."""
    folder = folder_of("hubert")
    for name in ("pytorch_model.bin", "flax_model.msgpack", "tf_model.h5", "model.fp16.safetensors", "picture.png"):
        (folder / name).write_text(POINTER)
    load(folder)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "config.json"])
def test_a_pointer_in_place_of_a_small_file_is_told_as_well(name, folder_of):
    folder = folder_of("hubert")
    (folder / name).write_text(POINTER)
    assert str(folder / name) in refuse(folder, "Git LFS")


def test_pickled_weights_under_the_name_of_safetensors_are_told(folder_of):
    folder = folder_of("hubert")
    tensors = read_tensors(folder)
    torch.save(tensors, folder / FILE)
    refuse(folder, "pickled")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["ast", "hubert", "convnext", "timm_resnet"])
def test_numbers_that_are_not_finite_are_refused(name, value, folder_of):
    folder = folder_of(name)
    tensors = read_tensors(folder)
    key = next(key for key, tensor in tensors.items() if tensor.ndim > 1 and "classifier" not in key)
    tensors[key].view(-1)[-1] = value
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
    refuse(folder, f"{name}.* not finite.* 1 tensors, e.g. ")


@pytest.mark.parametrize(("name", "other"), [("hubert", "wav2vec2"), ("ast", "hubert"), ("convnext", "resnet")])
def test_weights_of_another_model_are_refused(name, other, folder_of, tmp_path_factory):
    folder = folder_of(name)
    shutil.copy(saved(other, tmp_path_factory) / FILE, folder / FILE)
    refuse(folder, f"{name}.* missing.*")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_not_resumed_from(damage, folder_of):
    folder, (change, word) = folder_of("hubert"), DAMAGES[damage]
    model, head = load(folder)[0], torch.nn.Linear(2, 2)
    model.save_pretrained(folder)
    reload_weights(model, folder)
    change(folder / FILE)
    for reloaded in (model, head):
        with pytest.raises(UserError, match=word):
            reload_weights(reloaded, folder)


def test_whole_files_pass(folder_of):
    for name in ("ast", "timm_resnet", "whisper"):
        folder = folder_of(name)
        assert find_damage(folder / FILE) is None
        check_files(folder)
        assert find_backbone(load(folder, window_seconds=None)[0]) is not None
    check_files(folder.parent)  # a folder without weights is not the business of this check
