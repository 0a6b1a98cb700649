"""The spectrogram CNN: an image backbone that reads spectrograms, known to the Auto classes of this process.

The other files of this folder are copied into every saved checkpoint, so that it loads elsewhere with
`trust_remote_code=True`. They import nothing of this project, and each other only as `from .name import X`.
"""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification

from .configuration_spectrogram_cnn import SpectrogramCNNConfig
from .feature_extraction_spectrogram_cnn import SpectrogramCNNFeatureExtractor
from .modeling_spectrogram_cnn import SpectrogramCNNForAudioClassification

AutoConfig.register(SpectrogramCNNConfig.model_type, SpectrogramCNNConfig)
AutoFeatureExtractor.register(SpectrogramCNNConfig, SpectrogramCNNFeatureExtractor)
AutoModelForAudioClassification.register(SpectrogramCNNConfig, SpectrogramCNNForAudioClassification)
SpectrogramCNNConfig.register_for_auto_class()
SpectrogramCNNFeatureExtractor.register_for_auto_class()
SpectrogramCNNForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")

__all__ = ["SpectrogramCNNConfig", "SpectrogramCNNFeatureExtractor", "SpectrogramCNNForAudioClassification"]
