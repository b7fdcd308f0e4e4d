"""InstructPix2Pix: as in diffusers, and only with models that were trained for it."""

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionInstructPix2PixPipeline
from tests.api.samples import photo, same, small_sd, small_unet, start_noise, state_of

from freeprompt.api import Editor
from freeprompt.core import DDIM, Trajectory
from freeprompt.errors import UnsupportedModel
from freeprompt.images import to_tensor
from freeprompt.methods import METHODS, InstructPix2Pix, Task
from freeprompt.models import adapt
from freeprompt.models.unet import PICTURE

STEPS = 4


@pytest.fixture(scope="module")
def pipe():
    return small_sd(in_channels=8)


@pytest.fixture(scope="module")
def editor(pipe):
    return Editor(pipe, name="instruct")


def task(model, noise, prompts, **changes):
    """A task whose drawn noise is `noise`."""
    clean = model.encode_image(to_tensor(photo(16, 16)))

    class Given(Task):
        def draw(self, like, count):
            return [noise]

    given = {"targets": prompts, "source": "", "start": noise, "steps": STEPS, "guidance": 7.5}
    return Given(**{**given, "trajectory": Trajectory(latents=clean), **changes})


@torch.no_grad()
def stock(pipe, prompts, noise, guidance=7.5, image_guidance=1.5, negative=""):
    names = ("vae", "text_encoder", "tokenizer", "unet")
    parts = {name: getattr(pipe, name) for name in names}
    whole = StableDiffusionInstructPix2PixPipeline(
        **parts,
        scheduler=DDIMScheduler.from_config(pipe.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    whole.set_progress_bar_config(disable=True)
    return whole(
        list(prompts),
        image=(to_tensor(photo(16, 16)) / 2 + 0.5).expand(len(prompts), -1, -1, -1),
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        image_guidance_scale=image_guidance,
        negative_prompt=[negative] * len(prompts),
        latents=noise.expand(len(prompts), -1, -1, -1),
        output_type="latent",
    ).images


@pytest.mark.parametrize(
    ("guidance", "image_guidance", "negative"), [(7.5, 1.5, ""), (5.0, 2.5, "a red dog")]
)
def test_it_is_the_stock_pipeline(pipe, guidance, image_guidance, negative):
    model, prompts = adapt(pipe, "x"), ("a blue cat", "a green car at night")
    how = InstructPix2Pix(image_guidance=image_guidance)
    given = task(model, start_noise(), prompts, guidance=guidance, negative=negative)
    with torch.no_grad():
        ours = how(model, given).targets
    theirs = stock(pipe, prompts, start_noise(), guidance, image_guidance, negative)
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-5)
    assert model.sample_forwards == 2 * 3 * STEPS


def test_the_picture_is_seen(editor):
    first, other, again = (
        editor.edit("a blue cat", image=photo(16, 16, seed), method="instruct-pix2pix", steps=2)
        for seed in (0, 1, 0)
    )
    assert same(first.images[0], again.images[0]) and not same(first.images[0], other.images[0])
    assert first.provenance.inversion is None and first.provenance.edited_pairs == 0


def test_image_guidance_zero_forgets_the_picture(editor):
    """Guided by text alone, at (told - shown); with text scale 0 too, nothing is left but noise."""
    plain = {"method": "instruct-pix2pix", "steps": 2, "guidance": 0, "image_guidance": 0}
    first, other = (editor.edit("a cat", image=photo(16, 16, s), **plain) for s in (0, 1))
    assert same(first.images[0], other.images[0])


def test_a_generated_source_is_drawn_without_a_picture(editor):
    result = editor.edit("a cat", source="a dog", method="instruct-pix2pix", steps=2)
    again = editor.edit("a cat", source="a dog", method="instruct-pix2pix", steps=2)
    assert same(result.source, again.source) and not same(result.source, result.images[0])


def test_what_it_sees_is_unscaled(pipe):
    model = adapt(pipe, "x")
    clean = torch.ones(1, 4, 8, 8)
    seen = model.shown(model.encode_text(["a cat", "a dog"]), clean).extras[PICTURE]
    assert seen.shape == (2, 4, 8, 8)
    assert torch.allclose(seen, clean / pipe.vae.config.scaling_factor)
    assert model.takes == "picture" and isinstance(model.schedule(2), DDIM)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "instruct-pix2pix"])
def test_other_methods_are_refused_by_name(editor, name):
    with pytest.raises(UnsupportedModel, match=f"InstructPix2Pix model.*{name} edits with text"):
        editor.edit("a cat", image=photo(), source="a dog", method=name, steps=2)


def test_text_to_image_models_are_refused():
    with pytest.raises(UnsupportedModel, match=r"trained to follow instructions.*takes 4"):
        Editor(small_sd()).edit("a cat", image=photo(), method="instruct-pix2pix", steps=2)


def test_the_model_is_left_as_it_was(editor, pipe):
    before = state_of(pipe)
    with pytest.raises(KeyError):
        editor.edit("a cat", image=photo(), method="instruct-pix2pix", steps=2, callback=_stopping)
    assert state_of(pipe) == before


def _stopping(progress):
    raise KeyError


def test_channels_that_mean_nothing_here():
    for channels in (5, 7):
        with pytest.raises(UnsupportedModel, match=f"takes {channels} input channels"):
            Editor(small_sd(in_channels=channels))
    assert small_unet(in_channels=8).config.in_channels == 8
