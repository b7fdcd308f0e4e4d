"""Map against values: copying a self-attention map moves shape, copying keys and values looks.

The cheapest test of the paper's thesis (claim R11). A prompt pair differs both in what is shown and
in its colour; the target is denoised three times beside the source, at the same sites and steps:
plainly, with the source's maps, and with the source's keys and values. Then the judge says whose
outline and whose colour each picture has.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from freeprompt.analysis.scoring import iou
from freeprompt.analysis.statistics import Estimate, mean, rate
from freeprompt.core import PAIR, Call, Control, Model, Share, Sites, Window, denoise
from freeprompt.core.control import TensorName
from freeprompt.core.rows import Half
from freeprompt.errors import ConfigError
from freeprompt.images import to_images, write_json
from freeprompt.judge import Judge, Reading
from freeprompt.judge.color import delta_e
from freeprompt.world import COLORS, OBJECTS

WAYS = ("plain", "maps", "values")
"""What the target takes from the source: nothing, its maps, its keys and values."""
COPIED: tuple[tuple[TensorName, ...], ...] = (("q", "k"), ("k", "v"))
_FAR = 60.0  # least CIE 1976 difference of two colours that are told apart with ease
_SHOWN = (
    ("red", "car", "blue", "teapot"),
    ("yellow", "bus", "purple", "balloon"),
    ("green", "house", "pink", "umbrella"),
    ("blue", "chair", "orange", "truck"),
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One source and one target that differ in subject and colour.

    Attributes:
        source: (colour, subject).
        target: (colour, subject).
        seed: Of the start noise.
    """

    source: tuple[str, str]
    target: tuple[str, str]
    seed: int

    @property
    def prompts(self) -> tuple[str, str]:
        """The source prompt and the target prompt."""
        first, second = (
            f"{'an' if color[0] in 'aeiou' else 'a'} {color} {subject}"
            for color, subject in (self.source, self.target)
        )
        return first, second


def pairs(count: int) -> tuple[Pair, ...]:
    """Return pairs of objects in colours that are easily told apart, each with a seed of its own.

    The first few are chosen for the picture, the others drawn; the first `n` are always the same.

    Raises:
        ConfigError: for less than one pair.
    """
    if count < 1:
        raise ConfigError(f"There must be at least one pair; got {count}.")
    rng = np.random.default_rng(11)
    chosen = [(drawn[:2], drawn[2:]) for drawn in _SHOWN]
    while len(chosen) < count:
        one, two = (str(word) for word in rng.choice(OBJECTS, 2, replace=False))
        colors = [str(word) for word in rng.choice(list(COLORS), 2, replace=False)]
        if float(delta_e(*(COLORS[name] for name in colors))) >= _FAR:
            chosen.append(((colors[0], one), (colors[1], two)))
    return tuple(Pair(source=a, target=b, seed=i) for i, (a, b) in enumerate(chosen[:count]))


