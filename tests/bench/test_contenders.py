"""The grid: every combination once, every name checked, nothing listed by hand."""

from dataclasses import replace

import pytest

from freeprompt.bench.contenders import BASELINES, TUNING_FREE, Contender, distinct, grid
from freeprompt.bench.items import Item
from freeprompt.bench.plan import read_plan
from freeprompt.errors import ConfigError, UnknownInversion
from freeprompt.inversion import INVERSIONS
from freeprompt.methods import METHODS


def labels(**table):
    return [contender.label for contender in grid(table)]


def test_a_star_is_every_registered_method_and_inversion() -> None:
    others = {"imagic", "instruct-pix2pix"}  # one trains for each edit, one follows instructions
    assert labels(method="*") == [name for name in METHODS if name not in others]
    found = [contender.inversion for contender in grid({"method": "fpe", "inversion": "*"})]
    assert found == list(INVERSIONS)


def test_lists_are_multiplied() -> None:
    table = {
        "method": ["fpe", "sdedit"],
        "steps": [10, 50],
        "set": {"share": [0.4, 0.8], "strength": 0.5},
    }
    assert [c.label for c in grid(table)] == [
        "fpe (share=0.4, steps=10)",
        "fpe (share=0.8, steps=10)",
        "fpe (share=0.4)",
        "fpe (share=0.8)",
        "sdedit (strength=0.5, steps=10)",
        "sdedit (strength=0.5, steps=10)",
        "sdedit (strength=0.5)",
        "sdedit (strength=0.5)",
    ]
    assert len(distinct(list(grid(table)), "real")) == 6


def test_inversions_are_told_apart_on_real_images_only() -> None:
    both = list(
        grid({"method": "fpe", "inversion": "ddim", "set_inversion": {"iterations": [0, 3]}})
    )
    assert [c.label for c in distinct(both, "real")] == [
        "fpe (ddim+iterations=0)",
        "fpe (ddim+iterations=3)",
    ]
    assert [c.label for c in distinct(both, "generated")] == ["fpe"]


def test_inversions_that_a_method_can_make_nothing_of_are_left_out() -> None:
    every = list(grid({"method": ["*", "plain"], "inversion": "*"}))
    real = distinct(every, "real")
    for contender in real:
        if contender.method in METHODS and contender.inversion:
            method, inversion = METHODS[contender.method], INVERSIONS[contender.inversion]
            assert method.inverts or method.needs
            assert set(method.needs) <= set(inversion.gives)
            assert set(inversion.gives) <= {*method.uses, *method.needs}
    assert {c.method for c in real} == {*TUNING_FREE, "plain"}
    assert [c.label for c in real if c.method == "sdedit"] == ["sdedit"]


def test_steps_are_those_that_a_method_is_made_for() -> None:
    for name in METHODS:
        own = METHODS[name].own_steps or 50
        said, unsaid = Contender(method=name, steps=own), Contender(method=name)
        assert said == unsaid
        assert unsaid.denoising_steps == own
        assert Contender(method=name, steps=own + 1).label == f"{name} (steps={own + 1})"


def test_baselines_take_part_where_they_mean_something() -> None:
    every = [Contender(method=name) for name in BASELINES]
    assert [c.method for c in distinct(every, "real")] == list(BASELINES)
    assert [c.method for c in distinct(every, "generated")] == ["copy", "plain"]
    copies = [Contender(method="copy", steps=steps) for steps in (20, 50)]
    assert len(distinct(copies, "generated")) == 2  # a generated source depends on its steps
    assert len(distinct(copies, "real")) == 1
    real = Contender(method="fpe", tracks=("real",))
    assert distinct([real], "generated") == []


def test_source_prompts_go_to_those_who_cannot_do_without() -> None:
    for name in METHODS:
        assert Contender(method=name, prompt="given").told
        assert not Contender(method=name, prompt="empty").told
        if METHODS[name].reads_prompts:
            assert Contender(method=name).told
    assert not Contender(method="fpe").told
    for name, inversion in INVERSIONS.items():
        assert Contender(method="fpe", inversion=name).told == inversion.needs_prompt


