"""Parameters: text to values, and messages in the field's own words."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from freeprompt.core import Sites
from freeprompt.core.params import Parameters, check_names, param
from freeprompt.errors import BadFraction, BadSiteExpression, ConfigError
from freeprompt.inversion import INVERSIONS
from freeprompt.methods import METHODS

REGISTERED = {**dict(METHODS), **dict(INVERSIONS)}


@dataclass(frozen=True, kw_only=True)
class Brew(Parameters):
    """One parameter of each kind."""

    count: int = param(3, "Number of cups", low=0, high=10)
    many: int = param(1, "Without a top", low=1)
    heat: float = param(0.5, "Relative heat", low=-1, high=2.5)
    free: float = param(1.0, "Without a top", low=0)
    share: float = param(0.8, "Share of the steps", low=0, high=1, unit="share")
    kind: str = param("black", "What is brewed", choices=("black", "green"))
    note: str = param("", "Written on the pot")
    hot: bool = param(True, "Whether it is hot")
    sites: Sites = param(Sites("self:all"), "Where")


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        *(("count", given, 3) for given in ("3", " 3 ", 3, 3.0, np.int64(3), np.float32(3))),
        *(("count", given, given) for given in (0, 10)),
        *(("heat", given, 2.0) for given in ("2", "2.0", "2e0", 2, np.float64(2))),
        *(("heat", given, given) for given in (-1.0, 2.5)),
        *(("share", given, float(given)) for given in ("0", "1", 0, 1, 0.25, "0.25")),
        *(("hot", given, True) for given in (True, "true", "True", "YES", "on", "1", 1)),
        *(("hot", given, False) for given in (False, "false", "No", "off", "0", 0)),
        ("kind", "green", "green"),
        ("note", "3", "3"),
        ("sites", "self:3-13", Sites("self:3-13")),
        ("sites", Sites("none"), Sites("none")),
    ],
)
def test_values_and_text_are_converted(name, given, expected):
    found = getattr(Brew.build({name: given}), name)
    assert found == expected and type(found) is type(expected)
    assert getattr(Brew(**{name: given}), name) == expected


@pytest.mark.parametrize(
    ("name", "given", "allowed"),
    [
        *(("count", v, "a whole number from 0 to 10") for v in (2.5, "2.5", "three", "", None)),
        *(("count", v, "a whole number from 0 to 10") for v in (True, [3], -1, 11, "11", "1e1")),
        *(("count", v, "a whole number from 0 to 10") for v in (float("nan"), float("inf"))),
        pytest.param("count", 10**400, "a whole number from 0 to 10", id="beyond-float"),
        ("many", 0, "a whole number at least 1"),
        *(("heat", v, "a number from -1 to 2.5") for v in (-1.01, 2.6, "nan", "inf", "hot", False)),
        *(("free", v, "a number at least 0") for v in ("nan", float("nan"), -0.5)),
        *(("share", v, "a number from 0 to 1") for v in ("much", None, True)),
        *(("kind", v, "one of black, green") for v in ("red", "", "BLACK", 3, None)),
        *(("note", v, "text") for v in (3, None, ["a"])),
        *(("hot", v, "true or false") for v in ("perhaps", "", 2, None)),
    ],
)
def test_a_refusal_says_what_is_allowed_and_quotes_value_and_default(name, given, allowed):
    with pytest.raises(ConfigError) as error:
        Brew.build({name: given})
    help, default = Brew.specs()[name].help, getattr(Brew(), name)
    start, _, rest = str(error.value).partition("; ")
    assert start == f"{name} of Brew must be {allowed}"
    quoted = (f"got {given!r}", f"got {given}")  # as it was given, or the number it was read as
    assert rest in [f"{text}. It is: {help} (default {default})." for text in quoted]


@pytest.mark.parametrize("given", [1.5, -0.1, "2", float("nan"), float("inf")])
def test_a_share_out_of_range_names_the_parameter(given):
    """And says nothing of "1 steps": how many there will be is not known here."""
    with pytest.raises(BadFraction) as error:
        Brew(share=given)
    message = str(error.value)
    assert message.startswith("share of Brew must be a number from 0 to 1")
    assert "default 0.8" in message and "1 steps" not in message


def test_an_expression_that_cannot_be_read_keeps_its_own_error():
    with pytest.raises(BadSiteExpression, match="'self:0'"):
        Brew(sites="self:0")
    with pytest.raises(BadSiteExpression, match="got 3"):
        Brew(sites=3)


def test_an_unknown_name_gets_the_nearest_as_a_hint():
    with pytest.raises(ConfigError, match=r"Unknown parameter 'shre' \(did you mean 'share'\?\)"):
        Brew.build({"shre": 1})
    with pytest.raises(ConfigError, match=r"'zzz'\. Available: count, free, heat, hot, kind"):
        Brew.build({"zzz": 1})


def test_names_may_belong_to_any_of_several_owners():
    check_names(["share", "iterations"], [METHODS["fpe"], INVERSIONS["ddim"]])
    with pytest.raises(ConfigError, match=r"'iteration' \(did you mean 'iterations'\?\).*share"):
        check_names(["iteration"], [METHODS["fpe"], INVERSIONS["ddim"]])


def test_parameters_are_frozen_values():
    brew = Brew(count=4)
    assert brew == Brew.build({"count": "4"}) != Brew()
    with pytest.raises(AttributeError):
        brew.count = 5
    with pytest.raises(TypeError):
        Brew(4)


@pytest.mark.parametrize("name", REGISTERED)
def test_every_registered_class_goes_to_json_and_back(name):
    kind = REGISTERED[name]
    plain = json.loads(json.dumps(kind().to_dict()))
    assert list(plain) == list(kind.specs())
    assert kind.build(plain) == kind()
    as_text = {key: str(value) for key, value in plain.items()}
    assert kind.build(as_text) == kind()


def test_values_other_than_the_defaults_survive_the_way_through_json():
    given = Brew(count=7, heat=-1, share=0, kind="green", note="ä", hot=False, sites="self:mid")
    assert Brew.build(json.loads(json.dumps(given.to_dict()))) == given


@pytest.mark.parametrize("name", REGISTERED)
def test_every_parameter_explains_itself(name):
    """The texts are shown in help, forms and errors, which end them with a default."""
    for spec in REGISTERED[name].specs().values():
        assert spec.help and not spec.help.endswith(".") and spec.source


@pytest.mark.parametrize("name", REGISTERED)
def test_no_parameter_takes_what_its_choices_do_not_offer(name):
    kind = REGISTERED[name]
    for field, spec in kind.specs().items():
        for choice in spec.choices:
            assert getattr(kind.build({field: choice}), field) == choice
        if spec.choices:
            with pytest.raises(ConfigError, match=f"{field} of {kind.__name__}.*'nonsense'"):
                kind.build({field: "nonsense"})
        if spec.high is not None:
            with pytest.raises(ConfigError):
                kind.build({field: spec.high + 1})
        if spec.low is not None:
            with pytest.raises(ConfigError):
                kind.build({field: spec.low - 1})
