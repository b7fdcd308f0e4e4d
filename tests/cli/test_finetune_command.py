"""`freeprompt finetune`: from a folder of pictures to an edit that knows the subject."""

import json

import pytest
from tests.api.samples import photo

from freeprompt.api import Provenance
from freeprompt.finetune import EmbeddingTraining, LoraTraining

FEW = ["--model", "small", "--steps", "2", "--rate", "1e-2", "--json"]
TRAIN = {
    "lora": ["finetune", "lora", "pictures", "--prompt", "a sks dog", "-o", "a.safetensors", *FEW],
    "embedding": [
        "finetune",
        "embedding",
        "pictures",
        "--like",
        "dog",
        "-o",
        "a.safetensors",
        *FEW,
    ],
}


@pytest.fixture
def pictures(here):
    (here / "pictures").mkdir()
    for i in range(3):
        photo(16, 16, seed=i).save(here / "pictures" / f"{i}.png")
    return here


@pytest.mark.parametrize("kind", TRAIN)
def test_train_then_edit_then_again(pictures, freeprompt, kind):
    trained = freeprompt(*TRAIN[kind])
    assert trained.code == 0, trained.err
    told = json.loads(trained.out)
    assert told["steps"] == told["sample_forwards"] == 2 and told["file"] == "a.safetensors"
    words = "a sks dog" if kind == "lora" else "a <sks>"
    edit = ["edit", words, "--source", "a dog", "--steps", "2", "--model", "small"]
    ended = freeprompt(*edit, f"--{kind}", "a.safetensors", "-o", "a.png")
    assert ended.code == 0, ended.err
    (used,) = Provenance.from_png("a.png").brought[kind]
    assert used["sha256"] == told["sha256"]
    assert freeprompt("edit", "--from", "a.png", "-o", "b.png").code == 0
    assert (pictures / "a.png").read_bytes() == (pictures / "b.png").read_bytes()


@pytest.mark.parametrize("kind", TRAIN)
def test_a_checkpoint_goes_on(pictures, freeprompt, kind):
    state = ["--checkpoint", "state.safetensors"]
    assert freeprompt(*TRAIN[kind], *state).code == 0
    longer = [*TRAIN[kind], *state]
    longer[longer.index("--steps") + 1] = "3"
    told = json.loads(freeprompt(*longer).out)
    assert told["steps"] == 3 and told["sample_forwards"] == 1
    other = freeprompt(*longer, "--seed", "1")
    assert other.code == 2 and "made with other settings" in other.err


@pytest.mark.parametrize(
    ("kind", "owner"), [("lora", LoraTraining), ("embedding", EmbeddingTraining)]
)
def test_every_field_is_an_option(freeprompt, kind, owner):
    shown = freeprompt("finetune", kind, "--help").out
    for name, about in owner.described().items():
        assert f"--{name.replace('_', '-')}" in shown
        assert about["help"].split()[0] in shown
    assert "--lora" in shown and "--offline" in shown


def test_what_is_trained_can_be_read(pictures, freeprompt):
    said = freeprompt(*TRAIN["lora"][:-1])
    assert "2 steps, 2 sample-forwards" in said.out and "edit with --lora a.safetensors" in said.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lora", "pictures"], "There is no prompt"),
        (["lora", "none", "--prompt", "a sks dog", "--model", "small"], "is no folder"),
        (["lora", "pictures", "--prompt", "a sks dog", "--rank", "0"], "rank of LoraTraining"),
        (["lora", "pictures", "--prompt", "a sks dog", "-o", "a.bin"], "one .safetensors file"),
        (["embedding", "pictures"], "no word to start from"),
        (["embedding", "pictures", "--like", "dog", "--token", "cat", "--model", "small"],
         "'cat' cannot be the new word"),
        (["embeding", "pictures"], "No such command"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_sentence(pictures, freeprompt, words, said):
    ended = freeprompt("finetune", *words)
    assert ended.code == 2 and said in ended.err and "Traceback" not in ended.err
