"""The modules of emoji-sd, each the stock class in Stable Diffusion 1's shape."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from freeprompt.errors import ModelError
from freeprompt.train.config import ModelConfig, VAEConfig

TRAIN_TIMESTEPS = 1000


def build_vae(config: VAEConfig) -> nn.Module:
    """Build the autoencoder: three levels, so that a latent is 4 times smaller than the image."""
    vae: nn.Module = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=config.latent_channels,
        block_out_channels=config.channels,
        layers_per_block=config.layers_per_block,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=config.norm_groups,
        sample_size=config.resolution,
    )
    return vae


def build_unet(model: ModelConfig, vae: VAEConfig) -> nn.Module:
    """Build the denoiser with SD1's sixteen transformer blocks in SD1's places."""
    unet: nn.Module = UNet2DConditionModel(
        sample_size=vae.latent_size,
        in_channels=vae.latent_channels,
        out_channels=vae.latent_channels,
        layers_per_block=2,
        block_out_channels=model.channels,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=model.text_width,
        attention_head_dim=model.heads,
        norm_num_groups=model.norm_groups,
    )
    return unet


def build_text_encoder(config: ModelConfig, tokenizer: CLIPTokenizer) -> nn.Module:
    """Build the causal text encoder for the tokenizer's vocabulary and 77 positions."""
    encoder: nn.Module = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.text_width,
            intermediate_size=4 * config.text_width,
            projection_dim=config.text_width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=config.text_heads,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    return encoder


def build_scheduler(config: ModelConfig) -> DDIMScheduler:
    """Build SD1's noise schedule; every setting that has a differing default is spelt out."""
    return DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=config.prediction,
    )


@torch.no_grad()
def centre_latents(vae: Any, mean: Tensor) -> None:
    """Move the mean of the latents to zero without changing what the autoencoder computes.

    Stable Diffusion 1 has a factor for latents but no shift, so the shift goes into the two 1x1
    convolutions on either side of the latent.

    Args:
        vae: The autoencoder; changed in place.
        mean: Mean of its latents per channel, `(channels,)`, unscaled.
    """
    mean = mean.to(vae.quant_conv.bias)
    kernel = vae.post_quant_conv.weight[:, :, 0, 0]
    vae.post_quant_conv.bias += kernel @ mean
    vae.quant_conv.bias[: len(mean)] -= mean


def assemble(
    vae: nn.Module,
    text_encoder: nn.Module,
    tokenizer: CLIPTokenizer,
    unet: nn.Module,
    config: ModelConfig,
) -> StableDiffusionPipeline:
    """Put the parts together as a stock pipeline without safety checker."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _loaded(kind: Any, folder: Path, what: str) -> Any:
    """Load what `save_pretrained` wrote, from safetensors alone.

    Raises:
        ModelError: if the folder holds no such thing.
    """
    try:
        if not folder.is_dir():
            raise OSError("there is no such folder")
        return kind.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except (OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise ModelError(f"{folder} is not {what}: {error}") from error


def load_pipeline(folder: Path, device: torch.device) -> StableDiffusionPipeline:
    """Load a saved pipeline in single precision.

    Raises:
        ModelError: if diffusers cannot load the folder.
    """
    pipeline = _loaded(StableDiffusionPipeline, folder, "a saved Stable Diffusion pipeline")
    pipeline.set_progress_bar_config(disable=True)
    loaded: StableDiffusionPipeline = pipeline.to(device, torch.float32)
    return loaded


def load_vae(folder: Path) -> Any:
    """Load a finished autoencoder.

    Raises:
        ModelError: if the folder holds none.
    """
    vae = _loaded(AutoencoderKL, folder, "a finished autoencoder (train one first)")
    return vae.eval().requires_grad_(False)


def _tidy(path: Path) -> None:
    """Remove the path that a part was loaded from, and have transformers load it as float32.

    Without the second, the text encoder of a pipeline that is loaded without a dtype would be in
    half precision and its UNet in single precision.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    if "dtype" in config:
        config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _name_as_ever(weights: Path) -> None:
    """Give a text encoder's weights the names that they have in checkpoints of Stable Diffusion.

    transformers 5.23 drops `text_model.` when it saves, and reads both. 5.0 and 4 find nothing
    under the short names and go on with random weights.
    """
    tensors = {
        f"text_model.{name.removeprefix('text_model.')}": value
        for name, value in load_file(weights).items()
    }
    save_file(tensors, weights, metadata={"format": "pt"})


def _spell_as_ever(folder: Path) -> None:
    """Write a tokenizer's words as transformers 4 reads them, too: vocab.json and merges.txt."""
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]) + "\n", encoding="utf-8")
    merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")


def save_pipeline(
    pipeline: StableDiffusionPipeline, folder: Path, dtype: torch.dtype = torch.float16
) -> int:
    """Save a pipeline as `from_pretrained` wants it, today's and older ones'.

    The pipeline takes on `dtype`.

    Returns:
        Size of the folder in bytes.
    """
    pipeline.to(dtype=dtype).save_pretrained(folder, safe_serialization=True)
    _name_as_ever(folder / "text_encoder" / "model.safetensors")
    _spell_as_ever(folder / "tokenizer")
    for config in folder.glob("*/config.json"):
        _tidy(config)
    files = [path for path in folder.rglob("*") if path.is_file()]
    for file in files:
        file.chmod(0o644)  # safetensors writes for the owner alone
    return sum(file.stat().st_size for file in files)
