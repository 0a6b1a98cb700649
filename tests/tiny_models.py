"""Checkpoints of a few thousand random weights, saved as the Hub has them, so that tests run the real loading code.

Each `save_*` function writes one folder and returns it. Run as a script, it writes one of them:
`python tests/tiny_models.py ast FOLDER`.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForAudioClassification, AutoModelForImageClassification

ENCODER_SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
# One frame per 20 ms, as the large models have, from far fewer weights.
WAVEFORM_SIZES = ENCODER_SIZES | {
    "conv_dim": (4, 4, 4),
    "conv_stride": (5, 8, 8),
    "conv_kernel": (10, 8, 8),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
}


def save_ast(folder: Path, **changes) -> Path:
    """An AST with the 527 AudioSet labels, for windows of 1 s: 100 frames of 32 mel bands."""
    sizes = ENCODER_SIZES | {"num_mel_bins": 32, "max_length": 100} | changes
    labels = {i: f"AudioSet {i}" for i in range(527)}
    outputs = {"id2label": labels, "problem_type": "multi_label_classification"}
    config = transformers.ASTConfig(**outputs | sizes)
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=config.num_mel_bins, max_length=config.max_length)
    return _save_audio(folder, config, extractor)


def save_run(folder: Path) -> Path:
    """The folder of a finished run: an AST for windows of 1 s, with four genres in its own order and spelling."""
    save_ast(folder)
    model = AutoModelForAudioClassification.from_pretrained(
        folder, num_labels=4, ignore_mismatched_sizes=True, problem_type="single_label_classification"
    )
    names = ["Hip-Hop", "rock", "blues", "jazz"]
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    with torch.no_grad():
        model.classifier.dense.weight.mul_(30)
    model.save_pretrained(folder)
    (folder / "results.json").write_text("{}")
    return folder


def save_hubert(folder: Path, **changes) -> Path:
    """A HuBERT with group norm in its feature encoder, so without attention mask; no labels yet."""
    config = transformers.HubertConfig(**WAVEFORM_SIZES | changes)
    return _save_audio(folder, config, transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True))


def save_wav2vec2(folder: Path, **changes) -> Path:
    """A wav2vec2 with layer norm, as the large ones, whose feature extractor returns an attention mask."""
    sizes = WAVEFORM_SIZES | {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True} | changes
    config = transformers.Wav2Vec2Config(**sizes)
    return _save_audio(folder, config, transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True))


def save_wavlm(folder: Path, **changes) -> Path:
    """A WavLM, whose first layer holds the relative positions of all."""
    config = transformers.WavLMConfig(**WAVEFORM_SIZES | changes)
    return _save_audio(folder, config, transformers.Wav2Vec2FeatureExtractor())


def save_maest(folder: Path, code: str | None = None, **changes) -> Path:
    """A MAEST: an AST for 48 bands and 63 frames of 16 ms, which are 0.992 s, beside the code of its extractor."""
    config = transformers.ASTConfig(
        **ENCODER_SIZES, num_mel_bins=48, max_length=63, id2label={i: f"Rock---{i}" for i in range(5)}
    )
    _save(AutoModelForAudioClassification.from_config(config), folder)
    (folder / "feature_extraction_maest.py").write_text(code or MAEST_CODE)
    extractor = {
        "feature_extractor_type": "MAESTFeatureExtractor",
        "auto_map": {"AutoFeatureExtractor": "feature_extraction_maest.MAESTFeatureExtractor"},
        "num_mel_bins": 48,
        "max_length": 63,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor | changes))
    return folder


# The interface of MAEST's extractor, in few lines.
MAEST_CODE = """
import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function


class MAESTFeatureExtractor(SequenceFeatureExtractor):
    model_input_names = ["input_values", "attention_mask"]

    def __init__(self, feature_size=1, sampling_rate=16000, num_mel_bins=96, max_length=1876, padding_value=0.0,
                 do_normalize=True, mean=2.06755686098554, std=1.268292820667291, n_fft=512, hop_length=256, **kwargs):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.num_mel_bins, self.max_length, self.do_normalize = num_mel_bins, max_length, do_normalize
        self.mean, self.std, self.n_fft, self.hop_length = mean, std, n_fft, hop_length

    def __call__(self, raw_speech, sampling_rate=None, return_tensors=None, **kwargs):
        bank = mel_filter_bank(self.n_fft // 2 + 1, self.num_mel_bins, 0, self.sampling_rate / 2, self.sampling_rate,
                               norm="slaney", mel_scale="slaney")
        window = window_function(self.n_fft, "hann")
        features = np.zeros((len(raw_speech), self.max_length, bank.shape[1]))
        for row, waveform in zip(features, raw_speech):
            power = spectrogram(waveform, window, self.n_fft, self.hop_length, power=2, mel_filters=bank,
                                pad_mode="constant").T[: self.max_length]
            row[: len(power)] = np.log10(1 + 10000 * power)
        if self.do_normalize:
            features = (features - self.mean) / (2 * self.std)
        return BatchFeature({"input_values": features.astype(np.float32)}, tensor_type=return_tensors)
