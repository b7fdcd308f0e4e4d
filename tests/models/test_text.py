"""Prompts longer than the text encoder: cut, and said so with what was dropped."""

import warnings

import pytest
import torch

from freeprompt.errors import ConfigError, FreepromptWarning
from freeprompt.models import adapt
from freeprompt.models.text import tokenize
from freeprompt.models.tiny import tiny_sd, tiny_tokenizer

LONG = "dog " * 75 + "a red rabbit on the street at night"


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def test_a_prompt_that_is_cut_warns_and_quotes_what_was_dropped(tokenizer):
    with pytest.warns(FreepromptWarning) as caught:
        ids = tokenize(tokenizer, [LONG])
    assert [str(w.message) for w in caught] == [
        f"The prompt has {len(tokenizer(LONG).input_ids)} tokens and the text encoder reads 77. "
        "Dropped: 'a red rabbit on the street at night'."
    ]
    assert ids.shape == (1, 77) and ids[0, 0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[0, 1:-1]).split() == ["dog"] * 75
    assert ids[0, -1] == tokenizer.eos_token_id


@pytest.mark.parametrize("words", [0, 1, 74, 75])
def test_a_prompt_that_fits_does_not_warn(tokenizer, words):
    """75 words and two marks are exactly 77 tokens."""
    ids = tokenize(tokenizer, [" ".join(["dog"] * words)])
    assert ids.shape == (1, 77)
    assert tokenizer.decode(ids[0], skip_special_tokens=True).split() == ["dog"] * words


def test_the_first_word_too_many_is_the_one_dropped(tokenizer):
    with pytest.warns(FreepromptWarning, match=r"has 78 tokens.*Dropped: 'red'\.$"):
        tokenize(tokenizer, ["dog " * 75 + "red"])


def test_each_prompt_that_is_cut_gets_its_own_warning(tokenizer):
    prompts = ["a dog", "dog " * 76, "a cat", "dog " * 75 + "horse"]
    with pytest.warns(FreepromptWarning) as caught:
        assert tokenize(tokenizer, prompts).shape == (4, 77)
    assert [str(w.message).partition("Dropped: ")[2] for w in caught] == ["'dog'.", "'horse'."]


def test_rows_are_prompts_in_order(tokenizer):
    ids = tokenize(tokenizer, ["a dog", "", "a cat"])
    assert [tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids] == [
        *("a dog", "", "a cat")
    ]


@pytest.mark.parametrize("prompt", [None, 3, b"a dog", ["a dog"]])
def test_what_is_no_text_is_refused(tokenizer, prompt):
    with pytest.raises(ConfigError) as error:
        tokenize(tokenizer, ["a dog", prompt])
    assert str(error.value) == (f"A prompt must be text; got {type(prompt).__name__} {prompt!r}.")


def test_text_that_is_no_unicode_is_refused(tokenizer):
    """What a shell hands over from bytes that are not UTF-8: a lone surrogate."""
    with pytest.raises(ConfigError, match="prompt"):
        tokenize(tokenizer, ["a \udcff dog"])


def test_encoding_is_the_pipelines_own():
    pipe = tiny_sd()
    prompts = ["a red dog", "", "a catfish at night"]
    ours = adapt(pipe, "tiny").encode_text(prompts)
    with warnings.catch_warnings(), torch.no_grad():
        theirs = pipe.encode_prompt(prompts, "cpu", 1, False)[0]
    assert torch.equal(ours.states, theirs) and ours.extras == {}
    assert ours.states.shape == (3, 77, 32)
    assert not torch.equal(ours.states[0], ours.states[1])
