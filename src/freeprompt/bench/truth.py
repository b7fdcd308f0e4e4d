"""Scores against the truth of a scene, read by the judge."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from freeprompt.bench.items import SceneItem
from freeprompt.judge import Judge, Reading, delta_e
from freeprompt.judge.labels import visible_style
from freeprompt.metrics import LPIPS, Region, psnr, ssim
from freeprompt.world import ANIMALS, COLORS, Scene
from freeprompt.world.vocab import DRAWING, PHOTO

CRITERIA = ("success", "kept", "layout", "background", "ideal")
"""What an edit is checked for; the names in `failed`."""

ATTRIBUTES = ("subject", "color", "place", "style")
BEST_PSNR = 60.0
"""What a higher PSNR counts as, in dB, so that means exist: an error of one 8-bit level in every
fifteenth value."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What an edit must reach to count as right. The manifest holds the values that are used.

    Attributes:
        color_delta_e: Two colour names nearer than this (CIE 1976) count as one.
        mask_iou: Least overlap of the subject with where it should be.
        box_iou: Least overlap of the bounding boxes, where the subject itself was exchanged.
        background_psnr: Least PSNR outside the subject, in dB, where the background should stay.
        ideal_psnr: Least PSNR against the ideal edit, in dB, where that is determined.
    """

    color_delta_e: float = 15.0
    mask_iou: float = 0.7
    box_iou: float = 0.5
    background_psnr: float = 20.0
    ideal_psnr: float = 15.0


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is known of the source and of the edit that is wanted.

    Attributes:
        attributes: What should be seen of those that are not to change, by name: what the ideal
            edit shows, or what the judge reads of a generated source.
        mask: Of the source's subject: exact, or the judge's.
        goal: Of the subject after the edit: the ideal edit's, or that of the source.
    """

    attributes: dict[str, str | None]
    mask: Region
    goal: Region


def known(item: SceneItem, source: Image.Image, judge: Judge) -> Seen:
    """Find the truth about an item's source: of a real one by rendering, else by the judge."""
    if item.track == "generated":
        reading = judge.read([source])[0]
        return Seen(attributes=_read(reading), mask=reading.mask, goal=reading.mask)
    size = source.width
    return Seen(
        attributes=_true(item.ideal),
        mask=item.scene.render(size).mask,
        goal=item.ideal.render(size).mask,
    )


def _true(scene: Scene) -> dict[str, str | None]:
    return {
        "subject": scene.subject,
        "color": scene.color,
        "place": scene.place,
        "style": visible_style(scene),
    }


def _read(reading: Reading) -> dict[str, str | None]:
    return {name: getattr(reading, name) for name in ATTRIBUTES}


def truth_scores(
    item: SceneItem,
    source: Image.Image,
    edited: Image.Image,
    judge: Judge,
    limits: Thresholds,
    lpips: LPIPS | None = None,
) -> dict[str, Any]:
    """Score one edit.

    Args:
        item: What was asked.
        source: The source: the rendered scene, or the generated picture.
        edited: The edit, of the same size.
        judge: Reads the edit.
        limits: When an edit counts as right.
        lpips: To measure the background too, if its weights are at hand.

    Returns:
        Scores by name, None where one means nothing for this item; `failed`, the criteria that
        were missed; `read`, what the judge saw.
    """
    seen, reading = known(item, source, judge), judge.read([edited])[0]
    attributes = _attribute_scores(item, seen, reading, limits)
    shapes = _layout_scores(seen, reading.mask)
    pixels = _pixel_scores(item, source, edited, background(item, seen, reading.mask), lpips)
    checks = _checks(item, attributes, shapes, pixels, limits)
    failed = [name for name, passed in checks.items() if passed is False]
    return {
        "right": float(not failed),
        **attributes,
        "layout": shapes[_overlap(item)],
        **shapes,
        **pixels,
        "failed": failed,
        "read": _read(reading),
    }


def _overlap(item: SceneItem) -> str:
    """Which overlap says whether the layout is kept: two subjects have different outlines."""
    return "box_iou" if "subject" in dict(item.changes) else "mask_iou"


def _checks(
    item: SceneItem,
    attributes: dict[str, float | None],
    shapes: dict[str, float],
    pixels: dict[str, float | None],
    limits: Thresholds,
) -> dict[str, bool | None]:
    """Return for each criterion whether it is met; None where it does not apply."""
    overlap = _overlap(item)

    def above(value: float | None, least: float) -> bool | None:
        return None if value is None else value >= least

    ideal = None if _restaged(item) else pixels["ideal_psnr"]
    return {
        "success": above(attributes["success"], 1),
        "kept": above(attributes["kept"], 1),
        "layout": above(shapes[overlap], getattr(limits, overlap)),
        "background": above(pixels["background_psnr"], limits.background_psnr),
        "ideal": above(ideal, limits.ideal_psnr),
    }


