"""Encoders of music on the Hub that transformers does not list as audio classifiers: CLAP's audio tower, MERT, MuQ.

Each is used as it was pretrained, or refused with the reason. B windows, H hidden size, F frequency, T time.
"""

from typing import Any

from torch import nn
from transformers import ClapFeatureExtractor, HubertConfig, PreTrainedConfig

from hf_utils.errors import UserError

# CLAP as a whole, and its audio tower alone.
CLAP_TYPES = ("clap", "clap_audio_model")

# Fields of MuQ's own configuration, which has no model_type.
_MUQ_FIELDS = frozenset({"label_rate", "encoder_dim", "encoder_depth", "codebook_size"})


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


def refuse_muq(name: str, raw: dict[str, Any]) -> None:
    """Raise UserError for a configuration of MuQ (Zhu et al. 2025, arXiv 2501.01108)."""
    if _MUQ_FIELDS <= raw.keys():
        raise UserError(
            f"{name!r} is a MuQ, of which only the Python package muq knows the network: its config.json has no "
            "model_type, and transformers has no class for it. Music encoders that can be used here: MERT, MAEST, CLAP"
        )


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
