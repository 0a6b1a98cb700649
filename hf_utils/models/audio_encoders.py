"""Audio checkpoints as encoders under a head of two layers."""

from transformers import AutoModel, PreTrainedConfig

from hf_utils.errors import UserError
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.encoder_mlp import EncoderMLPConfig, EncoderMLPForAudioClassification
from hf_utils.models.families import family_of


def wrap_encoder(
    checkpoint: Checkpoint, config: PreTrainedConfig, head_hidden_size: int, head_dropout: float
) -> EncoderMLPForAudioClassification:
    """Return the encoder of an audio checkpoint, with all of its weights, under an untrained head of two layers.

    Raises:
        UserError: the head does not fit this kind of model, or the weights do not fill the encoder.
    """
    if family_of(config) == "other":
        raise UserError(f"--head mlp is for AST and for models that read waveforms, not for {config.model_type}")
    encoder, _ = checkpoint.load_model(AutoModel, config)
    # Labels and type are the outer model's business; those of AudioSet would stand beside the genres.
    encoder.config.num_labels, encoder.config.problem_type, encoder.config.dtype = 2, None, None
    model = EncoderMLPForAudioClassification(
        EncoderMLPConfig(
            encoder_config=encoder.config,
            head_hidden_size=head_hidden_size,
            head_dropout=head_dropout,
        )
    )
    model.encoder.load_state_dict(encoder.state_dict(), strict=True)
    return model.eval()
