"""Tiny random text-to-music checkpoints, built from configurations: the real loading code runs, without a network."""

from pathlib import Path

import torch
from transformers import (
    EncodecConfig,
    EncodecFeatureExtractor,
    GenerationConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenProcessor,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

CODEBOOK_SIZE = 64
WIDTH = 16


def make_tokenizer() -> T5TokenizerFast:
    """Return a Unigram tokenizer of letters, digits and a few words."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz0123456789", "▁blues", "▁jazz", "▁metal"]
    return T5TokenizerFast(vocab=[(piece, -float(rank)) for rank, piece in enumerate(pieces)], extra_ids=0)


def make_text_config(vocab_size: int) -> T5Config:
    """Return a one-layer text encoder's configuration."""
    return T5Config(vocab_size=vocab_size, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)


def save_tiny_musicgen(folder: Path, *, stereo: bool = False) -> str:
    """Save a random MusicGen of 50 frames a second at 32 kHz, 4 codebooks per channel; return its folder."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    channels = 2 if stereo else 1
    audio_encoder = EncodecConfig(
        sampling_rate=32000,
        audio_channels=1,
        normalize=False,
        use_causal_conv=False,
        upsampling_ratios=[8, 5, 4, 4],
        num_filters=4,
        hidden_size=WIDTH,
        codebook_dim=WIDTH,
        codebook_size=CODEBOOK_SIZE,
        num_lstm_layers=1,
        # 1.2 kbit/s at 50 frames of log2(64) bits: 4 codebooks, as in the published checkpoints.
        target_bandwidths=[1.2],
    )
    decoder = MusicgenDecoderConfig(
        vocab_size=CODEBOOK_SIZE,
        num_codebooks=4 * channels,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=32,
        pad_token_id=CODEBOOK_SIZE,
        bos_token_id=CODEBOOK_SIZE,
        audio_channels=channels,
    )
    config = MusicgenConfig(
        text_encoder=make_text_config(len(tokenizer)), audio_encoder=audio_encoder, decoder=decoder
    )
    model = MusicgenForConditionalGeneration(config).eval()
    with torch.no_grad():
        # Codebooks start as zeros: without this, every code would decode to one and the same sound.
        for layer in model.audio_encoder.quantizer.layers:
            layer.codebook.embed.normal_()
            layer.codebook.embed_avg.copy_(layer.codebook.embed)
        # Random biases would be all that one hears.
        for name, parameter in model.audio_encoder.named_parameters():
            if "bias" in name:
                parameter.zero_()
        # Noise of 0.1 comes out of the encoder at 0.0007, and codes of 1 out of the decoder as near silence.
        model.audio_encoder.encoder.layers[-1].conv.parametrizations.weight.original0.mul_(1400)
        model.audio_encoder.decoder.layers[0].conv.parametrizations.weight.original0.mul_(100)
        # A random network's logits are nearly flat; larger weights make the text matter.
        for parameter in model.decoder.parameters():
            parameter.mul_(4)
    model.generation_config = GenerationConfig(
        do_sample=True,
        guidance_scale=3.0,
        max_length=1500,
        bos_token_id=CODEBOOK_SIZE,
        pad_token_id=CODEBOOK_SIZE,
        decoder_start_token_id=CODEBOOK_SIZE,
    )
    model.save_pretrained(folder)
    extractor = EncodecFeatureExtractor(feature_size=channels, sampling_rate=32000, padding_side="left")
    MusicgenProcessor(extractor, tokenizer).save_pretrained(folder)
    return str(folder)


def save_tiny_stable_audio(folder: Path) -> str:
    """Save a random Stable Audio pipeline of diffusers: 2 s at most, 16 kHz, stereo; return its folder."""
    from diffusers import (
        AutoencoderOobleck,
        EDMDPMSolverMultistepScheduler,
        StableAudioDiTModel,
        StableAudioPipeline,
        StableAudioProjectionModel,
    )

    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 32
    # 256 samples per latent frame.
    vae = AutoencoderOobleck(
        encoder_hidden_size=4,
        downsampling_ratios=[4, 8, 8],
        channel_multiples=[1, 2, 4],
        decoder_channels=4,
        decoder_input_channels=4,
        sampling_rate=16000,
    )
    transformer = StableAudioDiTModel(
        sample_size=125,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=4,
        num_key_value_attention_heads=2,
        cross_attention_dim=WIDTH,
        cross_attention_input_dim=WIDTH,
        global_states_input_dim=2 * WIDTH,
        time_proj_dim=8,
    )
    pipeline = StableAudioPipeline(
        vae=vae,
        text_encoder=T5EncoderModel(make_text_config(len(tokenizer))),
        projection_model=StableAudioProjectionModel(WIDTH, WIDTH, min_value=0, max_value=32),
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=EDMDPMSolverMultistepScheduler(),
    )
    pipeline.save_pretrained(folder)
    return str(folder)
