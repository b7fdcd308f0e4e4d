"""Inpainting models: used where there is a mask, refused with the reason where there is none."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLInpaintPipeline,
)
from PIL import Image
from tests.api.samples import SOURCE, TARGET, photo, same, small_sd, start_noise, state_of

import freeprompt as fp
from freeprompt.core import TARGET as PLAIN
from freeprompt.core import denoise
from freeprompt.errors import ConfigError, UnsupportedModel
from freeprompt.images import to_tensor
from freeprompt.methods import METHODS
from freeprompt.models import adapt
from freeprompt.models.tiny import tiny_sdxl

STEPS = 3


def mask(box=(0, 0, 10, 12), size=(20, 12)):
    painted = Image.new("L", size)
    painted.paste(255, box)
    return painted


@pytest.fixture(scope="module")
def editor():
    return fp.Editor(small_sd(in_channels=9), name="inpainting")


def plain(pipe):
    """The inpainting pipeline of diffusers, of the same parts."""
    names = ("vae", "text_encoder", "tokenizer", "unet")
    checker = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    kind, more = StableDiffusionInpaintPipeline, checker
    if hasattr(pipe, "text_encoder_2"):
        names += ("text_encoder_2", "tokenizer_2")
        kind, more = StableDiffusionXLInpaintPipeline, {"add_watermarker": False}
    parts = {name: getattr(pipe, name) for name in names}
    whole = kind(**parts, scheduler=DDIMScheduler.from_config(pipe.scheduler.config), **more)
    whole.set_progress_bar_config(disable=True)
    return whole


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@torch.no_grad()
def test_the_network_is_told_what_the_stock_pipeline_tells_it(editor, family):
    if family == "sdxl":
        pipe = tiny_sdxl(in_channels=9, sample_size=8, vae_channels=(8, 8))
        editor = fp.Editor(pipe, name="inpainting")
    whole = plain(editor.pipe)
    image, painted = photo(16, 16), mask((0, 0, 9, 16), (16, 16))
    from freeprompt.api.steering import steered

    model = steered(
        editor, STEPS, (None, 1.0, (0, 1)), image, painted,
    ).model  # fmt: skip
    theirs = whole(
        TARGET,
        image=image,
        mask_image=painted,
        masked_image_latents=model.room[:, 1:],
        height=16,
        width=16,
        strength=1.0,
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        latents=start_noise(),
        output_type="latent",
    ).images
    done = denoise(
        model,
        model.schedule(STEPS),
        {"target": start_noise()},
        text={"target": model.encode_text([TARGET])},
        null=model.encode_text([""]),
        rows=PLAIN,
    )
    assert torch.allclose(done.state["target"], theirs, atol=1e-5)
    gone = to_tensor(image)
    gone[..., :9] = 0
    assert torch.equal(model.room[:, 1:], model.encode_image(gone))
    assert set(model.room[0, 0].unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].uses_mask])
def test_methods_that_use_a_mask(editor, method):
    plan = {"image": photo(), "method": method, "steps": STEPS}
    first, again, other = (
        editor.edit(TARGET, mask=one, **plan) for one in (mask(), mask(), mask((4, 0, 20, 12)))
    )
    assert same(first.images[0], again.images[0]) and not same(first.images[0], other.images[0])
    assert first.images[0].size == (20, 12)
    assert first.provenance.mask_sha256 is not None


def test_source_and_target_see_the_same_room(editor):
    seen = []
    hook = editor.pipe.unet.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    editor.edit(TARGET, image=photo(), mask=mask(), method="fpe-protect", steps=STEPS)
    hook.remove()
    assert all(x.shape[1] == 9 for x in seen)
    assert all(torch.equal(row[4:], seen[0][0, 4:]) for x in seen for row in x)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"image": photo()}, "must be told where it may paint"),
        ({"image": photo(), "mask": mask()}, "fpe does not use a mask"),
        ({"source": SOURCE, "mask": mask(size=(16, 16)), "method": "diffedit"}, "a real image"),
        ({"image": photo(), "mask": mask((0, 0, 1, 1), (9, 20)), "method": "diffedit"}, "shape"),
    ],
)
def test_refusals(editor, given, match):
    with pytest.raises(ConfigError, match=match):
        editor.edit(TARGET, steps=STEPS, **given)


def test_an_inversion_would_know_no_mask(editor):
    with pytest.raises(ConfigError, match="inpainting model"):
        editor.invert(photo(), steps=STEPS)


def test_stock_calls_and_instructions_are_refused(editor):
    with (
        pytest.raises(UnsupportedModel, match="9 input channels"),
        fp.controlled(editor.pipe, fp.methods.FPE()),
    ):
        pass
    with pytest.raises(UnsupportedModel, match="follow instructions"):
        editor.edit(TARGET, image=photo(), method="instruct-pix2pix", steps=2)


def test_the_pipeline_is_left_as_it_was(editor):
    before = state_of(editor.pipe)

    def stop(progress):
        raise KeyError

    with pytest.raises(KeyError):
        editor.edit(
            TARGET, image=photo(), mask=mask(), method="diffedit", steps=STEPS, callback=stop
        )
    assert state_of(editor.pipe) == before and editor.model.room is None
    assert adapt(editor.pipe, "x").takes == "room"
