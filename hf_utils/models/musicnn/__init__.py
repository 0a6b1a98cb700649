"""MusiCNN, a small convolutional net for music tags, known to the Auto classes of this process.

As for the spectrogram CNN, the other files of this folder travel with the weights and import nothing of this project.
"""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification

from .configuration_musicnn import MusiCNNConfig
from .feature_extraction_musicnn import MusiCNNFeatureExtractor
from .modeling_musicnn import MusiCNNForAudioClassification

AutoConfig.register(MusiCNNConfig.model_type, MusiCNNConfig)
AutoFeatureExtractor.register(MusiCNNConfig, MusiCNNFeatureExtractor)
AutoModelForAudioClassification.register(MusiCNNConfig, MusiCNNForAudioClassification)
MusiCNNConfig.register_for_auto_class()
MusiCNNFeatureExtractor.register_for_auto_class()
MusiCNNForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")

__all__ = ["MusiCNNConfig", "MusiCNNFeatureExtractor", "MusiCNNForAudioClassification"]
