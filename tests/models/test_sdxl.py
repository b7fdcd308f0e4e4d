"""SDXL: the stock pipeline's own conditions, sites of the real anatomy, every method."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from freeprompt.api import Editor
from freeprompt.core import Sites
from freeprompt.errors import UnsupportedModel
from freeprompt.inversion import INVERSIONS
from freeprompt.methods import METHODS
from freeprompt.models import adapt
from freeprompt.models.fingerprint import fingerprint
from freeprompt.models.tiny import tiny_sdxl
from freeprompt.models.walk import unet_sites

SOURCE, TARGET = "a red dog", "a blue cat"
STEPS = 4


@pytest.fixture(scope="module")
def pipe():
    return tiny_sdxl()


@pytest.fixture(scope="module")
def editor(pipe):
    return Editor(pipe, name="tiny-sdxl")


@pytest.fixture(scope="module")
def full():
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            layers_per_block=2,
            down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
            transformer_layers_per_block=(1, 2, 10),
            cross_attention_dim=2048,
            attention_head_dim=(5, 10, 20),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    return unet_sites(unet)


def test_the_anatomy_of_sdxl(full):
    """4 + 20 layers down, 10 in the middle, 30 + 6 up; the finest attention has 64x64 tokens."""
    selves = [site for site in full if site.kind == "self"]
    grids = [site.grid(128, 128)[0] for site in selves]
    assert grids == [64] * 4 + [32] * 20 + [32] * 10 + [32] * 30 + [64] * 6
    below = Sites("self:below-top").select(full)
    assert [site.index for site in below] == [*range(5, 65)]


def test_defaults_of_methods_land_where_their_authors_put_them(full):
    late = Sites(str(METHODS["masactrl"]().sites)).select(full)
    assert [site.index for site in late] == [*range(45, 71)]  # "layer 44", counted from 0
    decoder = Sites(str(METHODS["pnp"]().sites)).select(full)
    assert [site.index for site in decoder] == [*range(36, 71)]
    assert [site.block for site in METHODS["pnp"]().feature.select(full)] == ["up.0.1"]
    words = METHODS["fpe-protect"]().word_sites.select(full)
    assert {site.grid(128, 128) for site in words} == {(32, 32)}


@pytest.mark.parametrize("size", [(128, 128), (192, 64)])
@pytest.mark.parametrize("negative", ["", "blue"])
def test_the_plain_picture_is_the_stock_pipelines(editor, pipe, size, negative):
    """At share 0 source and target are what diffusers draws, size conditions and all."""
    width, height = size
    noise = torch.randn(1, 4, height // 8, width // 8, generator=torch.Generator().manual_seed(1))
    with pytest.warns(match="nothing was edited"):
        ours = editor.edit(
            TARGET,
            source=SOURCE,
            steps=STEPS,
            share=0,
            latents=noise,
            width=width,
            height=height,
            negative=negative,
            guidance=5.0,
        )
    theirs = pipe(
        [SOURCE, TARGET],
        num_inference_steps=STEPS,
        latents=noise.repeat(2, 1, 1, 1),
        guidance_scale=5.0,
        width=width,
        height=height,
        **({"negative_prompt": [negative] * 2} if negative else {}),
    ).images
    for mine, stock in zip((ours.source, ours.images[0]), theirs, strict=True):
        apart = torch.tensor(list(mine.tobytes())).int() - torch.tensor(list(stock.tobytes())).int()
        assert apart.abs().max() <= 1


def test_empty_prompts_are_zeros_where_the_checkpoint_says_so(pipe):
    model = adapt(pipe, "tiny-sdxl")
    assert pipe.config.force_zeros_for_empty_prompt
    empty, said = model.encode_text(["", SOURCE])[0], model.encode_text(["", SOURCE])[1]
    assert not empty.states.any() and not empty.extras["pooled"].any()
    assert said.states.any() and said.extras["pooled"].any()


@pytest.mark.parametrize("name", [n for n, method in METHODS.items() if not method.instructs])
def test_every_method(editor, name):
    few = {
        "masactrl": {"start": 1},
        "edit-friendly": {"skip": 0.25},
        "imagic": {"embedding_steps": 2, "model_steps": 1},
    }.get(name, {})
    generated = editor.edit(TARGET, source=SOURCE, method=name, steps=STEPS, **few)
    assert generated.images[0].tobytes() != generated.source.tobytes()
    real = editor.edit(
        TARGET, image=generated.source, source=SOURCE, method=name, steps=STEPS, **few
    )
    assert real.images[0].tobytes() != generated.source.tobytes()


@pytest.mark.parametrize("name", list(INVERSIONS))
def test_every_inversion(editor, name):
    photo = Image.new("RGB", (128, 128), (200, 30, 60))
    inverted = editor.invert(
        photo,
        source=SOURCE,
        inversion=name,
        steps=STEPS,
        **({"method": "edit-friendly"} if name == "edit-friendly" else {}),
    )
    assert inverted.reconstruction.size == (128, 128)


def test_the_second_text_encoder_is_part_of_the_fingerprint(pipe):
    other = tiny_sdxl()
    assert fingerprint(other) == fingerprint(pipe)
    with torch.no_grad():
        next(other.text_encoder_2.parameters()).add_(1)
    assert fingerprint(other) != fingerprint(pipe)


class TestRefused:
    def refiner(self):
        from diffusers import StableDiffusionXLImg2ImgPipeline

        parts = {**tiny_sdxl().components, "text_encoder": None, "tokenizer": None}
        return StableDiffusionXLImg2ImgPipeline(**parts, add_watermarker=False)

    def test_the_refiner(self):
        with pytest.raises(UnsupportedModel, match=r"SDXL refiner.*Edit with the base model"):
            adapt(self.refiner(), "refiner")

    def test_half_a_model(self):
        pipe = tiny_sdxl()
        pipe.tokenizer_2 = None
        with pytest.raises(UnsupportedModel, match="without its second text encoder"):
            adapt(pipe, "half")


def test_half_precision_decodes_in_float32(pipe):
    half = tiny_sdxl().to(torch.float16)
    half.vae.register_to_config(force_upcast=True)
    model, seen = adapt(half, "half"), []
    half.vae.decoder.register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    with torch.no_grad():
        model.decode(torch.randn(1, 4, 8, 8).half())
    assert seen == [torch.float32]
    assert half.vae.dtype == torch.float16
