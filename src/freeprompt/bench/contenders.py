"""Who is compared: a method with its settings, or one of the trivial baselines."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from freeprompt.api import checks
from freeprompt.bench.items import TRACKS, Item, Track
from freeprompt.core.params import Parameters, check_names
from freeprompt.errors import ConfigError, unknown
from freeprompt.inversion import INVERSIONS
from freeprompt.methods import FPE, METHODS

Prompt = Literal["auto", "given", "empty"]
PROMPTS: tuple[str, ...] = get_args(Prompt)

Hints = Literal["none", "words", "mask"]
HINTS: tuple[str, ...] = get_args(Hints)

USUAL_STEPS = 50

BASELINES: dict[str, str] = {
    "copy": "the source, unchanged",
    "plain": "the target prompt, generated from the source's noise without any editing",
    "ideal": "the ideal edit, rendered; real images of Emoji World only",
}
"""What stands in every table beside the methods, so that their figures can be read."""

TUNING_FREE = tuple(m for m, cls in METHODS.items() if not (cls.trains or cls.instructs))
"""What "*" stands for: methods that edit to a prompt without training. The others are named."""

PICTURES = "pictures"
"""The contender whose edits were made elsewhere and lie in a folder; see `pictures`."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to edit.

    Attributes:
        method: Name of a method or a baseline.
        parameters: Of the method, where they differ from its defaults.
        inversion: Name of the inversion; None for the method's own.
        inversion_parameters: Likewise.
        steps: Denoising steps; None for as many as the method is made for, usually 50.
        guidance: Guidance scale.
        prompt: Whether methods are told the source prompt of a real image. `auto` tells those that
            cannot do without, which is what their papers do.
        hints: What else the data set says of an item is given to the method, if it can use it:
            `words` that mark the object (Prompt-to-Prompt's local blend), or the `mask` of what is
            edited.
        tag: Word that tells it from another of the same method, such as `tuned`.
        tracks: Where it takes part.
    """

    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inversion: str | None = None
    inversion_parameters: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    guidance: float = 7.5
    prompt: Prompt = "auto"
    hints: Hints = "none"
    tag: str = ""
    tracks: tuple[str, ...] = TRACKS

    def __post_init__(self) -> None:
        if self.method in BASELINES:
            if self.parameters:
                raise ConfigError(f"The baseline {self.method!r} has no parameters.")
        elif self.method not in {*METHODS, PICTURES}:
            raise unknown(ConfigError, "method or baseline", self.method, [*METHODS, *BASELINES])
        elif self.method in METHODS:
            METHODS[self.method].build(self.parameters)
        if self.inversion is not None:
            INVERSIONS[self.inversion].build(self.inversion_parameters)
        if self.steps is not None and checks.whole("steps", self.steps) < 1:
            raise ConfigError(f"steps must be at least 1; got {self.steps}.")
        checks.checked_guidance(self.guidance)
        if self.prompt not in PROMPTS:
            raise unknown(ConfigError, "prompt", str(self.prompt), PROMPTS)
        if self.hints not in HINTS:
            raise unknown(ConfigError, "hints", str(self.hints), HINTS)
        if not self._hinted:  # said or unsaid, it is the same contender
            object.__setattr__(self, "hints", "none")
        if self.steps == self._own_steps:  # said or unsaid, it is the same contender
            object.__setattr__(self, "steps", None)

    @property
    def _hinted(self) -> bool:
        """Whether the hints mean anything to the method."""
        method = METHODS.get(self.method)
        if method is None or self.hints == "none":
            return False
        return method.uses_mask if self.hints == "mask" else method.object_words is not None

    @property
    def _own_steps(self) -> int:
        return getattr(METHODS.get(self.method), "own_steps", None) or USUAL_STEPS

    @property
    def denoising_steps(self) -> int:
        """Steps of the edit."""
        return self._own_steps if self.steps is None else self.steps

    def at(self, steps: int) -> "Contender":
        """Return the same with so many steps, unless its method is made for a number of its own."""
        fixed = getattr(METHODS.get(self.method), "own_steps", None) is not None
        return self if fixed or self.method == PICTURES else replace(self, steps=steps)

    @property
    def baseline(self) -> bool:
        """Whether it is no method."""
        return self.method in BASELINES

    @property
    def edits(self) -> bool:
        """Whether it is a method, which edits here and now."""
        return self.method in METHODS

    @property
    def told(self) -> bool:
        """Whether the method is given the source prompt of a real image."""
        if self.prompt != "auto" or not self.edits:
            return self.prompt == "given"
        method = METHODS[self.method]
        inversion = INVERSIONS[self.inversion or method.inversion]
        return method.reads_prompts or inversion.needs_prompt or self.hints == "words"

    def on(self, track: Track) -> "Contender | None":
        """The contender as it matters on a track; None where it does not take part."""
        if track not in self.tracks or (self.method == "ideal" and track == "generated"):
            return None
        if self.method == "ideal" or (self.method == "copy" and track == "real"):
            return Contender(method=self.method, tracks=self.tracks)
        if self._inverts(track):
            return self if self._fits() else None
        plain: dict[str, Any] = {"inversion": None, "inversion_parameters": {}, "prompt": "auto"}
        return Contender(**{**self._fields(), **plain})

    def _inverts(self, track: Track) -> bool:
        """Whether there is an inversion in it at all."""
        if not self.edits:
            return track == "real"
        method = METHODS[self.method]
        return bool(method.needs) or (method.inverts and track == "real")

    def _fits(self) -> bool:
        """Whether the method can make something of the inversion; the editor refuses the others."""
        if self.inversion is None:
            return True
        method, inversion = METHODS.get(self.method, FPE), INVERSIONS[self.inversion]
        return set(method.needs) <= set(inversion.gives) <= {*method.uses, *method.needs}

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def label(self) -> str:
        """Short name for tables, such as `fpe (share=0.6, steps=20)`."""
        if self.method == PICTURES:
            return self.tag
        marks = [self.tag] if self.tag else []
        if self.inversion is not None:
            marks.append("+".join([self.inversion, *_pairs(self.inversion_parameters)]))
        marks += [] if self.tag == "tuned" else _pairs(self.parameters)
        usual = Contender.__dataclass_fields__
        for name in ("steps", "guidance", "prompt", "hints"):
            if getattr(self, name) != usual[name].default:
                marks.append(f"{name}={getattr(self, name)}")
        return f"{self.method} ({', '.join(marks)})" if marks else self.method

    def hinted(self, item: Item) -> dict[str, Any]:
        """Return the method's parameters for an item, its words among them where they are told."""
        words = item.blend_words if self.hints == "words" else ()
        if not words:
            return dict(self.parameters)
        parameter = METHODS[self.method].object_words
        assert parameter is not None
        return {parameter: ",".join(words), **self.parameters}

    def to_dict(self) -> dict[str, Any]:
        """Return what makes it what it is, as JSON types."""
        values = self._fields()
        del values["tracks"]
        return {
            **values,
            "parameters": dict(self.parameters),
            "inversion_parameters": dict(self.inversion_parameters),
        }

    def key(self, *context: Any) -> str:
        """Hash of the contender and of anything else that a result depends on."""
        text = json.dumps([self.to_dict(), *context], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in values.items()]


AXES = ("method", "inversion", "steps", "guidance", "prompt", "hints", "tracks")


def grid(table: Mapping[str, Any]) -> Iterator[Contender]:
    """Build the contenders of one [[grid]] of a plan: the product of all lists in it.

    Args:
        table: `method` (a name, several, or "*" for all of `TUNING_FREE`), and optionally
            `inversion`, `steps`, `guidance`, `prompt`, `hints`, `tag`, `tracks`, and tables `set`
            and `set_inversion` of parameters. A list means every one of its values.

    Raises:
        ConfigError: for an unknown name or a value that cannot be used.
    """
    known = (*AXES, "tag", "set", "set_inversion")
    _check_table("grid", table, known, {"tag": str, "set": dict, "set_inversion": dict})
    if "method" not in table:
        raise ConfigError('A [[grid]] needs a method: a name, a list of names, or "*".')
    given, axes = dict(table), {}
    tracks = tuple(_several(given.pop("tracks", TRACKS)))
    for track in tracks:
        if track not in TRACKS:
            raise unknown(ConfigError, "track", str(track), TRACKS)
    given["method"] = _all(given["method"], TUNING_FREE)
    if "inversion" in given:
        given["inversion"] = _all(given["inversion"], INVERSIONS)
    for name in AXES:
        if name in given:
            axes[name] = _several(given[name])
    for prefix in ("set", "set_inversion"):
        for name, value in given.get(prefix, {}).items():
            axes[f"{prefix}.{name}"] = _several(value)
    _check_parameters(axes)
    for values in product(*axes.values()):
        yield _contender(dict(zip(axes, values, strict=True)), given.get("tag", ""), tracks)


def pictures(table: Mapping[str, Any], base: Path) -> Contender:
    """Build the contender of one [[pictures]] of a plan: edits that were made elsewhere.

    Args:
        table: `label`; `folder` with a picture for every item, named like the item's own image (in
            its folder or not) or `ID.png`; `strip`, whether each is a row of pictures of which the
            last, square one is the edit, as PIE-Bench's own tools write them.
        base: Where relative folders start.

    Raises:
        ConfigError: for an unknown or missing setting.
    """
    known = ("label", "folder", "strip")
    _check_table("pictures", table, known, {"label": str, "folder": str, "strip": bool})
    if not table.get("label") or not table.get("folder"):
        raise ConfigError("A [[pictures]] needs a label and a folder.")
    folder = base / Path(table["folder"]).expanduser()
    settings = {"folder": str(folder), "strip": bool(table.get("strip", False))}
    return Contender(method=PICTURES, parameters=settings, tag=str(table["label"]))


def _check_table(noun: str, table: Any, known: Sequence[str], kinds: Mapping[str, type]) -> None:
    if not isinstance(table, Mapping):
        raise ConfigError(f"A [[{noun}]] must be a table; got {table!r}.")
    for name in table:
        if name not in known:
            raise unknown(ConfigError, f"setting of [[{noun}]]", name, known)
    check_kinds(table, kinds)


WORDS = {str: "text", int: "a whole number", bool: "true or false", dict: "a table"}


def check_kinds(table: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """Check that settings of a plan are of the kind that they must be.

    Raises:
        ConfigError: naming the first that is not.
    """
    for name, value in table.items():
        kind = kinds.get(name, type(value))
        if type(value) is not kind:
            words = WORDS.get(kind, f"a list, such as [[{name}]] or {name} = [...]")
            raise ConfigError(f"{name} must be {words}; got {value!r}.")


def _contender(point: Mapping[str, Any], tag: str, tracks: tuple[str, ...]) -> Contender:
    def below(prefix: str) -> dict[str, Any]:
        return {k.removeprefix(prefix): v for k, v in point.items() if k.startswith(prefix)}

    plain = {name: value for name, value in point.items() if "." not in name}
    return Contender(
        **plain,
        parameters=_mine(plain["method"], below("set.")),
        inversion_parameters=below("set_inversion."),
        tag=tag,
        tracks=tracks,
    )


def _mine(method: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that a method has; a grid over several methods sets what each one knows."""
    known = METHODS[method].specs() if method in METHODS else {}
    return {name: value for name, value in parameters.items() if name in known}


def _check_parameters(axes: Mapping[str, Sequence[Any]]) -> None:
    owners: list[type[Parameters]] = [METHODS[m] for m in axes["method"] if m in METHODS]
    check_names([name[4:] for name in axes if name.startswith("set.")], owners)


def _all(given: Any, known: Iterable[str]) -> list[str]:
    """A name or several; "*" stands for all there are."""
    return [name for one in _several(given) for name in (known if one == "*" else [one])]


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def distinct(contenders: Sequence[Contender], track: Track) -> list[Contender]:
    """The contenders that matter on a track, each once, in order."""
    taking_part = [c.on(track) for c in contenders]
    return list({c.key(): c for c in taking_part if c is not None}.values())
