"""LoRA, embedding and config: in the recipe of a picture, and brought again by --from."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from tests.api.samples import small_sd
from tests.models.single_files import write, write_config
from tests.models.test_adapters import lora_weights

from freeprompt.api import Editor, Provenance
from freeprompt.models import adapted
from freeprompt.models.brought import brought, file_sha256
from freeprompt.models.tiny import tiny_sd

EDIT = ["edit", "a <sks> cat", "--source", "a red dog", "--steps", "2", "--model", "small"]


@pytest.fixture
def place(here):
    torch.manual_seed(0)
    save_file(lora_weights(small_sd(), 0), here / "style.safetensors")
    save_file({"<sks>": torch.randn(2, 32)}, here / "sks.safetensors")
    return here


@pytest.fixture
def made(place, freeprompt):
    """A picture made with a LoRA at 0.7 and an embedding."""
    ended = freeprompt(
        *EDIT, "--lora", "style.safetensors:0.7", "--embedding", "sks.safetensors", "-o", "a.png"
    )
    assert ended.code == 0, ended.err
    return place / "a.png"


def again(freeprompt, *more):
    return freeprompt("edit", "--from", "a.png", "-o", "b.png", *more)


def test_the_recipe_names_them(made):
    assert Provenance.from_png(made).brought == {
        "lora": [
            {
                "file": "style.safetensors",
                "sha256": file_sha256("style.safetensors"),
                "weight": 0.7,
            }
        ],
        "embedding": [
            {"file": "sks.safetensors", "sha256": file_sha256("sks.safetensors"), "token": "<sks>"}
        ],
    }


def test_it_is_made_again_to_the_byte(made, place, freeprompt):
    ended = again(freeprompt)
    assert ended.code == 0 and not ended.notes, ended.err
    assert (place / "b.png").read_bytes() == made.read_bytes()


def test_a_lora_for_few_steps_stays_one(place, freeprompt):
    pytest.importorskip("freeprompt.models.distilled")
    words = ["edit", "a blue cat", "--source", "a red dog", "--steps", "2", "--model", "small"]
    ended = freeprompt(*words, "--lora", "lcm=style.safetensors:0.5", "-o", "a.png")
    assert ended.code == 0, ended.err
    assert Provenance.from_png(place / "a.png").brought["lora"][0]["lcm"] is True
    ended = again(freeprompt)
    assert ended.code == 0, ended.err
    assert (place / "b.png").read_bytes() == (place / "a.png").read_bytes()


def test_files_that_were_moved_are_named(made, place, freeprompt):
    (place / "other").mkdir()
    for name in ("style.safetensors", "sks.safetensors"):
        shutil.move(place / name, place / "other" / name)
    missing = again(freeprompt)
    assert missing.code == 2
    assert "'style.safetensors', the LoRA that 'a.png' was made with, is not there" in missing.err
    where = ["--lora", "other/style.safetensors", "--embedding", "other/sks.safetensors"]
    assert again(freeprompt, *where).code == 0
    then, now = (Provenance.from_png(place / name) for name in ("a.png", "b.png"))
    assert now.model_fingerprint == then.model_fingerprint
    assert now.brought["lora"][0]["weight"] == 0.7


def test_a_file_that_has_changed_is_named(made, place, freeprompt):
    save_file({"<sks>": torch.randn(2, 32)}, place / "sks.safetensors")
    changed = again(freeprompt)
    assert changed.code == 2
    assert "'sks.safetensors' is not the embedding that 'a.png' was made with" in changed.err
    assert "have changed" in changed.err and not (place / "b.png").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--lora", "style.safetensors:0.2"], "at weight 0.7, not 0.2"),
        (["--config", "sd1"], "was made without --config"),
    ],
)
def test_what_contradicts_the_recipe_is_refused(made, freeprompt, more, said):
    ended = again(freeprompt, *more)
    assert ended.code == 2 and said in ended.err


def test_a_config_is_brought_again(here, freeprompt):
    pipe = tiny_sd(sample_size=8)
    write(pipe, here / "model.safetensors")
    write_config(pipe, here / "config")
    words = ["edit", "a blue cat", "--source", "a red dog", "--steps", "2"]
    model = ["--model", "model.safetensors", "--config", "config"]
    assert freeprompt(*words, *model, "-o", "a.png").code == 0
    assert again(freeprompt).code == 0
    assert (here / "a.png").read_bytes() == (here / "b.png").read_bytes()
    scheduler = here / "config" / "scheduler" / "scheduler_config.json"
    scheduler.write_text(
        json.dumps({**json.loads(scheduler.read_text()), "prediction_type": "v_prediction"})
    )
    changed = again(freeprompt)
    assert changed.code == 2 and "'config' is not the config" in changed.err


def test_in_python_it_is_known_for_as_long_as_it_is_there(place):
    pipe = small_sd()
    editor = Editor(pipe, name="small")
    lora = [f"{place / 'style.safetensors'}:-0.5"]
    with pytest.raises(KeyError), adapted(pipe, lora=lora):
        result = editor.edit("a blue cat", source="a red dog", steps=2)
        raise KeyError
    assert result.provenance.brought["lora"][0]["weight"] == -0.5
    assert brought(pipe) == {}
    assert editor.edit("a blue cat", source="a red dog", steps=2).provenance.brought == {}


def test_what_could_not_be_added_was_not_brought(place):
    pipe = small_sd()
    save_file({"a": torch.zeros(2, 2, 2)}, place / "none.safetensors")
    with (
        pytest.raises(Exception, match="is no textual inversion"),
        adapted(pipe, embedding=[place / "sks.safetensors", place / "none.safetensors"]),
    ):
        pass
    assert brought(pipe) == {}
