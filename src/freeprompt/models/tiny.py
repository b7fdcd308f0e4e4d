"""Tiny random models of the real classes: for tests, docs and a first smoke run, no download."""

from typing import Any

import torch

from freeprompt.core.schedule import Prediction

WORDS = (
    *("a", "an", "the", "of", "in", "on", "at", "red", "blue", "green", "black", "white"),
    *("dog", "cat", "rabbit", "horse", "car", "photo", "park", "standing", "street", "night"),
)


def tiny_sd(
    *,
    seed: int = 0,
    prediction: Prediction = "epsilon",
    in_channels: int = 4,
    sample_size: int = 16,
    channels: tuple[int, int, int, int] = (16, 16, 16, 16),
    heads: int = 2,
    width: int = 32,
    vae_channels: tuple[int, ...] = (8, 8, 8, 8),
) -> Any:
    """Build a random `StableDiffusionPipeline` in exactly Stable Diffusion 1's anatomy.

    Sixteen transformer blocks in SD 1's places, 8:1 between the finest and the coarsest grid, a
    CLIP tokenizer that splits unknown words into letters. It draws noise, and draws it fast.

    Args:
        seed: Of the weights; the global random state is left as it was.
        prediction: What the UNet is declared to predict; `v_prediction` stands for SD 2.x.
        in_channels: Of the UNet: 8 stands for InstructPix2Pix, 9 for an inpainting model.
        sample_size: Side of the latent grid.
        channels: Channels of the four UNet levels, each divisible by 8.
        heads: Attention heads.
        width: Width of the text encoder.
        vae_channels: Channels of the VAE levels; their number sets the pixels a latent cell.
    """
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        text = _text_encoder(tokenizer, width)
        unet = UNet2DConditionModel(
            sample_size=sample_size,
            in_channels=in_channels,
            block_out_channels=channels,
            layers_per_block=2,
            norm_num_groups=8,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=width,
            attention_head_dim=heads,
        )
        vae = _vae(vae_channels, sample_size)
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=sd_scheduler(prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _ready(pipe, vae, text, unet)


def tiny_sdxl(
    *,
    seed: int = 0,
    prediction: Prediction = "epsilon",
    in_channels: int = 4,
    sample_size: int = 16,
    channels: tuple[int, int, int] = (16, 16, 32),
    heads: int = 2,
    width: int = 32,
    second_width: int | None = None,
    transformers: tuple[int, int, int] = (1, 1, 2),
    vae_channels: tuple[int, ...] = (8, 8, 8, 8),
) -> Any:
    """Build a random `StableDiffusionXLPipeline` in SDXL's anatomy, with fewer layers.

    No attention on the finest grid, two text encoders, pooled embedding and size conditions.

    Args:
        seed: Of the weights; the global random state is left as it was.
        prediction: What the UNet is declared to predict.
        in_channels: Of the UNet: 8 stands for InstructPix2Pix, 9 for an inpainting model.
        sample_size: Side of the latent grid.
        channels: Channels of the three UNet levels, each divisible by 8.
        heads: Attention heads.
        width: Width of each text encoder.
        second_width: Width of the second one, where it is to differ.
        transformers: Transformer blocks per attention at each level; SDXL has 1, 2 and 10.
        vae_channels: Channels of the VAE levels; their number sets the pixels a latent cell.
    """
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizers = [tiny_tokenizer() for _ in range(2)]
        second = width if second_width is None else second_width
        texts = [_text_encoder(tokenizers[0], width), _text_encoder(tokenizers[1], second, second)]
        unet = UNet2DConditionModel(
            sample_size=sample_size,
            in_channels=in_channels,
            block_out_channels=channels,
            layers_per_block=2,
            norm_num_groups=8,
            down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
            transformer_layers_per_block=transformers,
            cross_attention_dim=width + second,
            attention_head_dim=heads,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=second + 6 * 8,
        )
        vae = _vae(vae_channels, sample_size)
    pipe = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=texts[0],
        text_encoder_2=texts[1],
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=unet,
        scheduler=sd_scheduler(prediction),
        add_watermarker=False,
    )
    return _ready(pipe, vae, *texts, unet)


def _text_encoder(tokenizer: Any, width: int, projection: int | None = None) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **({} if projection is None else {"projection_dim": projection}),
    )
    return CLIPTextModel(config) if projection is None else CLIPTextModelWithProjection(config)


def _vae(channels: tuple[int, ...], latent_side: int) -> Any:
    from diffusers import AutoencoderKL

    levels = len(channels)
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=latent_side * 2 ** (levels - 1),
    )


def _ready(pipe: Any, *modules: Any) -> Any:
    for module in modules:
        module.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd_scheduler(prediction: Prediction = "epsilon") -> Any:
    """Return diffusers' DDIM scheduler as Stable Diffusion configures it."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )


def tiny_tokenizer() -> Any:
    """Return a CLIP tokenizer that knows `WORDS` and spells everything else."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    pieces = sorted(ByteLevel.alphabet())
    vocab = {piece: i for i, piece in enumerate(pieces)}
    vocab |= {f"{piece}</w>": len(vocab) + i for i, piece in enumerate(pieces)}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        left, *rest = _merged([*word[:-1], f"{word[-1]}</w>"], merges)
        for right in rest:
            vocab[left + right] = len(vocab)
            merges.append((left, right))
            left += right
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def _merged(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Return what earlier words' merges make of a word, as the tokenizer will apply them first."""
    for pair in merges:
        i = 0
        while i < len(pieces) - 1:
            if (pieces[i], pieces[i + 1]) == pair:
                pieces = [*pieces[:i], "".join(pair), *pieces[i + 2 :]]
            i += 1
    return pieces
