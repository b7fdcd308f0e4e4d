"""Names to classes, for methods and inversions alike."""

from dataclasses import dataclass

import pytest

from freeprompt.core.params import Parameters
from freeprompt.core.registry import Registry
from freeprompt.errors import UnknownInversion, UnknownMethod
from freeprompt.inversion import INVERSIONS, DDIMInversion, Inversion
from freeprompt.methods import FPE, METHODS, Method


@dataclass(frozen=True, kw_only=True)
class Thing(Parameters):
    """Nothing to set."""


def registry(*names):
    made = Registry("thing", UnknownMethod)
    for name in names:
        made.register(name)(type(name, (Thing,), {}))
    return made


def test_the_shipped_names():
    assert METHODS["fpe"] is FPE and INVERSIONS["ddim"] is DDIMInversion
    assert METHODS.name_of(FPE(share=0.5)) == "fpe"
    assert INVERSIONS.name_of(DDIMInversion()) == "ddim"


def test_registering_returns_the_class_and_keeps_the_order():
    assert list(registry("b", "a", "c")) == ["b", "a", "c"] and len(registry("a", "b")) == 2
    assert registry().register("x")(Thing) is Thing


def test_an_unknown_name_lists_what_there_is_with_a_hint():
    with pytest.raises(
        UnknownMethod, match=r"Unknown method 'fep' \(did you mean 'fpe'\?\)\. Avail"
    ):
        METHODS["fep"]
    with pytest.raises(UnknownInversion, match=r"Unknown inversion 'zzz'\. Available: .*ddim"):
        INVERSIONS["zzz"]
    with pytest.raises(UnknownMethod, match="Unknown thing '3'. Available: a, b"):
        registry("b", "a")[3]


def test_asking_whether_a_name_is_known_is_no_error():
    """`Mapping` answers `in` and `get` by catching `KeyError`, which an `UnknownMethod` is not."""
    known = registry("a")
    assert "a" in known and "b" not in known
    assert known.get("b") is None and known.get("a") is known["a"]


def test_a_name_is_given_once():
    known = registry("a")
    with pytest.raises(ValueError, match="'a' is registered twice"):
        known.register("a")(Thing)


def test_a_subclass_does_not_answer_to_its_parents_name():
    @dataclass(frozen=True, kw_only=True)
    class Mine(FPE):
        """Someone's own method, not registered."""

    with pytest.raises(Exception, match="Mine"):
        METHODS.name_of(Mine())


@pytest.mark.parametrize("kind", [Method, Inversion])
def test_a_base_class_says_that_it_does_nothing(kind):
    with pytest.raises(TypeError, match=kind.__name__):
        kind()(None, None) if kind is Method else kind()(None, None, steps=1)
