"""Options of loading: the same at every command that loads a model, and heard by all of them."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tests.models.single_files import original, write, write_config
from tests.models.test_adapters import lora_weights
from typer.testing import CliRunner

from freeprompt.cli.app import app
from freeprompt.cli.loading import SHARED
from freeprompt.models.tiny import tiny_sd

COMMANDS = [
    *(["edit"], ["invert"], ["compare"], ["attention"], ["map-vs-values"], ["probe"], ["claims"]),
    *(["ablate", "layers"], ["search", "layers"], ["studio"]),
]
EDIT = ["edit", "a blue cat", "--source", "a red dog", "--steps", "2", "--device", "cpu", "--json"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place, pipe = tmp_path_factory.mktemp("loading"), tiny_sd(sample_size=8)
    write(pipe, place / "model.safetensors")
    write_config(pipe, place / "config")
    torch.save({"state_dict": original(pipe)}, place / "model.ckpt")
    save_file(lora_weights(pipe, 0), place / "style.safetensors")
    save_file({"<sks>": torch.randn(2, 32)}, place / "sks.safetensors")
    return place


def edit(place, out, model, *more):
    arguments = [*EDIT, "--model", str(place / model), "--config", str(place / "config")]
    result = CliRunner().invoke(app, [*arguments, "-o", str(out), *map(str, more)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads(result.stdout)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_them(command):
    shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"}).stdout
    for name in SHARED:
        assert f"--{name.replace('_', '-')}" in shown, name


def test_a_single_file_with_a_lora_and_an_embedding(place, tmp_path):
    plain = edit(place, tmp_path, "model.safetensors")
    assert plain["model"] == str(place / "model.safetensors")
    lora = edit(place, tmp_path, "model.safetensors", "--lora", f"{place}/style.safetensors:0.5")
    words = edit(place, tmp_path, "model.safetensors", "--embedding", place / "sks.safetensors")
    prints = {each["model_fingerprint"] for each in (plain, lora, words)}
    assert len(prints) == 3


def test_what_one_command_is_told_does_not_reach_the_next(place, tmp_path):
    with_lora = ["model.safetensors", "--lora", f"{place}/style.safetensors"]
    first = edit(place, tmp_path, "model.safetensors")
    edit(place, tmp_path, *with_lora)
    assert (
        edit(place, tmp_path, "model.safetensors")["model_fingerprint"]
        == (first["model_fingerprint"])
    )


def test_a_pickle_has_to_be_allowed(place, tmp_path):
    from freeprompt.errors import ModelError

    with pytest.raises(ModelError, match="--allow-pickle"):
        edit(place, tmp_path, "model.ckpt")
    assert edit(place, tmp_path, "model.ckpt", "--allow-pickle")["model_fingerprint"]


def test_sites_of_a_single_file(place):
    arguments = ["sites", str(place / "model.safetensors"), "--config", str(place / "config")]
    sites = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert len(sites) == 16 and sites[0]["grid"] == [8, 8]


def test_models_are_listed_with_what_suits_them():
    listed = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    assert listed["sdxl-turbo"]["guidance"] == 1 and listed["sdxl-turbo"]["steps"] == 4
    assert listed["sd-1.5"]["family"] == "sd1" and not listed["sd-1.5"]["available_offline"]
    assert "realistic-vision" in CliRunner().invoke(app, ["models"]).stdout
