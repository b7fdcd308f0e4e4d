"""What an edit is worth: by the judge where the truth is known, by pixels elsewhere."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from freeprompt.analysis.tasks import Case
from freeprompt.judge import Judge, Reading, delta_e

Kind = Literal["rate", "mean"]
Scores = dict[str, float]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class View:
    """The pictures of one case under one intervention.

    Attributes:
        case: What was asked for.
        source: The generated source.
        plain: For each target its plain generation from the source's noise: the edit undone.
        edited: For each target the edited picture.
    """

    case: Case
    source: Image.Image
    plain: Sequence[Image.Image]
    edited: Sequence[Image.Image]


class Scorer(Protocol):
    """Turns pictures into numbers.

    Attributes:
        name: Stands in the results.
        measures: The numbers by name, and whether each is a rate of 0 and 1 or a mean.
        success: Which of them says that the edit was made; higher is better.
        preservation: Which of them says that the rest was kept; higher is better.
    """

    name: str
    measures: Mapping[str, Kind]
    success: str
    preservation: str

    def __call__(self, view: View) -> list[Scores]:
        """Return the measures of every target, in order."""


class JudgeScorer:
    """Scores pictures of Emoji World by what the judge reads in them.

    Measures: `success`, the edited attribute reads as wanted; `stays`, it reads as in the source;
    `wanted`, the judge's probability of the wanted value; `iou`, of the subject's mask with the
    source's (nan where the source has none); `kept`, the share of the other attributes that read
    as in the source; `drift`, how far the subject's mean colour is from the source's, as CIE 1976
    ΔE (nan where either has no mask); `recognised`, the source shows what its prompt says.
    """

    name = "judge"
    success, preservation = "success", "iou"
    measures: Mapping[str, Kind] = {
        "success": "rate",
        "stays": "rate",
        "wanted": "mean",
        "iou": "mean",
        "kept": "mean",
        "drift": "mean",
        "recognised": "rate",
    }

    def __init__(self, judge: Judge | None = None) -> None:
        self.judge = Judge.load() if judge is None else judge

    def __call__(self, view: View) -> list[Scores]:
        source, *edited = self.judge.read([view.source, *view.edited])
        before = _mean_color(view.source, source.mask)
        return [
            {
                **_judged(view.case, wanted, source, reading),
                "drift": float(delta_e(before, _mean_color(picture, reading.mask))),
            }
            for wanted, reading, picture in zip(view.case.wanted, edited, view.edited, strict=True)
        ]


def _judged(case: Case, wanted: str, source: Reading, edited: Reading) -> Scores:
    found = getattr(edited, case.attribute)
    others = [name for name in ("subject", "color", "place", "style") if name != case.attribute]
    kept = [getattr(edited, name) == getattr(source, name) for name in others]
    return {
        "success": float(found == wanted),
        "stays": float(found == case.value),
        "wanted": edited.probabilities[case.attribute][wanted],
        "iou": iou(source.mask, edited.mask),
        "kept": sum(kept) / len(kept),
        "recognised": float(
            source.subject == case.subject and getattr(source, case.attribute) == case.value
        ),
    }


def _mean_color(picture: Image.Image, mask: npt.NDArray[np.bool_]) -> Floats:
    """Return the mean colour under a mask in 0..255, (3,); nan under an empty one."""
    if not mask.any():
        return np.full(3, math.nan)
    mean: Floats = np.asarray(picture.convert("RGB"), np.float64)[mask].mean(0)
    return mean


def iou(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """Return intersection over union of two masks; nan if the first is empty."""
    if not first.any():
        return math.nan
    return float((first & second).sum() / (first | second).sum())


class PixelScorer:
    """Scores pictures of any model against two other pictures, without knowing what they show.

    Measures: `toward`, how far the edit has come from the source to the plain generation of the
    target, 1 - |edited - plain| / |source - plain| in RMS of pixels, within [0, 1]; `edges`, the
    correlation of its edges with the source's. Colour is worth more than content here: use it to
    compare interventions, not to call an edit right.
    """

    name = "pixels"
    success, preservation = "toward", "edges"
    measures: Mapping[str, Kind] = {"toward": "mean", "edges": "mean"}

    def __call__(self, view: View) -> list[Scores]:
        source = _array(view.source)
        return [
            {"toward": _toward(source, _array(plain), x), "edges": _correlation(source, x)}
            for plain, x in zip(view.plain, map(_array, view.edited), strict=True)
        ]


def scorer_for(model: str, name: str = "auto") -> Scorer:
    """Return the scorer of a model: the judge for `emoji-sd`, pixels for all others.

    Raises:
        ConfigError: for a name that is neither auto, judge nor pixels.
    """
    from freeprompt.errors import ConfigError, unknown

    known: dict[str, Any] = {"judge": JudgeScorer, "pixels": PixelScorer}
    if name == "auto":
        name = "judge" if model.rstrip("/").endswith("emoji-sd") else "pixels"
    if name not in known:
        raise unknown(ConfigError, "scorer", name, [*known, "auto"])
    scorer: Scorer = known[name]()
    return scorer


def _array(image: Image.Image) -> Floats:
    return np.asarray(image.convert("RGB"), np.float64) / 255


def _toward(source: Floats, plain: Floats, edited: Floats) -> float:
    span = float(np.sqrt(((source - plain) ** 2).mean()))
    if span == 0:  # both prompts give the same picture: there is nowhere to go
        return math.nan
    left = float(np.sqrt(((edited - plain) ** 2).mean()))
    return min(1.0, max(0.0, 1 - left / span))


def _correlation(source: Floats, edited: Floats) -> float:
    first, second = _edges(source), _edges(edited)
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float((first * second).sum() / norm) if norm else math.nan


def _edges(picture: Floats) -> Floats:
    """Return the strength of the brightness gradient, its mean taken off."""
    down, right = np.gradient(picture.mean(-1))
    strength: Floats = np.hypot(down, right)
    centred: Floats = strength - strength.mean()
    return centred
