"""Any audio encoder with a head of two layers, known to the Auto classes of this process.

As for the spectrogram CNN, the other files of this folder travel with the weights and import nothing of this project.
"""

from transformers import AutoConfig, AutoModelForAudioClassification

from .configuration_encoder_mlp import EncoderMLPConfig
from .modeling_encoder_mlp import EncoderMLPForAudioClassification

AutoConfig.register(EncoderMLPConfig.model_type, EncoderMLPConfig)
AutoModelForAudioClassification.register(EncoderMLPConfig, EncoderMLPForAudioClassification)
EncoderMLPConfig.register_for_auto_class()
EncoderMLPForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")

__all__ = ["EncoderMLPConfig", "EncoderMLPForAudioClassification"]
