"""What cannot be right is refused with a reason, before any work is done."""

import types

import numpy as np
import pytest
import torch
from tests.api.samples import SOURCE, TARGET, photo, small_sd, small_unet, start_noise, watched

import freeprompt as fp
from freeprompt.errors import (
    BadFraction,
    BadSiteExpression,
    ConfigError,
    ControlNeverFired,
    ImageError,
    UnknownInversion,
    UnknownMethod,
    UnsupportedModel,
)


def refused(editor, error, match, targets=TARGET, **arguments):
    """The edit raises `error` before the denoiser has run, and later edits still work."""
    given = {"steps": 2} | arguments
    if "image" not in given:
        given = {"source": SOURCE} | given
    with watched(editor.pipe) as seen, pytest.raises(error, match=match) as caught:
        editor.edit(targets, **given)
    assert seen.samples == 0, "this could have been known before any work"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("targets", "match"),
    [
        ("", "must say something; got ''"),
        ("  \n", "must say something"),
        ([TARGET, ""], "must say something; got ''"),
        ([TARGET, 5], "got 5"),
        ([], "no target prompt"),
        ((), "no target prompt"),
    ],
)
def test_targets(editor, targets, match) -> None:
    refused(editor, ConfigError, match, targets)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"source": None}, "nothing to edit.*source=.*image="),
        ({"source": 5}, "source must be a prompt; got 5"),
        ({"source": [SOURCE]}, "source must be a prompt"),
        ({"image": photo(), "latents": start_noise()}, "real image brings its own noise"),
        ({"image": photo(), "generator": torch.Generator()}, "real image brings its own noise"),
        ({"image": photo(), "width": 16}, "brings its own noise and size"),
        ({"image": photo(), "height": 16}, "brings its own noise and size"),
    ],
)
def test_sources(editor, arguments, match) -> None:
    refused(editor, ConfigError, match, **arguments)


def test_a_picture_as_source_is_told_where_it_belongs(editor) -> None:
    refused(editor, ConfigError, "Real images go into image=", source=photo())


@pytest.mark.parametrize(
    ("image", "match"),
    [
        ("no/such.png", "no file 'no/such.png'"),
        (b"", "empty"),
        (b"GIF89a", "not an image"),
        (5, "cannot be read from int"),
        (np.zeros((2, 2, 7), np.uint8), "shape"),
        (photo(400, 4), "aspect ratio"),
    ],
)
def test_images(editor, image, match) -> None:
    refused(editor, ImageError, match, image=image)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, 7.0, True, "7", None])
def test_seeds(editor, seed) -> None:
    refused(editor, ConfigError, "whole number from 0 to 9223372036854775807; got", seed=seed)


@pytest.mark.parametrize("seed", [-1, "7"])
def test_seeds_with_a_real_image(editor, seed) -> None:
    refused(editor, ConfigError, "seed", image=photo(), seed=seed)


@pytest.mark.parametrize("guidance", [-1, -0.1, float("nan"), float("inf"), "x", "7.5", True, 1j])
def test_guidance(editor, guidance) -> None:
    refused(editor, ConfigError, "guidance must be a number of at least 0", guidance=guidance)


@pytest.mark.parametrize("steps", [0, -1, 2.5, 2.0, "2", True])
def test_steps(editor, steps) -> None:
    refused(editor, ConfigError, "number of steps must be a whole number", steps=steps)
    refused(editor, ConfigError, "number of steps", steps=steps, image=photo())


@pytest.mark.parametrize("steps", [1000, 1001, 10**9])
def test_too_many_steps(editor, steps) -> None:
    refused(editor, ConfigError, "at most 999 are possible", steps=steps)


@pytest.mark.parametrize(
    "size",
    [
        {"width": 0},
        {"width": -16},
        {"width": 17},
        {"height": 2},
        {"height": 16.0},
        {"width": "16"},
        {"height": True},
    ],
)
def test_sizes(editor, size) -> None:
    (name,) = size
    refused(editor, ConfigError, f"{name} must be a (multiple of 2|whole number).*got", **size)