@dataclass(frozen=True, kw_only=True)
class Only(Control):
    """Let a `Share` act on one target item alone, and leave the others as they were.

    Args:
        share: What is shared, where and when.
        item: Index of the target.
    """

    share: Share
    item: int

    @property
    def sites(self) -> Sites:  # type: ignore[override]
        return self.share.sites

    @property
    def window(self) -> Window:  # type: ignore[override]
        return self.share.window

    def qkv(self, call: Call) -> Call:
        shared = self.share.qkv(call)
        mine = {i for i in call.rows.targets() if call.rows.rows[i].item == self.item}
        parts = {name: (getattr(call, name), getattr(shared, name)) for name in self.share.names}
        return call.with_(
            **{
                name: torch.stack([(new if i in mine else old)[i] for i in range(len(old))])
                for name, (old, new) in parts.items()
            }
        )


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How the pairs are drawn; equal for all three ways.

    Attributes:
        sites: Self-attention layers at which is copied.
        share: Share of the steps, from the noisiest on.
        half: Which half of the target's rows takes.
        other_noise: Start the targets from other noise than the source, so that they owe it
            nothing; with the same noise, even a plain target has some of its layout.
        steps: Denoising steps.
        guidance: Guidance scale.
    """

    sites: str = "self:all"
    share: float = 1.0
    half: Half = "both"
    other_noise: bool = True
    steps: int = 50
    guidance: float = 7.5

    def controls(self) -> list[Control]:
        """Return what acts: maps on the second target, keys and values on the third."""
        where = {"sites": Sites(self.sites), "window": Window.until(self.share, self.steps)}
        shares = [Share(names=names, half=self.half, **where) for names in COPIED]  # type: ignore[arg-type]
        return [Only(share=share, item=1 + i) for i, share in enumerate(shares)]


@torch.no_grad()
def draw(model: Model, pair: Pair, setting: Setting, size: tuple[int, int]) -> list[Image.Image]:
    """Draw one pair: the source, and the target in the three ways, in one batch.

    Args:
        model: The model.
        pair: The prompts.
        setting: How.
        size: (width, height) in pixels.

    Returns:
        Four pictures.
    """
    source, target = pair.prompts
    noises = _noises(model, pair, size)
    rows = PAIR.without(half="uncond") if setting.guidance <= 1 else PAIR
    done = denoise(
        model,
        model.schedule(setting.steps),
        {
            "source": noises[0],
            "target": noises[int(setting.other_noise)].expand(len(WAYS), -1, -1, -1),
        },
        text={
            "source": model.encode_text([source]),
            "target": model.encode_text([target] * len(WAYS)),
        },
        null=model.encode_text([""]),
        rows=rows.with_targets(len(WAYS)),
        controls=setting.controls(),
        guidance=setting.guidance,
    )
    return to_images(model.decode(torch.cat([done.state["source"], done.state["target"]])))


def _noises(model: Model, pair: Pair, size: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator("cpu").manual_seed(pair.seed)
    drawn = [torch.randn(model.latent_shape(*size), generator=generator) for _ in range(2)]
    return [noise.to(model.device, model.dtype) for noise in drawn]


def score(pair: Pair, source: "Seen", seen: "Seen") -> dict[str, float]:
    """Return what one picture has of its source and of its own prompt.

    `iou` of the subject's mask with the source's; `color_distance`, the CIE 1976 difference of the
    mean colours within the two masks; `source_color`, `target_color`, `source_subject` and
    `target_subject`: 1 if the judge reads what it reads in the source picture, or what the target
    prompt says.
    """
    one, other = source.reading, seen.reading
    return {
        "iou": iou(one.mask, other.mask),
        "color_distance": float(delta_e(source.color, seen.color)),
        "source_color": math.nan if one.color is None else float(other.color == one.color),
        "target_color": float(other.color == pair.target[0]),
        "source_subject": float(other.subject == one.subject),
        "target_subject": float(other.subject == pair.target[1]),
    }


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A picture and what the judge reads in it."""

    image: Image.Image
    reading: Reading

    @property
    def color(self) -> npt.NDArray[np.float64]:
        """Mean sRGB colour of the subject, 0 to 255; nan where the judge sees none."""
        inside = np.asarray(self.image.convert("RGB"), np.float64)[self.reading.mask]
        return inside.mean(0) if len(inside) else np.full(3, np.nan)


MEANS = ("iou", "color_distance")
RATES = ("source_color", "target_color", "source_subject", "target_subject")
MEASURES = (*MEANS, *RATES)


