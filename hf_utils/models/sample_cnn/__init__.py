"""A convolutional net that reads samples, not spectrograms, known to the Auto classes of this process.

As for the spectrogram CNN, the other files of this folder travel with the weights and import nothing of this project.
"""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification, Wav2Vec2FeatureExtractor

from .configuration_sample_cnn import SampleCNNConfig
from .modeling_sample_cnn import SampleCNNForAudioClassification

AutoConfig.register(SampleCNNConfig.model_type, SampleCNNConfig)
AutoFeatureExtractor.register(SampleCNNConfig, Wav2Vec2FeatureExtractor)
AutoModelForAudioClassification.register(SampleCNNConfig, SampleCNNForAudioClassification)
SampleCNNConfig.register_for_auto_class()
SampleCNNForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")

__all__ = ["SampleCNNConfig", "SampleCNNForAudioClassification"]
