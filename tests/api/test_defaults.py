"""Settings left open become the model's own; what is said wins, and nothing of it is silent."""

import diffusers
import pytest
import torch

import freeprompt as fp
from freeprompt.api.compare import compare
from freeprompt.models import CATALOG, Entry
from freeprompt.models.defaults import defaults_by_name, defaults_of
from freeprompt.models.tiny import tiny_sd, tiny_sdxl

SOURCE, TARGET = "a red dog", "a blue dog"
SAID = {"source": SOURCE, "width": 64, "height": 64}


@pytest.fixture
def pipe():
    return tiny_sd(sample_size=8)


@pytest.fixture
def editor(pipe, monkeypatch):
    """An editor of a model that the catalogue knows."""
    entry = Entry(
        summary="", licence="", size=64, source="own/er", steps=3, guidance=2.0, sites="self:all"
    )
    monkeypatch.setitem(CATALOG, "known", entry)
    return fp.Editor(pipe, name="known")


def consistent(pipe):
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    return pipe


def test_what_is_left_open_is_the_catalogue_s(editor) -> None:
    p = editor.edit(TARGET, **SAID).provenance
    assert (p.steps, p.guidance, p.parameters["sites"]) == (3, 2.0, "self:all")
    assert len(p.edited_sites) == 16
    assert p.defaults == {
        "of": "known in the catalogue", "steps": 3, "guidance": 2.0, "sites": "self:all"
    }  # fmt: skip


def test_what_is_said_wins(editor) -> None:
    p = editor.edit(TARGET, **SAID, steps=2, guidance=0, sites="self:below-top").provenance
    assert (p.steps, p.guidance, p.parameters["sites"]) == (2, 0, "self:below-top")
    assert p.defaults == {}
    p = editor.edit(TARGET, **SAID, steps=2).provenance
    assert p.defaults.keys() == {"of", "guidance", "sites"}


def test_an_instance_is_the_user_s_as_it_is(editor) -> None:
    p = editor.edit(TARGET, **SAID, method=fp.methods.FPE()).provenance
    assert p.parameters["sites"] == "self:below-top" and "sites" not in p.defaults


@pytest.mark.parametrize(("method", "changed"), [("p2p", True), ("pnp", False)])
def test_layers_stand_in_for_the_rule_of_the_paper_alone(editor, method, changed) -> None:
    p = editor.edit(TARGET, **SAID, method=method).provenance
    assert ("sites" in p.defaults) == changed
    own = fp.methods.METHODS[method]().to_dict()["sites"]
    assert p.parameters["sites"] == ("self:all" if changed else own)


def test_a_method_with_steps_of_its_own_takes_them(editor) -> None:
    p = editor.edit(TARGET, **SAID, method="turbo-edit").provenance
    assert p.steps == p.defaults["steps"] == 4


def test_who_chose_does_not_change_the_file(editor, tmp_path) -> None:
    """A picture made again from what it carries says everything; it must be the same bytes."""
    open_ = editor.edit(TARGET, **SAID)
    said = editor.edit(TARGET, **SAID, steps=3, guidance=2.0, sites="self:all")
    for name, result in (("open", open_), ("said", said)):
        result.save(tmp_path / f"{name}.png")
    assert (tmp_path / "open.png").read_bytes() == (tmp_path / "said.png").read_bytes()


def test_inversion_comparison_and_maps_take_the_same(editor) -> None:
    picture = editor.edit(TARGET, **SAID).images[0]
    inverted = editor.invert(picture)
    assert inverted.trajectory.steps == 3
    assert editor.edit(TARGET, image=inverted).provenance.steps == 3
    compared = compare(editor, TARGET, source=SOURCE, methods="fpe,sdedit")
    recipes = [entry.result.provenance for entry in compared.entries]
    assert [(p.steps, p.guidance) for p in recipes] == [(3, 2.0)] * 2
    maps = editor.attention(SOURCE, words=["dog"], width=64, height=64)
    assert (maps.settings["steps"], maps.settings["guidance"]) == (3, 2.0)


def test_a_family_s_defaults_where_the_catalogue_knows_nothing(pipe) -> None:
    usual = defaults_of(fp.Editor(pipe, name="my/checkpoint").model)
    assert (usual.steps, usual.guidance, usual.sites) == (50, 7.5, None)
    xl = defaults_of(fp.Editor(tiny_sdxl(), name="my/xl").model)
    assert (xl.steps, xl.guidance) == (50, 5.0)


@pytest.mark.parametrize("name", ["my/lcm", "known"])
def test_a_consistency_model_wants_few_steps_whatever_it_is_called(pipe, monkeypatch, name) -> None:
    entry = Entry(summary="", licence="", size=64, source="own/er", sites="self:all")
    monkeypatch.setitem(CATALOG, "known", entry)
    p = fp.Editor(consistent(pipe), name=name).edit(TARGET, **SAID).provenance
    assert (p.steps, p.guidance) == (4, 1.0) and "distilled" in p.defaults["of"]
    assert p.parameters["sites"] == ("self:all" if name == "known" else "self:below-top")


def test_a_hub_id_and_a_folder_are_their_entry_s() -> None:
    turbo = defaults_by_name("stabilityai/sd-turbo")
    assert turbo is not None and (turbo.steps, turbo.guidance) == (4, 1.0)
    assert defaults_by_name(str(CATALOG["emoji-sd"].source)) == defaults_by_name("emoji-sd")
    assert defaults_by_name("some/other") is None


def test_full_size_models_keep_the_rule_of_the_paper() -> None:
    known = {name for name, entry in CATALOG.items() if entry.sites is not None}
    assert known == {"emoji-sd"}


@torch.no_grad()
@pytest.mark.slow
def test_emoji_sd_shares_all_layers(tmp_path) -> None:
    p = fp.load("emoji-sd", device="cpu").edit("a blue car", source="a red car").provenance
    assert (p.steps, p.guidance, p.parameters["sites"]) == (50, 7.5, "self:all")
