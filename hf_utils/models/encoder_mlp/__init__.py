"""Any audio encoder with a head of two layers, known to the Auto classes of this process.

As for the spectrogram CNN, the other files of this folder travel with the weights and import nothing of this project.
"""

from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification, ClapAudioConfig, ClapAudioModel

from .configuration_encoder_mlp import EncoderMLPConfig
from .configuration_muq import MuQConfig
from .modeling_encoder_mlp import EncoderMLPForAudioClassification
from .modeling_muq import MuQModel

AutoConfig.register(EncoderMLPConfig.model_type, EncoderMLPConfig)
AutoConfig.register(MuQConfig.model_type, MuQConfig)
AutoModel.register(MuQConfig, MuQModel)
# transformers lists CLAP as a whole only.
AutoModel.register(ClapAudioConfig, ClapAudioModel, exist_ok=True)
AutoModelForAudioClassification.register(EncoderMLPConfig, EncoderMLPForAudioClassification)
EncoderMLPConfig.register_for_auto_class()
EncoderMLPForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")

__all__ = ["EncoderMLPConfig", "EncoderMLPForAudioClassification"]
