"""The tiny models: SD 1's anatomy, the same weights every time, and nothing else touched."""

import random

import numpy as np
import pytest
import torch

from freeprompt.models import CATALOG
from freeprompt.models.tiny import WORDS, sd_scheduler, tiny_sd, tiny_tokenizer

PARTS = ("unet", "vae", "text_encoder")


@pytest.fixture(scope="module")
def pipe():
    return tiny_sd()


def weights(pipe):
    return {
        f"{part}.{name}": value
        for part in PARTS
        for name, value in getattr(pipe, part).state_dict().items()
    }


def test_weights_depend_on_the_seed_alone(pipe):
    torch.manual_seed(123)
    first, again, other = weights(pipe), weights(tiny_sd()), weights(tiny_sd(seed=1))
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    for part in PARTS:
        mine = [name for name in first if name.startswith(part)]
        assert not all(torch.equal(first[name], other[name]) for name in mine)


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    tiny_sd(seed=3)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_nothing_in_it_trains(pipe):
    for part in PARTS:
        module = getattr(pipe, part)
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())


def test_the_prediction_type_is_declared_and_changes_no_weight(pipe):
    assert pipe.scheduler.config.prediction_type == "epsilon"
    other = tiny_sd(prediction="v_prediction")
    assert other.scheduler.config.prediction_type == "v_prediction"
    mine, theirs = weights(pipe), weights(other)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_its_scheduler_is_stable_diffusions():
    config = sd_scheduler().config
    assert (config.clip_sample, config.set_alpha_to_one, config.steps_offset) == (False, False, 1)
    assert (config.beta_schedule, config.beta_start, config.beta_end) == (
        *("scaled_linear", 0.00085, 0.012),
    )


def test_sizes_can_be_chosen():
    pipe = tiny_sd(sample_size=8, channels=(8, 16, 16, 24), width=16, vae_channels=(8, 8, 8))
    assert pipe.unet.config.sample_size == 8 and pipe.unet.config.cross_attention_dim == 16
    assert list(pipe.unet.config.block_out_channels) == [8, 16, 16, 24]
    assert pipe.vae_scale_factor == 4 and pipe.vae.config.sample_size == 32
    assert len(pipe.unet.attn_processors) == 32


def test_the_catalogue_states_its_size(pipe):
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    assert CATALOG["tiny-sd"].size == CATALOG["tiny-sd2"].size == side


def test_known_words_are_one_token_and_others_are_spelled():
    tokenizer = tiny_tokenizer()
    assert [word for word in WORDS if tokenizer.tokenize(word) != [f"{word}</w>"]] == []
    assert len(tokenizer.tokenize("catfish")) > 2 and len(tokenizer.tokenize("zebra")) == 5
    assert tokenizer.decode(tokenizer("a catfish").input_ids[1:-1]).strip() == "a catfish"
    assert tokenizer.model_max_length == 77
    marks = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert tokenizer("dog").input_ids[0] == marks[0] and tokenizer("dog").input_ids[-1] == marks[1]


def test_the_text_encoder_reads_the_tokenizers_marks(pipe):
    """An `eos_token_id` of 2 would switch transformers to its legacy pooling."""
    config, tokenizer = pipe.text_encoder.config, pipe.tokenizer
    assert config.eos_token_id == tokenizer.eos_token_id != 2
    assert config.bos_token_id == tokenizer.bos_token_id
    assert config.vocab_size == len(tokenizer)