@pytest.mark.parametrize(
    ("latents", "match"),
    [
        (torch.zeros(1, 4, 8, 10), r"shape \(1, 4, 8, 8\).*got \(1, 4, 8, 10\)"),
        (torch.zeros(2, 4, 8, 8), r"\(2, 4, 8, 8\)"),
        (torch.zeros(4, 8, 8), r"\(4, 8, 8\)"),
        (start_noise() * float("nan"), "finite"),
        (np.zeros((1, 4, 8, 8)), "tensor"),
    ],
)
def test_latents(editor, latents, match) -> None:
    refused(editor, ConfigError, match, latents=latents)


@pytest.mark.parametrize("source", [{"source": SOURCE}, {"image": photo()}])
@pytest.mark.parametrize("negative", [5, None])
def test_negative_prompts(editor, source, negative) -> None:
    refused(editor, ConfigError, "must be text|negative", negative=negative, **source)


@pytest.mark.parametrize(
    ("names", "error", "match"),
    [
        ({"method": "fpee"}, UnknownMethod, "did you mean 'fpe'"),
        ({"method": "xyz"}, UnknownMethod, "Available: .*fpe"),
        ({"method": 5}, UnknownMethod, "Unknown method"),
        ({"inversion": "ddmi"}, UnknownInversion, "did you mean 'ddim'"),
        ({"shar": 0.5}, ConfigError, "'shar' .did you mean 'share'"),
        ({"guidance_scale": 7.5}, ConfigError, "Unknown parameter 'guidance_scale'"),
    ],
)
def test_unknown_names(editor, names, error, match) -> None:
    refused(editor, error, match, **names)
    refused(editor, error, match, image=photo(), **names)


@pytest.mark.parametrize(
    ("parameters", "error", "match"),
    [
        ({"share": 1.1}, BadFraction, "got 1.1"),
        ({"share": float("nan")}, BadFraction, "nan"),
        ({"share": "much"}, ConfigError, "share of FPE must be a number from 0 to 1; got 'much'"),
        ({"share": None}, ConfigError, "share"),
        ({"half": "left"}, ConfigError, "half of FPE must be one of cond, uncond, both"),
        ({"record": True}, ConfigError, "record"),
        ({"replay": "perhaps"}, ConfigError, "replay of FPE must be true or false"),
        ({"iterations": -1}, ConfigError, "iterations of DDIMInversion"),
        ({"iterations": 1.5}, ConfigError, "whole number"),
        ({"iterations": float("inf")}, ConfigError, "iterations"),
        ({"sites": "self"}, BadSiteExpression, "Cannot read the site expression 'self'"),
        ({"sites": 3}, BadSiteExpression, "got 3"),
        ({"sites": ""}, BadSiteExpression, "''"),
    ],
)
def test_parameters(editor, parameters, error, match) -> None:
    refused(editor, error, match, **parameters)


NEVER = r"selects no site of 'small'.*self:1-7 \(down.0.0 ... up.1.1\)"


def test_sites_that_the_model_does_not_have(editor) -> None:
    refused(editor, ControlNeverFired, NEVER, sites="self:40-50")
    refused(editor, BadSiteExpression, "asks for layer 50", sites="self:3-50")


@pytest.mark.parametrize(
    ("sites", "error"), [("self:40-50", ControlNeverFired), ("self:3-50", BadSiteExpression)]
)
def test_sites_are_looked_up_before_the_image_is_inverted(editor, sites, error) -> None:
    refused(editor, error, "self:", image=photo(), sites=sites)


def test_share_at_sites_without_attention(editor) -> None:
    refused(editor, ControlNeverFired, "does nothing at feature sites", sites="feature:all")


def test_an_edit_works_after_refusals(editor) -> None:
    assert editor.edit(TARGET, source=SOURCE, steps=2).provenance.edited_pairs == 4


@pytest.mark.parametrize(
    "arguments",
    [{"steps": 0}, {"image": "no/such.png"}, {"method": "x"}, {"shar": 1}, {"source": 5}],
)
def test_invert_refuses_likewise(editor, arguments) -> None:
    with watched(editor.pipe) as seen, pytest.raises((ConfigError, ImageError)):
        editor.invert(**{"image": photo(), "steps": 2, **arguments})
    assert seen.samples == 0


# ------------------------------------------------------------------------------------- the model