"""


def save_mert(folder: Path, **changes) -> Path:
    """A MERT, as its authors published it: the parts of a HuBERT for 24 kHz, beside code that nobody needs."""
    sizes = WAVEFORM_SIZES | {"deepnorm": False} | changes
    model = transformers.HubertModel(transformers.HubertConfig(**sizes))
    code = {"AutoConfig": "configuration_MERT.MERTConfig", "AutoModel": "modeling_MERT.MERTModel"}
    published = {"model_type": "mert_model", "auto_map": code, "architectures": ["MERTModel"], "sample_rate": 24000}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(sizes | published))
    for name in ("configuration_MERT.py", "modeling_MERT.py"):
        (folder / name).write_text("raise SystemExit('ran')")
    # Names of before PyTorch's parametrizations.
    parts = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    tensors = {name: _spread(tensor) for name, tensor in model.state_dict().items()}
    for new, old in parts.items():
        tensors[f"encoder.pos_conv_embed.conv.{old}"] = tensors.pop(f"encoder.pos_conv_embed.conv.{new}")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=24000, do_normalize=False).save_pretrained(folder)
    return folder


def save_muq(folder: Path, **changes) -> Path:
    """A MuQ, as its own package saves it: no model_type, no extractor, and parts that only its pretraining uses."""
    from hf_utils.models.encoder_mlp.modeling_muq import MuQConfig, MuQModel  # here, since scripts may lack it

    conformer = {
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "position_embeddings_type": "rotary",
        "layerdrop": 0.1,
    }
    num_layers = changes.get("encoder_depth", 3)
    sizes = {"hidden_size": 16, "num_hidden_layers": num_layers, "conv_channels": 4}
    model = MuQModel(MuQConfig(**sizes, conformer_config=conformer))
    tensors = {f"model.{name}": _spread(tensor) for name, tensor in model.state_dict().items()}
    rest = (
        "linear.weight",
        "cls_token",
        "quantizer_melspec_2048.codebook",
        "rvq.codebook",
        "conformer.pos_conv_embed.x",
    )
    tensors |= {f"model.{name}": torch.ones(2) for name in rest}
    published = {
        "label_rate": 25,
        "conv_dim": 4,
        "encoder_dim": 16,
        "encoder_depth": num_layers,
        "w2v2_config": conformer,
        "stat": {"melspec_2048_mean": 6.768, "melspec_2048_std": 18.418},
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(published | changes))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def save_clap_towers(folder: Path, truncation: str = "rand_trunc", **changes) -> Path:
    """A CLAP without fusion, whose audio tower a classifier takes: windows of 10 s at 48 kHz."""
    from tiny_clap import save_clap  # here, since it needs tokenizers

    return Path(save_clap(folder, truncation, **changes))


def save_whisper(folder: Path) -> Path:
    """A Whisper with encoder and decoder, as pretrained: the classifier takes its encoder."""
    config = transformers.WhisperConfig(
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        vocab_size=20,
        num_mel_bins=80,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    transformers.WhisperForConditionalGeneration(config).save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


def save_musicnn(folder: Path, **changes) -> Path:
    """A MusiCNN with four tags, for windows of 1 s."""
    from hf_utils.models.musicnn import MusiCNNConfig, MusiCNNFeatureExtractor  # here, since scripts may lack it

    sizes = {
        "num_mel_bins": 24,
        "timbral_channels": 4,
        "temporal_channels": 2,
        "mid_channels": 4,
        "head_hidden_size": 8,
        "window_seconds": 1.0,
    }
    tags = {i: f"tag {i}" for i in range(4)}
    outputs = {"id2label": tags, "problem_type": "multi_label_classification"}
    config = MusiCNNConfig(**outputs | sizes | changes)
    extractor = MusiCNNFeatureExtractor(sampling_rate=8000, num_mel_bins=config.num_mel_bins)
    return _save_audio(folder, config, extractor)


def save_convnext(folder: Path, **changes) -> Path:
    """An image ConvNeXt with 1000 labels."""
    config = transformers.ConvNextConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 2, 1], num_labels=1000, layer_scale_init_value=0.5, **changes
    )
    return _save_image(folder, config)


def save_resnet(folder: Path) -> Path:
    """An image ResNet of transformers with 1000 labels, whose pooled output has two spare dimensions."""
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", num_labels=1000
    )
    return _save_image(folder, config)


def save_vit(folder: Path) -> Path:
    """An image transformer, which takes images of 224 x 224 alone."""
    return _save_image(folder, transformers.ViTConfig(**ENCODER_SIZES, num_labels=1000))


def save_timm_resnet(folder: Path) -> Path:
    """A ResNet of timm with 1000 classes."""
    return save_timm(folder, "resnet18", {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]})


def save_timm(folder: Path, architecture: str, model_args: dict) -> Path:
    """Any model of timm, laid out as timm's own uploads: its own names, and no `model_type`."""
    import timm

    model = timm.create_model(architecture, pretrained=False, **model_args)
    folder.mkdir(parents=True)
    # Larger matrices with a mean above 0 would blow the outputs up.
    tensors = {name: _spread(t) if t.ndim < 2 else t.clone() for name, t in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    config = {
        "architecture": architecture,
        "num_classes": 1000,
        "num_features": model.num_features,
        "model_args": model_args,
        "pretrained_cfg": {key: model.pretrained_cfg[key] for key in ("input_size", "first_conv", "classifier")},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def save_bert(folder: Path) -> Path:
    """A text model: nothing that hears."""
    config = transformers.BertConfig(**ENCODER_SIZES, vocab_size=30)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def _spread(tensor: torch.Tensor) -> torch.Tensor:
    """Return random values in place of the ones and zeros of a fresh model, so that no two tensors agree by chance."""
    if not tensor.is_floating_point():
        return tensor.clone()
    return tensor + 0.1 * torch.rand_like(tensor)


def _save_audio(folder: Path, config, feature_extractor) -> Path:
    model = AutoModelForAudioClassification.from_config(config)
    feature_extractor.save_pretrained(folder)
    return _save(model, folder)


def _save_image(folder: Path, config) -> Path:
    return _save(AutoModelForImageClassification.from_config(config), folder)


def _save(model, folder: Path) -> Path:
    model.load_state_dict({name: _spread(tensor) for name, tensor in model.state_dict().items()})
    model.save_pretrained(folder)
    return folder


SAVERS = {
    "ast": save_ast,
    "hubert": save_hubert,
    "wav2vec2": save_wav2vec2,
    "wavlm": save_wavlm,
    "whisper": save_whisper,
    "mert": save_mert,
    "muq": save_muq,
    "clap": save_clap_towers,
    "musicnn": save_musicnn,
    "convnext": save_convnext,
    "resnet": save_resnet,
    "timm_resnet": save_timm_resnet,
    "vit": save_vit,
    "bert": save_bert,
}

_SAVED: dict[str, Path] = {}


def saved(name: str, tmp_path_factory) -> Path:
    """Return the folder of a tiny model, written once per test run; tests read it and never write to it."""
    if name not in _SAVED:
        _SAVED[name] = SAVERS[name](tmp_path_factory.mktemp("tiny") / name)
    return _SAVED[name]


def load(
    folder,
    genres=("blues", "jazz", "rock"),
    *,
    window_seconds=1.0,
    spectrogram=None,
    allow_pickle=False,
    trust=False,
    **head,
):
    """Return `load_classifier` of a folder, with short windows; `head` are fields of `HeadOptions`."""
    from hf_utils.models.checkpoints import Checkpoint  # here, since the script below runs without the project
    from hf_utils.models.heads import HeadOptions
    from hf_utils.models.loading import load_classifier

    return load_classifier(
        Checkpoint(str(folder), allow_pickle=allow_pickle, trust_remote_code=trust),
        genres and list(genres),
        window_seconds=window_seconds,
        head=HeadOptions(**head),
        spectrogram=spectrogram,
    )


if __name__ == "__main__":
    SAVERS[sys.argv[1]](Path(sys.argv[2]))
