"""Parameters as frozen dataclass fields, from which flags, sliders and files are derived.

A field made by `param` carries its help text, range, unit and source. `Parameters` checks every
value on construction, so that a wrong one is refused with the field's own words wherever it came
from: Python, a command line, a file or a form.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from freeprompt.core.sites import Sites
from freeprompt.errors import BadFraction, ConfigError, unknown


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What is known of a parameter beside its name and default.

    Attributes:
        help: One sentence.
        low: Smallest allowed value, or None.
        high: Largest allowed value, or None.
        choices: Allowed values, or empty.
        unit: Unit of the value, for labels.
        source: Where the default comes from.
    """

    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    unit: str = ""
    source: str = ""

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.low is not None and self.high is not None:
            return f"from {self.low:g} to {self.high:g}"
        return f"at least {self.low:g}" if self.low is not None else ""


def param(default: Any, help: str, **spec: Any) -> Any:
    """Declare a parameter; keyword arguments are the fields of `Spec`.

    The type of the default is the type of the parameter: bool, int, float, str or `Sites`.
    """
    return field(default=default, metadata={"spec": Spec(help=help, **spec)})


def same(owner: "type[Parameters]", name: str) -> Any:
    """Declare the parameter `name` of `owner` again, for another class."""
    original = {f.name: f for f in fields(owner)}[name]
    return field(default=original.default, metadata=original.metadata)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Base of things that are configured by parameters: methods and inversions."""

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, _checked(type(self), f, getattr(self, f.name)))

    @classmethod
    def specs(cls) -> dict[str, Spec]:
        """Return the parameters by name, in order."""
        return {f.name: f.metadata["spec"] for f in fields(cls)}

    @classmethod
    def described(cls) -> dict[str, dict[str, Any]]:
        """Return default, allowed values, unit, help and source of every parameter."""
        instance = cls()
        defaults = instance.to_dict()
        return {
            name: {
                "default": defaults[name],
                "allowed": spec.allowed or _KINDS[type(getattr(instance, name))],
                "unit": spec.unit,
                "help": spec.help,
                "source": spec.source,
            }
            for name, spec in cls.specs().items()
        }

    @classmethod
    def build(cls, values: Mapping[str, Any]) -> Self:
        """Construct from values of the right type or from text, such as `{"share": "0.8"}`.

        Raises:
            ConfigError: for an unknown name or a value out of range.
        """
        check_names(values, [cls])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return all values as JSON types."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: str(v) if isinstance(v, Sites) else v for name, v in values.items()}


_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Sites: "a site expression",
}


def named_numbers(parameter: str, text: str) -> dict[str, float]:
    """Read a parameter such as `rabbit=0.2,park=0.8`.

    Raises:
        ConfigError: if it is not a list of word=number, each a finite one.
    """
    pairs = {}
    for item in filter(None, text.split(",")):
        word, _, value = item.partition("=")
        try:
            pairs[word.strip()] = float(value)
            if not math.isfinite(pairs[word.strip()]):
                raise ValueError
        except ValueError:
            raise ConfigError(
                f"{parameter} takes word=number, separated by commas, such as rabbit=0.2,park=0.8; "
                f"got {item!r} in {text!r}."
            ) from None
    return pairs


def word_pair(parameter: str, text: str) -> tuple[str, str]:
    """Read a parameter such as `dog,rabbit`; a single word stands for both.

    Raises:
        ConfigError: for more than two words.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if len(words) not in (1, 2):
        raise ConfigError(f"{parameter} takes a source word and a target word; got {text!r}.")
    return words[0], words[-1]


def check_names(values: Iterable[str], owners: Iterable[type[Parameters]]) -> None:
    """Check that every name is a parameter of one of `owners`.

    Raises:
        ConfigError: naming the nearest parameter.
    """
    known = [name for owner in owners for name in owner.specs()]
    for name in values:
        if name not in known:
            raise unknown(ConfigError, "parameter", name, known)


def _checked(owner: type, f: "dataclasses.Field[Any]", value: Any) -> Any:
    spec: Spec = f.metadata["spec"]
    kind = type(f.default)
    try:
        value = _convert(kind, value)
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(_message(owner, f, spec, value, kind)) from None
    if (
        (spec.choices and value not in spec.choices)
        or (spec.low is not None and not value >= spec.low)
        or (spec.high is not None and not value <= spec.high)
    ):
        refused = BadFraction if spec.unit == "share" else ConfigError
        raise refused(_message(owner, f, spec, value, kind))
    return value


def _convert(kind: type, value: Any) -> Any:
    if kind is bool:
        return _boolean(value)
    if kind is Sites:
        return value if isinstance(value, Sites) else Sites(value)
    if isinstance(value, bool) or (kind is str and not isinstance(value, str)):
        raise TypeError
    if kind is int and int(value) != float(value):
        raise ValueError
    return kind(value)


def _boolean(value: Any) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in words:
        raise ValueError
    return words[str(value).lower()]


def _message(owner: type, f: "dataclasses.Field[Any]", spec: Spec, value: Any, kind: type) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    allowed = spec.allowed if spec.choices else f"{names.get(kind, '')} {spec.allowed}".strip()
    return (
        f"{f.name} of {owner.__name__} must be {allowed}; got {value!r}. "
        f"It is: {spec.help} (default {f.default})."
    )
