"""Where a control acts: the address of one tensor seam, and a small notation that selects some.

An expression is one or more terms joined by `+`; a term is `kind:parts`, the parts separated by
commas and applied from left to right, each adding sites, or removing them when it starts with `!`:

    self:below-top          every grid below the finest one that has attention (the default of FPE)
    self:top                the finest grid only
    self:all                all of the kind (also `*`)
    self:3-13   self:7      layers by number, 1-based, in execution order
    self:paper              "layers 4-14" of the FPE paper, which counts from the output side
    cross:down.2,up.1       by block; `up.1.0` is a single site; `double.*` works too
    feature:up.-3.1         likewise, blocks counted from the last
    self:scale.4            by grid: 1 is the finest with attention, 2 half of that, ...
    cross:coarsest          the coarsest grid outside the middle block
    self:after.0.625        layers with at least that share of all layers before them
    self:all,!mid           all but the middle block
    none                    nothing, on purpose

See docs/concepts.md for how the paper's numbering and this one meet.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, get_args

from freeprompt.errors import BadSiteExpression, ControlNeverFired

Kind = Literal["self", "cross", "joint", "feature"]
KINDS: tuple[str, ...] = get_args(Kind)
PAPER_LAYERS = range(4, 15)  # counted from the output side
PAPER_MODEL_LAYERS = 16  # self-attentions of the SD 1 UNet that the paper numbers
_HELP = (
    "A site expression is 'kind:parts', for example 'self:below-top', 'self:3-13', 'self:all', "
    "'cross:down.2,up.1' or 'none'; kinds are " + ", ".join(KINDS) + "."
)


@dataclass(frozen=True, kw_only=True)
class Site:
    """The address of one seam of a model.

    Attributes:
        kind: What passes here: self-, cross- or joint attention, or a convolution feature.
        block: Readable place, such as `down.1.0`, `mid.0`, `up.3.2`.
        index: 1-based number in execution order among the sites of this kind ("layer 7").
        scale: Grid downsampling against the finest grid with attention: 1, 2, 4, ...
        halvings: How often the latent grid is halved (rounding up) to reach this site's grid.
        path: Module path inside the denoiser; an implementation detail of the model adapter.
    """

    kind: Kind
    block: str
    index: int
    scale: int
    halvings: int
    path: str = field(repr=False)

    @property
    def name(self) -> str:
        """Unique readable name, such as `up.3.2.self`."""
        return f"{self.block}.{self.kind}"

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of this site's grid for a latent of `height` x `width` cells."""
        for _ in range(self.halvings):
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width