def _restaged(item: SceneItem) -> bool:
    """Whether the edit draws the whole frame anew, so that its pixels are not determined."""
    return bool({"place", "style"} & set(dict(item.changes)))


def _attribute_scores(
    item: SceneItem, seen: Seen, reading: Reading, limits: Thresholds
) -> dict[str, float | None]:
    """Whether the wanted attributes are there, and which share of the others still is."""
    wanted, read = dict(item.changes), _read(reading)

    def same(name: str, value: str | None) -> bool:
        near = name == "color" and _color_error(read["color"], value) < limits.color_delta_e
        # a prompt without a style is drawn with any sprite: the 3D set or a flat one
        free = name == "style" and name not in wanted and item.scene.style is None
        return read[name] == value or near or (free and {read[name], value} == {PHOTO, DRAWING})

    others = [name for name in ATTRIBUTES if name not in wanted]
    if dict(item.changes).get("subject", item.scene.subject) in ANIMALS:
        others.remove("color")
    kept = [same(name, seen.attributes[name]) for name in others]
    error = _color_error(read["color"], wanted["color"]) if "color" in wanted else math.inf
    return {
        "success": float(all(same(*pair) for pair in wanted.items())) if wanted else None,
        "kept": sum(kept) / len(kept) if kept else None,
        "color_error": error if math.isfinite(error) else None,
    }


def _color_error(read: str | None, wanted: str | None) -> float:
    if read is None or wanted is None:
        return math.inf
    return float(delta_e(COLORS[read], COLORS[wanted]))


def _layout_scores(seen: Seen, mask: Region) -> dict[str, float]:
    """Compare where the subject is with where it should be."""
    return {
        "mask_iou": iou(mask, seen.goal),
        "box_iou": iou(_box(mask), _box(seen.goal)),
        "center_shift": _center_shift(mask, seen.goal),
        "size_shift": _size_shift(mask, seen.goal),
    }


def iou(a: Region, b: Region) -> float:
    """Intersection over union of two masks; 1 for two empty ones."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def _box(mask: Region) -> Region:
    """The bounding box of a mask, filled."""
    box = np.zeros_like(mask)
    if mask.any():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box


def _center_shift(a: Region, b: Region) -> float:
    """Distance of the masks' centres as a fraction of the frame's height; 1 if one is empty."""
    if not (a.any() and b.any()):
        return 1.0
    centers = [np.argwhere(mask).mean(0) for mask in (a, b)]
    return float(np.linalg.norm(centers[0] - centers[1]) / a.shape[0])


def _size_shift(a: Region, b: Region) -> float:
    """How many times one mask is as large as the other, as |log2|; 10 if one is empty."""
    areas = int(a.sum()), int(b.sum())
    return min(10.0, abs(math.log2(areas[0] / areas[1]))) if min(areas) else 10.0


def _pixel_scores(
    item: SceneItem,
    source: Image.Image,
    edited: Image.Image,
    outside: Region | None,
    lpips: LPIPS | None,
) -> dict[str, float | None]:
    """Compare pixels: the background with the source's, the whole with the ideal edit."""
    scores: dict[str, float | None] = dict.fromkeys(
        ("background_psnr", "background_ssim", "ideal_psnr", "ideal_ssim")
    )
    if outside is not None and outside.any():
        scores["background_psnr"] = capped(psnr(source, edited, outside))
        scores["background_ssim"] = _number(ssim(source, edited, outside))
        if lpips is not None:
            scores["background_lpips"] = lpips.distance(source, edited, outside)
    if item.track == "real":
        ideal = Image.fromarray(item.ideal.render(source.width).image)
        scores["ideal_psnr"] = capped(psnr(ideal, edited))
        scores["ideal_ssim"] = ssim(ideal, edited)
    return scores


def background(item: SceneItem, seen: Seen, mask: Region) -> Region | None:
    """What should not change: all that no subject, old, new or wanted, covers; None if all may."""
    return None if _restaged(item) else ~(seen.mask | seen.goal | mask)


def capped(psnr: float) -> float:
    """Bring an infinite PSNR to `BEST_PSNR`; NaN stays NaN."""
    return BEST_PSNR if psnr > BEST_PSNR else psnr


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
