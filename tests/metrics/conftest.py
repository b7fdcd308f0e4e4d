"""Pictures to compare, and tiny random networks of the real classes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.metrics.samples import noisy, photo
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    ViTConfig,
    ViTModel,
)

from freeprompt.models.tiny import tiny_tokenizer


@pytest.fixture(scope="session")
def pair() -> tuple[Image.Image, Image.Image]:
    return photo(), noisy(photo())


@pytest.fixture(scope="session")
def region() -> np.ndarray:
    mask = np.zeros((48, 64), bool)
    mask[5:40, 20:50] = True
    return mask


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A random CLIP as `save_pretrained` leaves it."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = tiny_tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    text = CLIPTextConfig(
        **small,
        num_attention_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=20,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(**small, num_attention_heads=2, image_size=32, patch_size=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = CLIPConfig(
            text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8
        )
        CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "clip"
    return folder


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory):
    """A random vision transformer as `save_pretrained` leaves it."""
    folder = tmp_path_factory.mktemp("vit")
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder
