"""The model that comes with the package is what its card says."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import BPE

import freeprompt
from freeprompt.train.anatomy import save_pipeline
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


def test_older_libraries_find_its_text_encoder_and_its_words(pipeline, tmp_path) -> None:
    """transformers 4 and 5.0 look for other names than 5.23 writes, and fall silent about it."""
    folders = [FOLDER, tmp_path]
    save_pipeline(pipeline, tmp_path, torch.float32)
    for folder in folders:
        names = load_file(folder / "text_encoder" / "model.safetensors").keys()
        assert {name.split(".")[0] for name in names} == {"text_model"}
        words = json.loads((folder / "tokenizer" / "vocab.json").read_text())
        assert words == pipeline.tokenizer.get_vocab()
    vocab, merges = (str(FOLDER / "tokenizer" / name) for name in ("vocab.json", "merges.txt"))
    rebuilt = Tokenizer(BPE.from_file(vocab, merges, end_of_word_suffix="</w>"))
    rebuilt.normalizer = pipeline.tokenizer.backend_tokenizer.normalizer
    rebuilt.pre_tokenizer = pipeline.tokenizer.backend_tokenizer.pre_tokenizer
    text = "a photo of a red car on the street at night, qwerty"
    assert rebuilt.encode(text).ids == pipeline.tokenizer(text).input_ids[1:-1]
    assert (tmp_path / "tokenizer" / "merges.txt").read_text() == Path(merges).read_text()