def test_keys_tell_everything_apart_that_matters() -> None:
    base = Contender(method="fpe")
    others = [
        Contender(method="fpe", parameters={"share": 0.5}),
        Contender(method="fpe", steps=20),
        Contender(method="fpe", guidance=5.0),
        Contender(method="fpe", inversion="ddim"),
        Contender(method="masactrl"),
    ]
    keys = [c.key("item") for c in (base, *others)] + [base.key("another item")]
    assert len(set(keys)) == len(keys)
    assert base.key("item") == Contender(method="fpe", tracks=("real",)).key("item")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "needs a method"),
        ({"method": "fpee"}, "'fpee' .did you mean 'fpe'"),
        ({"method": "fpe", "stepps": 3}, "did you mean 'steps'"),
        ({"method": "fpe", "set": {"shares": 1}}, "'shares' .did you mean 'share'"),
        ({"method": "fpe", "set": {"share": 2}}, "share of FPE must be a number from 0 to 1"),
        ({"method": "fpe", "tracks": ["reel"]}, "did you mean 'real'"),
        ({"method": "fpe", "prompt": "some"}, "Unknown prompt 'some'"),
        ({"method": "fpe", "hints": "masks"}, "did you mean 'mask'"),
        ({"method": "copy", "set": {"share": 1}}, "share"),
        ({"method": 3}, "Unknown method or baseline 3"),
        ({"method": "fpe", "steps": 0}, "steps must be at least 1; got 0"),
        ({"method": "fpe", "steps": [4, "x"]}, "steps must be a whole number; got 'x'"),
        ({"method": "fpe", "guidance": "x"}, "guidance must be a number of at least 0"),
        ({"method": "fpe", "set": 3}, "set must be a table; got 3"),
        ({"method": "fpe", "tag": 3}, "tag must be text; got 3"),
        (3, "must be a table; got 3"),
    ],
)
def test_refusals(table, message) -> None:
    with pytest.raises(ConfigError, match=message):
        list(grid(table))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = 3", "model must be text; got 3"),
        ('keep_pictures = "no"', "keep_pictures must be true or false; got 'no'"),
        ("processes = true", "processes must be a whole number; got True"),
        ("data = 3", "data must be a table; got 3"),
        ("metrics = 3", "metrics must be a table; got 3"),
        ("grid = 3", r"grid must be a list, such as \[\[grid\]\]"),
        ('include = "tuned.toml"', "include must be a list"),
        ("include = [3]", "include must be a list of names"),
        ("baselines = [3]", "Unknown method or baseline 3"),
        ("[data]\nname = 3", "name must be text; got 3"),
        ("[data]\npath = 3", "path must be text; got 3"),
        ('[data]\nlimit = "5"', "limit must be a whole number; got '5'"),
        ('[[pictures]]\nlabel = "x"\nfolder = 3', "folder must be text; got 3"),
        ('[[pictures]]\nlabel = "x"\nfolder = "x"\nstrip = "no"', "strip must be true or false"),
    ],
)
def test_a_plan_of_other_kinds_is_refused(tmp_path, text, message) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"^'{file}': {message}"):
        read_plan(file)


def test_an_unknown_inversion_is_refused() -> None:
    with pytest.raises(UnknownInversion, match="ddimm"):
        list(grid({"method": "fpe", "inversion": "ddimm"}))


def test_hints_reach_those_that_can_use_them() -> None:
    item = Item(
        id="1", cell="c", track="real", source="a dog", target="a cat", blend_words=("dog", "cat")
    )
    words = {c.method: c for c in grid({"method": "*", "hints": "words"})}
    told = {name for name, c in words.items() if c.hints == "words"}
    assert told == {"p2p", "fpe-protect", "masactrl"}
    assert all(words[name].told for name in told)  # who reads words must have both prompts
    assert words["p2p"].hinted(item) == {"blend_words": "dog,cat"}
    assert words["p2p"].hinted(replace(item, blend_words=())) == {}
    assert words["fpe"].hinted(item) == {}
    assert words["p2p"].label == "p2p (hints=words)"
    masked = {c.method for c in grid({"method": "*", "hints": "mask"}) if c.hints == "mask"}
    assert masked == {name for name in TUNING_FREE if METHODS[name].uses_mask}


def test_steps_for_everyone_but_those_with_their_own() -> None:
    assert Contender(method="fpe").at(20).denoising_steps == 20
    assert Contender(method="plain").at(20).denoising_steps == 20
    own = Contender(method="turbo-edit")
    assert own.at(20) == own
