"""The model that comes with the package is what its card says."""

from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline

import freeprompt
from freeprompt.train.config import preset
from freeprompt.train.model import draw_prompts
from freeprompt.train.tokenizer import build_tokenizer
from freeprompt.world import vocabulary

FOLDER = Path(freeprompt.__file__).parent / "models" / "weights" / "emoji-sd"


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(FOLDER)


def test_it_fits_into_48_megabytes() -> None:
    assert sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()) < 48e6


def test_it_has_the_sizes_of_its_preset(pipeline: StableDiffusionPipeline) -> None:
    sizes = preset("cpu64")
    assert pipeline.unet.config.block_out_channels == list(sizes.model.channels)
    assert pipeline.unet.config.sample_size == sizes.vae.latent_size
    assert pipeline.scheduler.config.prediction_type == sizes.model.prediction


def test_its_words_are_those_of_the_world(pipeline: StableDiffusionPipeline) -> None:
    assert pipeline.tokenizer.get_vocab() == build_tokenizer(vocabulary()).get_vocab()


def test_it_generates_pictures_that_differ(pipeline: StableDiffusionPipeline) -> None:
    day, night = draw_prompts(pipeline, ["a cat in the snow", "a cat at night"], 8, 5.0)
    assert day.shape == (64, 64, 3)
    assert day.mean() > night.mean() + 30
