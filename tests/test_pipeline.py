"""The face of diffusers: its conventions, and the very edit that `Editor` makes."""

import copy

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from PIL import Image, ImageChops

from freeprompt import FreePromptEditingPipeline
from freeprompt.api import Editor
from freeprompt.errors import ConfigError, UnsupportedModel
from freeprompt.models.fingerprint import fingerprint
from freeprompt.models.hints import as_network
from freeprompt.models.tiny import tiny_sd, tiny_sdxl
from tests.models.hint_nets import tiny_adapter, tiny_controlnet

SOURCE, TARGET = "a red dog", "a blue cat"
STEPS = 3


@pytest.fixture(scope="module")
def stock():
    return tiny_sd(sample_size=8)


@pytest.fixture(scope="module")
def pipe(stock):
    return FreePromptEditingPipeline.from_pipe(stock)


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def run(pipe, prompt=TARGET, **more):
    options = {"source_prompt": SOURCE, "num_inference_steps": STEPS, "generator": seeded()}
    return pipe(prompt, **{**options, **more})


def test_it_is_the_editors_edit(stock, pipe):
    ours = Editor(stock).edit(TARGET, source=SOURCE, steps=STEPS, generator=seeded())
    out = run(pipe)
    assert out.images[0].tobytes() == ours.images[0].tobytes()
    assert out.source.tobytes() == ours.source.tobytes()
    assert out.nsfw_content_detected is None
    assert out.provenance.sample_forwards == ours.provenance.sample_forwards


def test_its_source_is_what_the_stock_pipeline_draws(stock, pipe):
    """The same generator gives the same noise, so the source is diffusers' own picture."""
    theirs = stock(SOURCE, num_inference_steps=STEPS, generator=seeded()).images[0]
    apart = np.abs(np.asarray(run(pipe).source, int) - np.asarray(theirs, int))
    assert apart.max() <= 1


def test_the_modules_are_shared_and_stay_as_they_are(stock):
    half = copy.deepcopy(stock).to(torch.bfloat16)
    before = fingerprint(half)
    made = FreePromptEditingPipeline.from_pipe(half)
    assert made.unet is half.unet and made.vae is half.vae
    assert half.unet.dtype == torch.bfloat16 and fingerprint(half) == before
    assert not isinstance(made, StableDiffusionPipeline)


def test_sdxl():
    stock = tiny_sdxl(sample_size=8)
    pipe = FreePromptEditingPipeline.from_pipe(stock)
    ours = Editor(stock).edit(TARGET, source=SOURCE, steps=STEPS, generator=seeded())
    assert run(pipe).images[0].tobytes() == ours.images[0].tobytes()


def test_back_to_a_stock_pipeline(stock, pipe):
    back = StableDiffusionPipeline.from_pipe(pipe)
    assert back.unet is stock.unet


@pytest.mark.parametrize("build", [tiny_sd, tiny_sdxl])
def test_saved_and_loaded(build, tmp_path):
    pipe = FreePromptEditingPipeline.from_pipe(build(sample_size=8))
    pipe.save_pretrained(tmp_path)
    loaded = FreePromptEditingPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert fingerprint(loaded) == fingerprint(pipe)
    assert loaded.config.force_zeros_for_empty_prompt == pipe.config.force_zeros_for_empty_prompt
    a, b = (np.asarray(run(each).images[0], int) for each in (pipe, loaded))
    assert np.abs(a - b).max() <= 1


def test_a_stock_folder_loads_as_one(stock, tmp_path):
    stock.save_pretrained(tmp_path)
    assert fingerprint(FreePromptEditingPipeline.from_pretrained(tmp_path)) == fingerprint(stock)


def test_output_types(pipe):
    prompts = [TARGET, "a green horse"]
    pil = run(pipe, prompts).images
    array = run(pipe, prompts, output_type="np").images
    tensor = run(pipe, prompts, output_type="pt").images
    latent = run(pipe, prompts, output_type="latent").images
    assert array.shape == (2, 64, 64, 3) and tensor.shape == (2, 3, 64, 64)
    assert latent.shape == (2, 4, 8, 8)
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert 0 <= array.min() < array.max() <= 1
    assert np.array_equal((array[1] * 255).round().astype(np.uint8), np.asarray(pil[1]))
    decoded = pipe.vae.decode(latent / pipe.vae.config.scaling_factor, return_dict=False)[0]
    assert torch.allclose((decoded / 2 + 0.5).clamp(0, 1), tensor, atol=1e-5)


def test_a_tuple(pipe):
    images, flags = run(pipe, return_dict=False)
    assert images[0].tobytes() == run(pipe).images[0].tobytes() and flags is None


