"""Both back ends on tiny random checkpoints: exact lengths, seeds, continuations, and what goes wrong on a device."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from damaged_files import DAMAGES, POINTER
from safetensors.torch import load_file, save_file
from tiny_musicgen import save_tiny_musicgen, save_tiny_stable_audio
from transformers import T5Config

from hf_utils.errors import UserError
from hf_utils.generation.generators import (
    generate_batch,
    identify_checkpoint,
    load_generator,
    native_rate,
    plan_sampling,
)

CPU = torch.device("cpu")
PROMPTS = ["blues with guitar, 90 BPM", "jazz"]
RATE = 32000


@pytest.fixture(scope="module")
def mono_folder(tmp_path_factory):
    return save_tiny_musicgen(tmp_path_factory.mktemp("mono"))


@pytest.fixture(scope="module")
def stereo_folder(tmp_path_factory):
    return save_tiny_musicgen(tmp_path_factory.mktemp("stereo"), stereo=True)


@pytest.fixture(scope="module")
def diffusion_folder(tmp_path_factory):
    pytest.importorskip("diffusers")
    return save_tiny_stable_audio(tmp_path_factory.mktemp("diffusion"))


def load(folder: str, dtype: str = "fp32", **options):
    checkpoint = identify_checkpoint(folder, None)
    return load_generator(checkpoint, plan_sampling(checkpoint, **{"clip_seconds": 1.0, **options}), dtype, CPU)


@pytest.fixture(scope="module")
def mono(mono_folder):
    return load(mono_folder)


def test_clips_are_exact_and_follow_their_seed(mono):
    audio, dtype = generate_batch(mono, PROMPTS, 3)
    assert audio.shape == (2, 1, RATE) and audio.dtype == np.float32 and dtype == "fp32"
    assert np.array_equal(audio, generate_batch(mono, PROMPTS, 3)[0])
    assert not np.allclose(audio, generate_batch(mono, PROMPTS, 4)[0], atol=1e-3)
    assert not np.allclose(audio[0], audio[1], atol=1e-3)
    other = generate_batch(mono, ["metal", "metal"], 3)[0]
    assert not np.allclose(audio, other, atol=1e-3)


@pytest.mark.parametrize("seconds", [1.0, 1.01, 2.4])
def test_enough_samples_for_any_length(mono_folder, seconds):
    audio, _ = generate_batch(load(mono_folder, clip_seconds=seconds), ["jazz"], 0)
    assert RATE * seconds <= audio.shape[-1] < RATE * (seconds + 1 / 50)


def test_stereo_checkpoints_give_two_channels(stereo_folder):
    generator = load(stereo_folder)
    assert generator.sampling.tokens == 53
    audio, _ = generate_batch(generator, PROMPTS, 3)
    assert audio.shape == (2, 2, RATE)
    assert not np.allclose(audio[:, 0], audio[:, 1], atol=1e-3)


@pytest.mark.parametrize("kind", ["mono", "stereo"])
def test_a_continuation_depends_on_what_it_continues_and_leaves_it_out(kind, request):
    folder = request.getfixturevalue(f"{kind}_folder")
    assert native_rate(identify_checkpoint(folder, None)) == RATE
    generator = load(folder, prompt_seconds=0.5)
    heard = np.random.default_rng(0).normal(0, 0.1, (2, RATE // 2)).astype(np.float32)
    continued, _ = generate_batch(generator, PROMPTS, 3, heard)
    assert continued.shape == (2, 2 if kind == "stereo" else 1, RATE)
    assert not np.allclose(continued, generate_batch(generator, PROMPTS, 3)[0], atol=1e-3)
    assert not np.allclose(continued, generate_batch(generator, PROMPTS, 3, heard[::-1].copy())[0], atol=1e-3)


def test_more_than_thirty_seconds_are_refused_with_the_reason(mono_folder):
    checkpoint = identify_checkpoint(mono_folder, None)
    assert plan_sampling(checkpoint, clip_seconds=30.0).tokens == 1503
    with pytest.raises(UserError, match="clip_seconds is 31.* 30 s"):
        plan_sampling(checkpoint, clip_seconds=31.0)
    with pytest.raises(UserError, match="clip_seconds is 28.*prompt_seconds 5"):
        plan_sampling(checkpoint, clip_seconds=28.0, prompt_seconds=5.0)
    with pytest.raises(UserError, match="inference_steps.*diffusion"):
        plan_sampling(checkpoint, clip_seconds=1.0, inference_steps=5)


def poison(generator, what: float, dtype: torch.dtype):
    """Make the decoder's logits `what` from the third step on, whenever it computes in `dtype`."""
    calls = []

    def hook(module, inputs, output):
        calls.append(output.dtype)
        return torch.full_like(output, what) if output.dtype == dtype and len(calls) > 3 else output

    return generator._model.decoder.lm_heads[0].register_forward_hook(hook), calls


