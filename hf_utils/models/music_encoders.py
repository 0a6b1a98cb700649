"""Encoders of music on the Hub that transformers does not list as audio classifiers: CLAP's audio tower, MERT, MuQ.

Each is used as it was pretrained, or refused with the reason.
"""

from typing import Any

from torch import nn
from transformers import ClapFeatureExtractor, HubertConfig, PreTrainedConfig, Wav2Vec2FeatureExtractor

from hf_utils.errors import UserError
from hf_utils.models.encoder_mlp.configuration_muq import MuQConfig

# CLAP as a whole, and its audio tower alone.
CLAP_TYPES = ("clap", "clap_audio_model")

# transformers has no classifier for these, so they get a head of ours.
HEADLESS_TYPES = (*CLAP_TYPES, MuQConfig.model_type)

# Fields of MuQ's own configuration, which has no model_type.
_MUQ_FIELDS = frozenset({"label_rate", "encoder_dim", "encoder_depth", "conv_dim", "w2v2_config", "stat"})
_MUQ_FEATURES = "melspec_2048"
# Steps per second -> strides of its two convolutions over 100 frames per second.
_MUQ_STRIDES = {25: (2, 2), 50: (2, 1)}


def read_mert_config(name: str, raw: dict[str, Any]) -> HubertConfig:
    """Return the configuration of a MERT (Li et al. 2023, arXiv 2306.00107) as that of the HuBERT which it is.

    Without constant-Q features and DeepNorm, as in MERT-v1-95M and MERT-v1-330M, MERT's own code builds HuBERT's parts
    under HuBERT's names, so its weights fill a HuBERT and give the same outputs. Its code, which then is not run,
    returns no hidden states of single layers under transformers 5.

    Raises:
        UserError: the configuration asks for parts that HuBERT does not have.
    """
    for option, part in (("feature_extractor_cqt", "constant-Q features"), ("deepnorm", "DeepNorm")):
        if raw.get(option):
            raise UserError(
                f"{name!r} is a MERT with {part} ({option} in its config.json), expected one without, such as "
                "m-a-p/MERT-v1-95M or m-a-p/MERT-v1-330M: this one is more than the HuBERT that transformers has"
            )
    dropped = ("model_type", "auto_map", "architectures", "transformers_version")
    return HubertConfig.from_dict({key: value for key, value in raw.items() if key not in dropped})


def is_muq(raw: dict[str, Any]) -> bool:
    """Return whether a config.json is that of MuQ, which names no model_type."""
    return _MUQ_FIELDS <= raw.keys()


def read_muq_config(name: str, raw: dict[str, Any]) -> MuQConfig:
    """Return the configuration of a MuQ as our own code reads it, which has no part of its pretraining.

    Raises:
        UserError: the configuration asks for something else than the published models do.
    """
    stat, rate = raw["stat"], raw["label_rate"]
    found = {"features": raw.get("features", [_MUQ_FEATURES]), "n_mels": raw.get("n_mels", 128), "label_rate": rate}
    if found != {"features": [_MUQ_FEATURES], "n_mels": 128, "label_rate": rate} or rate not in _MUQ_STRIDES:
        raise UserError(
            f"{name!r} is a MuQ with {found}, expected features [{_MUQ_FEATURES!r}], n_mels 128 and label_rate 25 or "
            "50, such as OpenMuQ/MuQ-large-msd-iter"
        )
    if not {f"{_MUQ_FEATURES}_mean", f"{_MUQ_FEATURES}_std"} <= stat.keys():
        raise UserError(
            f"the config.json of {name!r} has no {_MUQ_FEATURES}_mean and {_MUQ_FEATURES}_std in its stat: MuQ "
            "normalises its spectrogram by them"
        )
    dropped = ("model_type", "auto_map", "architectures", "transformers_version", "_name_or_path")
    conformer = {key: value for key, value in raw["w2v2_config"].items() if key not in dropped}
    return MuQConfig(
        hidden_size=raw["encoder_dim"],
        num_hidden_layers=raw["encoder_depth"],
        conv_channels=raw["conv_dim"],
        time_strides=_MUQ_STRIDES[rate],
        hop_length=raw.get("hop_length", 240),
        mel_mean=stat[f"{_MUQ_FEATURES}_mean"],
        mel_std=stat[f"{_MUQ_FEATURES}_std"],
        conformer_config=conformer | {"layerdrop": 0.0},
    )


def make_muq_extractor(config: MuQConfig) -> Wav2Vec2FeatureExtractor:
    """Return the feature extractor that MuQ's checkpoints lack: it hears the samples as they are."""
    return Wav2Vec2FeatureExtractor(sampling_rate=config.sample_rate, do_normalize=False)


def fit_muq(config: MuQConfig, window_samples: int) -> None:
    """Raise UserError for a window that is too short for the spectrogram of MuQ."""
    if window_samples <= config.n_fft // 2:
        seconds = config.n_fft / 2 / config.sample_rate
        raise UserError(f"a window of {window_samples} samples is too short for muq: take more than {seconds:.3f} s")


def fit_clap(backbone: nn.Module, feature_extractor) -> None:
    """Check that CLAP's audio tower and an extractor belong together; stop what no window of ours uses from learning.

    Windows are as long as the extractor's input, so that it neither repeats nor cuts them, and none is "longer". Parts
    that fuse views of longer clips then have no gradient, which would stop training by several processes.

    Raises:
        UserError: another extractor, other mel bands, or one of a fused and an unfused model with the other's part.
    """
    config: PreTrainedConfig = backbone.config
    if type(feature_extractor) is not ClapFeatureExtractor:
        raise UserError(
            f"the feature extractor is {type(feature_extractor).__name__}, expected ClapFeatureExtractor: "
            "preprocessor_config.json and config.json do not belong together"
        )
    frames = feature_extractor.nb_max_samples // feature_extractor.hop_length + 1
    most_frames = config.spec_size * (config.spec_size // config.num_mel_bins)
    truncation = "fusion" if config.enable_fusion else "rand_trunc"
    for what, found, expected, fits in (
        (
            "truncation",
            repr(feature_extractor.truncation),
            repr(truncation),
            feature_extractor.truncation == truncation,
        ),
        (
            "feature_size",
            feature_extractor.feature_size,
            config.num_mel_bins,
            feature_extractor.feature_size == config.num_mel_bins,
        ),
        ("number of frames", frames, f"at most {most_frames}", frames <= most_frames),
    ):
        if not fits:
            raise UserError(
                f"the feature extractor's {what} is {found}, expected {expected}: preprocessor_config.json and "
                "config.json do not belong together"
            )
    if config.enable_fusion:
        for part in (backbone.audio_encoder.patch_embed.fusion_model, backbone.audio_encoder.patch_embed.mel_conv2d):
            part.requires_grad_(False)