@dataclass(frozen=True)
class Sites:
    """A selection of sites, written in the notation of this module.

    Args:
        expression: See the module docstring.

    Raises:
        BadSiteExpression: if the expression cannot be read.

    Example:
        >>> Sites("self:3-13")
        Sites('self:3-13')
    """

    expression: str
    _terms: tuple[tuple[str, tuple[str, ...]], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_terms", tuple(_parse(self.expression)))

    def __repr__(self) -> str:
        return f"Sites({self.expression!r})"

    def __str__(self) -> str:
        return self.expression

    def __bool__(self) -> bool:
        """False for `none`, the deliberately empty selection."""
        return bool(self._terms)

    def select(self, known: Sequence[Site], model: str = "this model") -> tuple[Site, ...]:
        """Return the selected sites in execution order.

        Args:
            known: All sites of the model.
            model: Name of the model, for messages.

        Raises:
            ControlNeverFired: if a part selects nothing; the message lists what the model has.
            BadSiteExpression: if a layer range reaches beyond the model's layers.
        """
        chosen: set[Site] = set()
        for kind, parts in self._terms:
            of_kind = [site for site in known if site.kind == kind]
            for part in parts:
                matched = set(_match(part.lstrip("!"), of_kind, self, model))
                chosen = chosen - matched if part.startswith("!") else chosen | matched
        if self and not chosen:
            raise ControlNeverFired(f"{self.expression!r} selects no site of {model!r} in the end.")
        return tuple(site for site in known if site in chosen)


def describe(known: Iterable[Site]) -> str:
    """Return a one-line summary such as `self:1-16 (down.0.0 ... up.3.2), cross:1-16 (...)`."""
    by_kind: dict[str, list[Site]] = {}
    for site in known:
        by_kind.setdefault(site.kind, []).append(site)
    return ", ".join(
        f"{kind}:1-{len(of_kind)} ({of_kind[0].block} ... {of_kind[-1].block})"
        for kind, of_kind in by_kind.items()
    )


def _parse(expression: str) -> Iterable[tuple[str, tuple[str, ...]]]:
    if not isinstance(expression, str):
        raise BadSiteExpression(f"Sites are given as text, got {expression!r}. {_HELP}")
    text = expression.replace(" ", "")
    if text == "none":
        return
    for term in text.split("+"):
        kind, colon, selectors = term.partition(":")
        parts = tuple(selectors.split(","))
        if not colon or kind not in KINDS or not all(part.lstrip("!") for part in parts):
            raise BadSiteExpression(f"Cannot read the site expression {expression!r}. {_HELP}")
        for part in parts:
            _check_part(part.lstrip("!"), expression)
        yield kind, parts


def _check_part(part: str, expression: str) -> None:
    if numbers := re.fullmatch(r"(\d+)(?:-(\d+))?", part):
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if not 1 <= first <= last:
            raise BadSiteExpression(
                f"Layers count from 1 and ranges go upwards; got {part!r} in {expression!r}."
            )
    elif part.startswith("after.") and not re.fullmatch(r"after\.(0|1|0?\.\d+)", part):
        raise BadSiteExpression(
            f"after takes a share from 0 to 1, such as after.0.625; got {part!r} in {expression!r}."
        )
    elif not re.fullmatch(r"[a-z*][\w.*-]*", part):
        raise BadSiteExpression(f"Cannot read {part!r} in {expression!r}. {_HELP}")


def _match(part: str, known: Sequence[Site], sites: Sites, model: str) -> list[Site]:
    if part == "paper":
        return _match_paper(known, model)
    if re.fullmatch(r"[\d-]+", part):
        found = _match_layers(part, known, sites, model)
    elif part in ("all", "*"):
        found = list(known)
    elif part in ("below-top", "top"):
        found = [site for site in known if (site.scale > 1) == (part == "below-top")]
    elif part.startswith("scale."):
        found = [site for site in known if str(site.scale) == part.removeprefix("scale.")]
    elif part == "coarsest":
        outside = [site for site in known if not site.block.startswith("mid")]
        deepest = max((site.halvings for site in outside), default=0)
        found = [site for site in outside if site.halvings == deepest]
    elif part.startswith("after."):
        share = float(part.removeprefix("after."))
        found = [site for site in known if site.index - 1 >= share * len(known)]
    else:
        place = _from_the_front(part, known)
        found = [s for s in known if fnmatchcase(s.block, place) or s.block.startswith(f"{place}.")]
    if not found:
        raise ControlNeverFired(
            f"{part!r} in {sites.expression!r} selects no site of {model!r}. "
            f"It has {describe(known) or 'no site of that kind'}."
        )
    return found


def _from_the_front(part: str, known: Sequence[Site]) -> str:
    """Turn a block number counted from the last, as in `up.-3.1`, into the one it has."""
    back = re.fullmatch(r"(\w+)\.-(\d+)((?:\..*)?)", part)
    if back is None:
        return part
    numbers = [int(s.block.split(".")[1]) for s in known if s.block.startswith(f"{back[1]}.")]
    return f"{back[1]}.{max(numbers, default=0) + 1 - int(back[2])}{back[3]}"


def _match_layers(part: str, known: Sequence[Site], sites: Sites, model: str) -> list[Site]:
    first, _, last = part.partition("-")
    low, high = int(first), int(last or first)
    if low <= len(known) < high:
        raise BadSiteExpression(
            f"{sites.expression!r} asks for layer {high}, but {model!r} has {describe(known)}."
        )
    return [site for site in known if low <= site.index <= high]


def _match_paper(known: Sequence[Site], model: str) -> list[Site]:
    if len(known) != PAPER_MODEL_LAYERS:
        raise BadSiteExpression(
            f"'paper' means layers 4-14 of the {PAPER_MODEL_LAYERS} in an SD 1 UNet, but {model!r} "
            f"has {len(known)} of this kind. Use 'self:below-top', which is the same rule by grid."
        )
    return [site for site in known if len(known) + 1 - site.index in PAPER_LAYERS]
