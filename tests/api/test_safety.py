"""A pipeline's safety checker is asked about every picture, and what it flags is never shown."""

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from tests.api.samples import OTHER, SOURCE, TARGET, photo, same, small_sd

import freeprompt as fp


def stock_checker(flags: bool, kind=StableDiffusionSafetyChecker):
    """diffusers' own checker at tiny size, made to flag everything or nothing."""
    from transformers import CLIPConfig

    tower = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = CLIPConfig(
        vision_config={**tower, "image_size": 32, "patch_size": 16},
        text_config=tower,
        projection_dim=8,
    )
    checker = kind(config).eval()
    checker.special_care_embeds_weights.fill_(2)
    checker.concept_embeds_weights.fill_(-2 if flags else 2)
    return checker


class FlagsOne(StableDiffusionSafetyChecker):
    """A checker that reports the first of several pictures, and leaves hiding it to others."""

    def forward(self, clip_input, images):
        self.seen = clip_input
        return images, [i == 0 and len(images) > 1 for i in range(len(images))]


def pipe_with(checker):
    from transformers import CLIPImageProcessor

    pipe = small_sd()
    size = {"shortest_edge": 32}
    pipe.feature_extractor = CLIPImageProcessor(size=size, crop_size={"height": 32, "width": 32})
    pipe.safety_checker = checker
    return pipe


def black(image) -> bool:
    return not np.asarray(image).any()


@pytest.mark.parametrize("kind", [{"source": SOURCE}, {"image": photo()}])
def test_flagged_pictures_are_black(kind) -> None:
    result = fp.Editor(pipe_with(stock_checker(True))).edit(TARGET, steps=1, share=1, **kind)
    assert result.provenance.flagged == (True,)
    assert black(result.images[0])
    if "source" in kind:
        assert black(result.source)


def test_pictures_that_pass_are_not_changed(editor) -> None:
    checked = fp.Editor(pipe_with(stock_checker(False))).edit(TARGET, source=SOURCE, steps=2)
    free = editor.edit(TARGET, source=SOURCE, steps=2)
    assert checked.provenance.flagged == (False,)
    assert same(checked.images[0], free.images[0]) and same(checked.source, free.source)


def test_only_the_flagged_one_is_black_whatever_the_checker_returns(editor) -> None:
    """A checker may only report; hiding the picture is not left to it."""
    result = fp.Editor(pipe_with(stock_checker(False, FlagsOne))).edit(
        [TARGET, OTHER], source=SOURCE, steps=2
    )
    free = editor.edit([TARGET, OTHER], source=SOURCE, steps=2)
    assert result.provenance.flagged == (True, False)
    assert same(result.images[1], free.images[1]) and same(result.source, free.source)
    assert black(result.images[0])


def test_the_checker_sees_what_the_user_would_see() -> None:
    pipe = pipe_with(stock_checker(False, FlagsOne))
    result = fp.Editor(pipe).edit(TARGET, source=SOURCE, steps=1, share=1)
    expected = pipe.feature_extractor(result.source, return_tensors="pt").pixel_values
    assert torch.allclose(pipe.safety_checker.seen, expected, atol=0.05)


def test_flags_are_in_the_saved_picture(tmp_path) -> None:
    from freeprompt.api import Provenance

    result = fp.Editor(pipe_with(stock_checker(True))).edit(TARGET, source=SOURCE, steps=1, share=1)
    result.save(tmp_path / "a.png")
    assert Provenance.from_png(tmp_path / "a.png").flagged == (True,)
