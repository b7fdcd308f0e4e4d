"""The networks have Stable Diffusion 1's anatomy, and stock diffusers runs them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from freeprompt.errors import ConfigError, ModelError
from freeprompt.train.anatomy import (
    build_text_encoder,
    build_unet,
    build_vae,
    centre_latents,
    load_vae,
)
from freeprompt.train.config import PRESETS, Preset
from freeprompt.train.data import Seeds, rendered_batch, scene_at
from freeprompt.train.model import (
    SHEET_PROMPTS,
    draw_prompts,
    loss_weight,
    stratified_timesteps,
)
from freeprompt.train.tokenizer import build_tokenizer
from freeprompt.train.vae import encode, psnr
from freeprompt.world import parse_scene, vocabulary


def test_every_word_is_one_token() -> None:
    tokenizer = build_tokenizer(vocabulary())
    for word in vocabulary():
        ids = tokenizer(word).input_ids
        assert len(ids) == 3, word
        assert tokenizer.decode(ids[1:2]).strip() == word


def test_prompts_are_padded_like_stable_diffusions() -> None:
    tokenizer = build_tokenizer(vocabulary())
    ids = tokenizer(["a red car.", ""], padding="max_length", truncation=True).input_ids
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert end == len(tokenizer) - 1 == tokenizer.pad_token_id
    assert [len(row) for row in ids] == [77, 77]
    assert ids[0][0] == start
    assert ids[0][5:] == [end] * 72
    assert ids[1] == [start] + [end] * 76


def test_words_inside_words_and_unknown_words() -> None:
    tokenizer = build_tokenizer(["scar", "car", "cart", "oscar"])
    assert [len(tokenizer(w).input_ids) for w in ("scar", "car", "cart", "oscar")] == [3] * 4
    assert len(tokenizer("xyzzy").input_ids) == 7
    with pytest.raises(ConfigError, match="t-shirt"):
        build_tokenizer(["t-shirt"])


@pytest.mark.parametrize("name", PRESETS)
def test_sixteen_transformer_blocks_and_the_size_limit(name: str) -> None:
    preset = PRESETS[name]
    with torch.device("meta"):
        unet = build_unet(preset.model, preset.vae)
        vae = build_vae(preset.vae)
        text = build_text_encoder(preset.model, build_tokenizer(vocabulary()))
    sites = [key for key in unet.attn_processors if key.endswith("attn1.processor")]
    places = [".".join(key.split(".")[:2]) for key in sites]
    wanted = {f"down_blocks.{i}": 2 for i in range(3)} | {f"up_blocks.{i}": 3 for i in (1, 2, 3)}
    wanted["mid_block.attentions"] = 1
    assert {place: places.count(place) for place in places} == wanted
    assert text.config.eos_token_id != 2
    weights = sum(p.numel() for m in (unet, vae, text) for p in m.parameters())
    assert weights * 2 < 47.5e6


def test_a_stock_pipeline_loads_and_generates(runs: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(runs / "pipeline")
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.scheduler.config.clip_sample is False
    assert pipeline.unet.dtype == pipeline.text_encoder.dtype == torch.float32
    images = draw_prompts(pipeline, ["a red car", "a cat"], steps=2, guidance=5.0)
    assert images.shape == (2, 32, 32, 3)
    assert np.array_equal(images[1], draw_prompts(pipeline, ["a red car", "a cat"], 2, 5.0)[1])


def test_shipped_files_are_half_precision(runs: Path) -> None:
    files = sorted((runs / "pipeline").rglob("*.safetensors"))
    assert len(files) == 3
    half = StableDiffusionPipeline.from_pretrained(runs / "pipeline").components
    stored = sum(p.numel() for n in ("unet", "vae", "text_encoder") for p in half[n].parameters())
    assert sum(file.stat().st_size for file in files) < 2 * stored + 100_000


def test_latents_have_unit_variance_and_no_mean(tiny: Preset, runs: Path) -> None:
    vae = load_vae(runs / "vae" / "vae")
    images = torch.cat([rendered_batch(Seeds.VAE, i, 16, tiny.vae.resolution) for i in range(2)])
    latents = encode(vae, images)
    assert vae.config.scaling_factor != 1.0
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 0.01
    assert latents.square().mean() == pytest.approx(1.0, abs=0.01)


def test_centring_changes_no_reconstruction(tiny: Preset) -> None:
    torch.manual_seed(3)
    vae = build_vae(tiny.vae)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = vae(images).sample
        centre_latents(vae, torch.tensor([0.5, -1.0, 2.0, 0.1]))
        after = vae(images).sample
    assert torch.allclose(before, after, atol=1e-5)


def test_psnr() -> None:
    image = torch.zeros(1, 3, 4, 4)
    assert psnr(image + 0.2, image).item() == pytest.approx(20.0, abs=1e-4)


def test_weights_of_the_two_predictions_agree() -> None:
    snr = torch.tensor([0.01, 1.0, 4.0, 99.0])
    velocity, epsilon = loss_weight(snr, "v_prediction"), loss_weight(snr, "epsilon")
    assert torch.allclose(velocity, torch.tensor([1.0, 1.0, 1.0, 0.05]))
    assert torch.allclose(epsilon, velocity * (snr + 1) / snr)


def test_timesteps_cover_the_schedule_evenly() -> None:
    timesteps = stratified_timesteps(10, torch.Generator().manual_seed(0))
    assert sorted((timesteps // 100).tolist()) == list(range(10))


def test_the_sheets_prompts_belong_to_the_world() -> None:
    for prompt in SHEET_PROMPTS:
        assert parse_scene(prompt).caption() == prompt


def test_a_missing_or_damaged_autoencoder(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a finished autoencoder"):
        load_vae(tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        load_vae(tmp_path / "missing")
    shutil.copytree(runs / "vae" / "vae", tmp_path / "copy")
    weights = tmp_path / "copy" / "diffusion_pytorch_model.safetensors"
    pickled = weights.with_suffix(".bin")
    torch.save({"decoder.conv_in.weight": torch.zeros(1)}, pickled)
    weights.unlink()
    with pytest.raises(ModelError, match="safetensors"):
        load_vae(tmp_path / "copy")


def test_held_out_scenes_are_drawn_alike() -> None:
    assert scene_at(1, 1, "held-out") == scene_at(1, 1, "held-out")