def test_pipelines_without_the_parts() -> None:
    from diffusers import DDPMPipeline, DiTPipeline, DiTTransformer2DModel, UNet2DModel

    pipe = small_sd()
    bare = DDPMPipeline(
        unet=UNet2DModel(
            sample_size=8,
            block_out_channels=(8,),
            norm_num_groups=4,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
        ),
        scheduler=pipe.scheduler,
    )
    with pytest.raises(UnsupportedModel, match="DDPMPipeline without vae, text_encoder, tokenizer"):
        fp.Editor(bare)
    transformer = DiTTransformer2DModel(
        num_attention_heads=1, attention_head_dim=8, num_layers=1, norm_num_groups=4
    )
    dit = DiTPipeline(transformer=transformer, vae=pipe.vae, scheduler=pipe.scheduler)
    with pytest.raises(UnsupportedModel, match="DiTPipeline without unet"):
        fp.Editor(dit)


@pytest.mark.parametrize("thing", [None, "tiny-sd", types.SimpleNamespace(), torch.nn.Linear(1, 1)])
def test_things_that_are_no_pipeline(thing) -> None:
    with pytest.raises(UnsupportedModel, match=type(thing).__name__):
        fp.Editor(thing)


@pytest.mark.parametrize("channels", [5, 7])
def test_models_with_more_inputs(channels) -> None:
    pipe = small_sd(in_channels=channels)
    with pytest.raises(UnsupportedModel, match=f"{channels} input channels where its VAE makes 4"):
        fp.Editor(pipe)


def test_models_with_a_second_text_encoder() -> None:
    pipe = small_sd(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
    )
    with pytest.raises(UnsupportedModel, match="SDXL"):
        fp.Editor(pipe)


def test_a_prediction_type_that_ddim_cannot_serve() -> None:
    with pytest.raises(ConfigError, match="'sample'"):
        fp.Editor(small_sd("sample"))


def test_controlled_checks_the_pipeline_too() -> None:
    pipe = small_sd()
    pipe.unet = small_unet(in_channels=9)
    with (
        pytest.raises(UnsupportedModel, match="9 input channels"),
        fp.controlled(pipe, fp.methods.FPE()),
    ):
        pass


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"native": True}, r"native concerns real images.*Leave it out"),
        ({"latents": start_noise(), "generator": torch.Generator()}, r"only one of them can be"),
        ({"iterations": 2}, r"a generated source needs no inversion.*and its parameters"),
        ({"record": "inversion"}, r"record during the inversion.*Leave record at 'none'"),
        ({"image": photo(), "method": "p2p"}, r"p2p works with the words.*fpe does without"),
        ({"image": photo(), "method": "infedit"}, r"infedit works with the words"),
        ({"method": "infedit", "keep_words": "park"}, r"keep_words='park'.*Give edit_words"),
        ({"method": "p2p", "self_only": True, "blend_words": "dog,cat"}, r"blend_words.*no effect"),
        ({"method": "p2p", "self_only": True, "reweight": "cat=2"}, r"reweight='cat=2'.*no effect"),
        ({"control_window": 0.5}, r"how a control image acts, and there is none"),
    ],
)
def test_what_would_go_unheard(editor, arguments, match) -> None:
    refused(editor, ConfigError, match, **arguments)


@pytest.mark.parametrize(
    ("method", "sites", "more"),
    [
        ("fpe-protect", "word_sites", {"words": "dog,cat"}),
        ("masactrl", "mask_sites", {"mask_words": "dog,cat", "start": 0}),
        ("ledits", "sites", {}),
    ],
)
def test_sites_that_cannot_say_where_words_look(editor, method, sites, more):
    wrong = {"cross:all": "of different grids", "self:top": "looks at the picture"}
    for given, match in wrong.items():
        with pytest.raises(ConfigError, match=match):
            editor.edit(TARGET, source=SOURCE, method=method, steps=2, **more, **{sites: given})


def test_attention_on_an_inversion_of_another_model(editor):
    other = fp.Editor(small_sd(), name="other").invert(photo(), steps=2)
    with pytest.raises(ConfigError, match=r"another model \('other'\)"):
        editor.attention(SOURCE, image=other, steps=2)