@pytest.mark.parametrize("what", [np.nan, np.inf])
def test_a_batch_that_is_not_finite_is_made_again_in_float32(mono_folder, what, caplog):
    generator = load(mono_folder, "bf16")
    handle, calls = poison(generator, what, torch.bfloat16)
    audio, dtype = generate_batch(generator, PROMPTS, 3)
    handle.remove()
    assert dtype == "fp32" and np.isfinite(audio).all()
    assert {torch.bfloat16, torch.float32} == set(calls)
    assert "bf16" in caplog.text and "made again in fp32" in caplog.text
    # The next batch is in bf16 again, as if nothing had happened.
    again, dtype = generate_batch(generator, PROMPTS, 3)
    assert dtype == "bf16"
    assert np.array_equal(again, generate_batch(load(mono_folder, "bf16"), PROMPTS, 3)[0])


def test_a_batch_that_is_never_finite_comes_back_for_the_gates(mono_folder):
    generator = load(mono_folder)
    poison(generator, np.nan, torch.float32)
    audio, dtype = generate_batch(generator, PROMPTS, 3)
    assert dtype == "fp32" and np.isnan(audio).all()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")]
)
def test_out_of_memory_names_a_batch_size_to_try(mono_folder, error, monkeypatch):
    generator = load(mono_folder)

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(generator._model, "generate", fail)
    with pytest.raises(UserError, match="batch of 8.*--batch_size 4.*--output_dir"):
        generate_batch(generator, PROMPTS * 4, 0)
    with pytest.raises(UserError, match="batch of 1 .*--dtype bf16"):
        generate_batch(generator, PROMPTS[:1], 0)