@dataclass(kw_only=True)
class Results:
    """Scores of all pairs.

    Attributes:
        setting: How they were drawn.
        model: Name and fingerprint of the model.
        rows: For each pair its prompts and seed, and by way the scores.
    """

    setting: Mapping[str, Any]
    model: Mapping[str, str]
    rows: list[dict[str, Any]]

    def estimate(self, way: str, measure: str) -> Estimate:
        """Return one measure under one way, with its interval."""
        values, seeds = self._values(way, measure), [row["seed"] for row in self.rows]
        return mean(values, seeds) if measure in MEANS else rate(values, seeds)

    def difference(self, measure: str, first: str, second: str) -> Estimate:
        """Return `first` less `second` pair by pair, with a bootstrap interval over seeds."""
        both = zip(self._values(first, measure), self._values(second, measure), strict=True)
        return mean([a - b for a, b in both], [row["seed"] for row in self.rows])

    def summary(self) -> dict[str, Any]:
        """Return every measure with its interval, and the differences that the claim is about."""
        return {
            **{w: {m: self.estimate(w, m).to_dict() for m in MEASURES} for w in WAYS},
            "iou, maps - values": self.difference("iou", "maps", "values").to_dict(),
            "color_distance, maps - values": self.difference(
                "color_distance", "maps", "values"
            ).to_dict(),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all as JSON types; what is not a number becomes None."""
        parts: dict[str, Any] = {"model": dict(self.model), "setting": dict(self.setting)}
        parts |= {"pairs": len(self.rows), "summary": self.summary(), "rows": self.rows}
        return {key: _plain(value) for key, value in parts.items()}

    def _values(self, way: str, measure: str) -> list[float]:
        found = [row["scores"][way][measure] for row in self.rows]
        return [math.nan if value is None else value for value in found]


def run(
    model: Model,
    chosen: Sequence[Pair],
    setting: Setting,
    *,
    size: tuple[int, int],
    told: Mapping[str, str],
    path: Path | None = None,
    shown: int = 4,
    callback: Callable[[int, int], None] | None = None,
) -> tuple[Results, list[tuple[Pair, list[Image.Image]]]]:
    """Draw and judge pairs; go on where an earlier run to the same file has stopped.

    Args:
        model: A model of Emoji World, which the judge can read.
        chosen: The pairs.
        setting: How they are drawn.
        size: (width, height) in pixels.
        told: Name and fingerprint of the model, for the results.
        path: Results file, written after every pair; None writes nothing.
        shown: How many pairs are returned as pictures.
        callback: Called with the number of pairs done and in all.

    Returns:
        The results, and the pictures of the first pairs.

    Raises:
        ConfigError: if the file holds results of another model or setting.
    """
    judge = Judge.load()
    results = Results(setting=asdict(setting), model=dict(told), rows=_earlier(path, setting, told))
    known = {(*row["prompts"], row["seed"]) for row in results.rows}
    kept: list[tuple[Pair, list[Image.Image]]] = []
    for number, pair in enumerate(chosen):
        new = (*pair.prompts, pair.seed) not in known
        if new or number < shown:
            images = draw(model, pair, setting, size)
            kept += [(pair, images)] if number < shown else []
        if new:
            source, *seen = [
                Seen(image=image, reading=reading)
                for image, reading in zip(images, judge.read(images), strict=True)
            ]
            scores = [score(pair, source, one) for one in seen]
            results.rows.append(_row(pair, dict(zip(WAYS, scores, strict=True))))
            if path is not None:
                write_json(path, results.to_dict())
        if callback is not None:
            callback(number + 1, len(chosen))
    return results, kept


def _row(pair: Pair, scores: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    return {"prompts": list(pair.prompts), "seed": pair.seed, "scores": dict(scores)}


def _plain(data: Any) -> Any:
    """Replace what is not a number by None, which JSON knows."""
    if isinstance(data, dict):
        return {key: _plain(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_plain(value) for value in data]
    return None if isinstance(data, float) and math.isnan(data) else data


def _earlier(path: Path | None, setting: Setting, told: Mapping[str, str]) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        before, rows = {"model": found["model"], "setting": found["setting"]}, list(found["rows"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{str(path)!r} exists and holds no results of map-vs-values. Choose another name."
        ) from error
    if before != {"model": dict(told), "setting": asdict(setting)}:
        raise ConfigError(
            f"{str(path)!r} holds results of another model or setting: {before}. Use the same to "
            "go on with them, or choose another name."
        )
    return rows


def picture(kept: Sequence[tuple[Pair, Sequence[Image.Image]]], setting: Setting) -> Any:
    """Draw a grid: source, plain target, maps copied, keys and values copied; one row a pair."""
    from freeprompt.analysis.panels import Panel
    from freeprompt.analysis.panels import draw as draw_panels

    heads = ("nothing copied", "the source's maps", "the source's keys and values")
    rows = []
    for pair, images in kept:
        source, target = pair.prompts
        titles = [f"source: {source}", *(f"{target}\n{head}" for head in heads)]
        rows.append([Panel(title=t, under=image) for t, image in zip(titles, images, strict=True)])
    noise = "other noise than the source's" if setting.other_noise else "the source's noise"
    note = (
        f"{setting.sites}, first {setting.share:.0%} of {setting.steps} steps, half: "
        f"{setting.half}, guidance {setting.guidance:g}; targets start from {noise}"
    )
    return draw_panels(
        rows, "What is copied from the source: its maps, or its keys and values", note
    )
