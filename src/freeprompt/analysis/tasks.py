"""What the paper's experiments ask for: ten colours, ten animals, and pairs of prompts to edit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from freeprompt.core.words import Spelling
from freeprompt.errors import ConfigError, unknown
from freeprompt.world import COLORS, OBJECTS, Scene, parse_scene
from freeprompt.world.vocab import PAPER_ANIMALS

PROBED_COLORS = (
    "red", "green", "blue", "yellow", "orange", "purple", "pink", "black", "white", "coral",
)  # fmt: skip
"""Ten colours. Which ten the paper probed is not known; orange and coral are mentioned."""

Attribute = Literal["color", "subject"]
CLASS_WORDS = ("class", "color", "colour", "animal")


@dataclass(frozen=True, kw_only=True)
class ProbeTask:
    """Ten classes, and the prompts whose maps shall tell them apart.

    The article is "a" in every prompt, also in "a orange car", as in the paper's own data: with
    "an" the article itself would give the class away.

    Attributes:
        name: How the command line calls it.
        classes: The ten words.
        template: The prompt, `{class}` and perhaps `{object}` in it.
    """

    name: str
    classes: tuple[str, ...]
    template: str

    def prompt(self, label: int, seed: int) -> str:
        """Return the prompt of a class; where objects vary, the seed chooses one for all ten."""
        thing = OBJECTS[seed % len(OBJECTS)]
        return self.template.replace("{class}", self.classes[label]).replace("{object}", thing)

    def scene(self, label: int, seed: int) -> Scene:
        """Return a rendering of the class; all classes of one seed stand in the same place."""
        return parse_scene(self.prompt(label, seed), seed)

    def tokens(self, spelling: Spelling, token: str, label: int) -> tuple[int, ...]:
        """Return the tokens that a name stands for in a class's prompt.

        Args:
            spelling: The prompt.
            token: `class` (or `color`, `animal`): the word that differs; `start`, `end`,
                `padding`; or any word of the prompt, such as `a` or `car`.
            label: Index of the class.

        Raises:
            ConfigError: if the prompt has no such word.
        """
        match token:
            case "start":
                return (0,)
            case "end":
                return (spelling.end,)
            case "padding":
                return tuple(range(spelling.end + 1, spelling.length))
            case name if name in CLASS_WORDS:
                return spelling.tokens_of(self.classes[label])
            case word:
                return spelling.tokens_of(word)


TASKS = {
    task.name: task
    for task in (
        ProbeTask(name="colour", classes=PROBED_COLORS, template="a {class} car"),
        ProbeTask(name="colour-object", classes=PROBED_COLORS, template="a {class} {object}"),
        ProbeTask(name="animal", classes=PAPER_ANIMALS, template="a {class} standing in the park"),
    )
}


def probe_task(name: str) -> ProbeTask:
    """Return a task by name; `color` is `colour`.

    Raises:
        ConfigError: for another name.
    """
    name = name.replace("color", "colour")
    if name not in TASKS:
        raise unknown(ConfigError, "probe task", name, TASKS)
    return TASKS[name]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One generated source and the edits of it.

    Attributes:
        name: Unique, such as `color-003`.
        seed: Of the start noise.
        attribute: What the edits change.
        source: Source prompt.
        value: What the attribute is in the source, such as `black`.
        targets: Target prompts.
        wanted: What the attribute shall become, one a target.
        subject: What the source shows.
    """

    name: str
    seed: int
    attribute: Attribute
    source: str
    value: str
    targets: tuple[str, ...]
    wanted: tuple[str, ...]
    subject: str

    def to_dict(self) -> dict[str, Any]:
        """Return the case as plain values, ready for JSON."""
        return dict(self.__dict__)


_TEMPLATES: dict[Attribute, str] = {"color": "a {} car", "subject": "a {} standing in the park"}
_FIRST: dict[Attribute, tuple[str, str]] = {
    "color": ("black", "coral"),
    "subject": ("dog", "rabbit"),
}
_VALUES: dict[Attribute, tuple[str, ...]] = {"color": tuple(COLORS), "subject": PAPER_ANIMALS}
_SALT: dict[Attribute, int] = {"color": 1, "subject": 2}
ATTRIBUTES: tuple[Attribute, ...] = ("color", "subject")


def edit_cases(
    pairs: int, *, per_source: int = 4, attributes: Sequence[Attribute] = ATTRIBUTES
) -> tuple[Case, ...]:
    """Return edits of cars' colours ("a black car") and of animals ("a dog standing in the park").

    The first pairs are the paper's: black to coral, dog to rabbit. The first `n` pairs are the
    same whatever is asked for beyond them.

    Args:
        pairs: Number of (source, target) pairs in all, shared evenly among the attributes.
        per_source: Number of targets of one source; they share its cost.
        attributes: Which of the two.

    Raises:
        ConfigError: if there is not a pair for each attribute.
    """
    if pairs < len(attributes) or not 1 <= per_source <= len(PAPER_ANIMALS) - 1:
        raise ConfigError(
            f"{pairs} pairs, {per_source} a source, cannot be made: at least {len(attributes)} "
            f"pairs are needed, with 1 to {len(PAPER_ANIMALS) - 1} a source."
        )
    cases: list[Case] = []
    for i, attribute in enumerate(attributes):
        share = pairs // len(attributes) + (i < pairs % len(attributes))
        whole, rest = divmod(share, per_source)
        counts = [per_source] * whole + [rest] * (rest > 0)
        cases += [_case(attribute, k, count, per_source) for k, count in enumerate(counts)]
    # both attributes take turns, so that any first part of the list is balanced
    return tuple(sorted(cases, key=lambda case: (case.seed, case.attribute)))


def _case(attribute: Attribute, number: int, count: int, per_source: int) -> Case:
    rng = np.random.default_rng((_SALT[attribute], number))
    drawn = [str(word) for word in rng.permutation(_VALUES[attribute])]
    if number == 0:
        first = _FIRST[attribute]
        drawn = [*first, *(word for word in drawn if word not in first)]
    value, wanted = drawn[0], tuple(drawn[1 : per_source + 1][:count])
    template = _TEMPLATES[attribute]
    return Case(
        name=f"{attribute}-{number:03d}",
        seed=number,
        attribute=attribute,
        source=template.format(value),
        value=value,
        targets=tuple(template.format(word) for word in wanted),
        wanted=wanted,
        subject="car" if attribute == "color" else value,
    )