def test_other_errors_are_not_taken_for_a_lack_of_memory(mono_folder, monkeypatch):
    generator = load(mono_folder)
    monkeypatch.setattr(generator, "generate", lambda *args: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        generate_batch(generator, PROMPTS, 0)


def test_half_precision_changes_the_decoder_alone(mono_folder):
    """EnCodec stays in float32; in bfloat16, samples would have 8 bits."""
    generator = load(mono_folder, "bf16")
    assert {p.dtype for p in generator._model.audio_encoder.parameters()} == {torch.float32}
    assert {p.dtype for p in generator._model.decoder.parameters()} == {torch.bfloat16}
    audio, dtype = generate_batch(generator, PROMPTS, 3)
    assert dtype == "bf16"
    assert not np.array_equal(audio, torch.from_numpy(audio).bfloat16().float().numpy())


def test_a_folder_is_known_by_its_weights(mono_folder, tmp_path):
    first, second = save_tiny_musicgen(tmp_path / "a"), save_tiny_musicgen(tmp_path / "b")
    same = identify_checkpoint(first, None).revision
    assert same == identify_checkpoint(second, None).revision == identify_checkpoint(mono_folder, None).revision
    with open(f"{second}/model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert identify_checkpoint(second, None).revision != same


def test_other_checkpoints_are_refused_with_the_reason(tmp_path):
    T5Config().save_pretrained(tmp_path / "t5")
    melody = tmp_path / "melody"
    melody.mkdir()
    (melody / "config.json").write_text(json.dumps({"model_type": "musicgen_melody"}))
    image = tmp_path / "image"
    image.mkdir()
    (image / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    for folder, message in (
        (tmp_path / "t5", "t5.*expected a MusicGen"),
        (melody, "melody.*musicgen-small"),
        (tmp_path / "none", "none.*does not exist"),
        (image, "StableDiffusionPipeline.*text-to-audio"),
    ):
        with pytest.raises(UserError, match=message):
            identify_checkpoint(str(folder), None)


# The weights of each part of a checkpoint, and a tensor that it cannot do without.
PARTS = {
    "mono": ("model.safetensors", "self_attn.q_proj.weight"),
    "diffusion encoder": ("text_encoder/model.safetensors", "SelfAttention.q.weight"),
    "diffusion transformer": ("transformer/diffusion_pytorch_model.safetensors", "attn1.to_q.weight"),
    "diffusion vae": ("vae/diffusion_pytorch_model.safetensors", "weight_v"),
}


@pytest.fixture(params=PARTS)
def part(request, tmp_path):
    """(file of weights in a copy of a checkpoint, the checkpoint, part of a tensor's name)."""
    folder = shutil.copytree(request.getfixturevalue(f"{request.param.split()[0]}_folder"), tmp_path / "copy")
    file, tensor = PARTS[request.param]
    return folder / file, folder, tensor


@pytest.mark.parametrize("damage", ["pointer", "page", "text", "empty", "half"])
def test_weights_that_are_not_whole_are_named_before_anything_is_loaded(part, damage):
    path, folder, _ = part
    change, word = DAMAGES[damage]
    change(path)
    with pytest.raises(UserError, match=f"{path}.*{word}"):
        identify_checkpoint(str(folder), None)


@pytest.mark.parametrize(("damage", "word"), [("lacking", "1 missing"), ("cut", "size|shape"), ("nan", "not finite")])
def test_no_music_is_made_by_weights_that_are_not_all_there(part, damage, word):
    """transformers would leave them at random."""
    path, folder, part_of_name = part
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    name = next(name for name in tensors if part_of_name in name)
    if damage == "lacking":
        del tensors[name]
    elif damage == "cut":
        tensors[name] = tensors[name][:1].clone()
    else:
        tensors[name].view(-1)[0] = np.nan
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"copy.*({word})"):
        load(str(folder), inference_steps=None)


def test_a_tokenizer_that_git_lfs_left_out_is_named(mono_folder, tmp_path):
    folder = shutil.copytree(mono_folder, tmp_path / "copy")
    for content, word in ((POINTER, "Git LFS"), ('{"version": ', "no whole JSON")):
        (folder / "tokenizer.json").write_text(content)
        with pytest.raises(UserError, match=f"tokenizer.json.*{word}"):
            identify_checkpoint(str(folder), None)


def test_a_pipeline_of_diffusers_generates(diffusion_folder):
    generator = load(diffusion_folder, inference_steps=2)
    audio, dtype = generate_batch(generator, PROMPTS, 3)
    assert audio.shape == (2, 2, 16000) and audio.dtype == np.float32 and dtype == "fp32"
    assert generator.sample_rate == 16000 and generator.sampling.steps == 2
    assert np.array_equal(audio, generate_batch(generator, PROMPTS, 3)[0])
    assert not np.allclose(audio, generate_batch(generator, PROMPTS, 4)[0], atol=1e-3)
    assert not np.allclose(audio, generate_batch(generator, ["metal", "metal"], 3)[0], atol=1e-3)


def test_diffusion_defaults_are_the_pipelines_and_foreign_options_are_refused(diffusion_folder):
    checkpoint = identify_checkpoint(diffusion_folder, None)
    assert checkpoint.kind == "StableAudioPipeline" and checkpoint.license == "other"
    assert checkpoint.license_name == "Stability AI Community License"
    sampling = plan_sampling(checkpoint, clip_seconds=1.0)
    assert (sampling.guidance_scale, sampling.inference_steps, sampling.top_k) == (7.0, 100, None)
    for option, message in (
        ({"top_k": 5}, "top_k.*MusicGen"),
        ({"prompt_seconds": 5.0}, "continue_from.*MusicGen"),
    ):
        with pytest.raises(UserError, match=message):
            plan_sampling(checkpoint, clip_seconds=1.0, **option)


def test_a_clip_longer_than_the_pipeline_can_is_refused(diffusion_folder):
    with pytest.raises(UserError, match="StableAudioPipeline.*maximum"):
        generate_batch(load(diffusion_folder, clip_seconds=3.0, inference_steps=2), PROMPTS, 0)


def test_diffusers_is_only_needed_for_its_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "AudioLDM2Pipeline"}))
    with pytest.raises(UserError, match="AudioLDM2Pipeline.*pip install diffusers"):
        identify_checkpoint(str(tmp_path), None)


@pytest.mark.parametrize(
    "name",
    ["AudioLDM2Pipeline", "StableAudioPipeline", "StableAudio3Pipeline", "AceStepPipeline", "LongCatAudioDiTPipeline"],
)
def test_the_five_names_of_the_duration_are_found(name):
    diffusers = pytest.importorskip("diffusers")
    from hf_utils.generation.diffusion import find_pipeline_class

    assert find_pipeline_class(name) is getattr(diffusers, name)


def test_large_batches_are_decoded_in_parts_of_the_same_samples(mono, stereo_folder, monkeypatch):
    """35 clips of 30 s at once are more values than CUDA's padding can count."""
    for generator in (mono, load(stereo_folder)):
        whole = generator.generate(["blues", "jazz", "metal"], 3)
        counts, decode = [], generator._model.audio_encoder.decoder.forward
        monkeypatch.setattr(
            generator._model.audio_encoder.decoder, "forward", lambda x, d=decode, c=counts: c.append(len(x)) or d(x)
        )
        monkeypatch.setattr("hf_utils.generation.musicgen.DECODED_AT_ONCE", 2)
        parts = generator.generate(["blues", "jazz", "metal"], 3)
        monkeypatch.undo()
        assert counts and max(counts) == 2
        np.testing.assert_allclose(parts, whole, atol=1e-6)