def test_noise_by_generator_by_latents_and_by_chance(pipe):
    latents = torch.randn(1, 4, 8, 8, generator=seeded())
    by_latents = run(pipe, generator=None, latents=latents).images[0]
    assert by_latents.tobytes() == run(pipe).images[0].tobytes()
    chance = [run(pipe, generator=None).images[0].tobytes() for _ in range(2)]
    assert chance[0] != chance[1]


def test_a_real_image_of_another_shape():
    pipe = FreePromptEditingPipeline.from_pipe(tiny_sd())
    photo = Image.linear_gradient("L").resize((60, 120)).convert("RGB")
    a, b = (run(pipe, image=photo, source_prompt=None) for _ in range(2))
    assert a.images[0].size == (60, 120) and a.source is None
    assert a.images[0].tobytes() == b.images[0].tobytes() != photo.tobytes()


def test_callbacks_are_told_of_every_step(pipe, stock):
    seen = []

    def callback(given, step, timestep, tensors):
        assert given is pipe
        seen.append((step, int(timestep), {name: x.shape for name, x in tensors.items()}))
        return tensors

    names = ["latents", "source_latents"]
    run(pipe, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names)
    scheduler = DDIMScheduler.from_config(stock.scheduler.config)
    scheduler.set_timesteps(STEPS)
    assert [(step, t) for step, t, _ in seen] == list(enumerate(scheduler.timesteps.tolist()))
    assert seen[0][2] == {"latents": (1, 4, 8, 8), "source_latents": (1, 4, 8, 8)}


def test_a_callback_that_would_go_unheard(pipe):
    def exchange(given, step, timestep, tensors):
        return {"latents": tensors["latents"] * 0}

    with pytest.raises(ConfigError, match="must return the tensors"):
        run(pipe, callback_on_step_end=exchange)
    with pytest.raises(ConfigError, match="must return the tensors"):
        run(pipe, callback_on_step_end=lambda *given: None)
    with pytest.raises(ConfigError, match="may name latents, source_latents"):
        run(
            pipe,
            callback_on_step_end=lambda p, i, t, k: k,
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
        )


def test_other_slips(pipe, stock):
    with pytest.raises(ConfigError, match="output_type must be"):
        run(pipe, output_type="jpg")
    with pytest.raises(ConfigError, match=r"one torch\.Generator"):
        run(pipe, generator=[seeded(), seeded()])
    with pytest.raises(ConfigError, match="nothing to edit"):
        run(pipe, source_prompt=None)
    parts = {**FreePromptEditingPipeline.from_pipe(stock).components, "text_encoder": None}
    with pytest.raises(UnsupportedModel, match="without text_encoder"):
        FreePromptEditingPipeline(**parts)


class TestControlImages:
    """A ControlNet or T2I-Adapter is a part like any other, and its image goes into the call."""

    @pytest.mark.parametrize("part", ["controlnet", "adapter"])
    def test_it_is_the_editors_edit(self, stock, part):
        net = (tiny_controlnet if part == "controlnet" else tiny_adapter)(stock)
        pipe = FreePromptEditingPipeline.from_pipe(stock, **{part: net})
        image = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
        told = {"controlnet_conditioning_scale": 0.5, "control_guidance_end": 0.7}
        out = run(pipe, control_image=image, **told)
        editor = Editor(stock)
        editor.model.networks = (as_network(net),)
        ours = editor.edit(
            TARGET,
            source=SOURCE,
            steps=STEPS,
            generator=seeded(),
            control_image=image,
            control_weight=0.5,
            control_window=(0.0, 0.7),
        )
        assert out.images[0].tobytes() == ours.images[0].tobytes()
        assert out.source.tobytes() == ours.source.tobytes()
        without = run(FreePromptEditingPipeline.from_pipe(stock)).images[0]
        assert out.images[0].tobytes() != without.tobytes()
        assert out.provenance.control[0]["weight"] == 0.5

    def test_from_a_stock_controlnet_pipeline_and_back_from_a_folder(self, stock, tmp_path):
        names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
        whole = StableDiffusionControlNetPipeline(
            **{name: getattr(stock, name) for name in names},
            controlnet=tiny_controlnet(stock),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe = FreePromptEditingPipeline.from_pipe(whole)
        assert pipe.controlnet is whole.controlnet
        image = Image.linear_gradient("L").resize((64, 64))
        first = run(pipe, control_image=image).images[0]
        pipe.save_pretrained(tmp_path)
        again = FreePromptEditingPipeline.from_pretrained(tmp_path)
        # its weights lie elsewhere in memory, and the last bit may be another
        difference = ImageChops.difference(run(again, control_image=image).images[0], first)
        assert (
            max(high for _, high in difference.getextrema()) <= 1
        )  # weights lie elsewhere in memory
        with pytest.raises(ConfigError, match="no control image"):
            run(pipe)
