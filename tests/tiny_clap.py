"""A random CLAP of 300,000 weights, saved as the Hub has it."""

from pathlib import Path

import tokenizers
import torch
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    PreTrainedTokenizerFast,
)

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "this", "is", "music", "blues", "jazz", "rock", "hip", "hop", "."]


def save_clap(folder: Path, truncation: str = "fusion", **changes) -> str:
    """Save the model, without fusion unless `changes` of its audio tower say so, and return its folder."""
    torch.manual_seed(0)
    text = ClapTextConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        projection_dim=16,
    )
    audio = ClapAudioConfig(
        patch_embeds_hidden_size=8,
        hidden_size=64,
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        projection_dim=16,
        num_classes=4,
        **changes,
    )
    model = ClapModel(ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=16)).eval()
    model.save_pretrained(folder)
    # "fusion" is the extractor's default, which an unfused model cannot take.
    ClapFeatureExtractor(truncation=truncation).save_pretrained(folder)
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    words.normalizer = tokenizers.normalizers.Lowercase()
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    return str(folder)
