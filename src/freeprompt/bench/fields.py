"""The field's metrics on one edit, with whatever weights there are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from freeprompt.bench.items import Item
from freeprompt.bench.truth import capped
from freeprompt.errors import ConfigError, ModelError, unknown
from freeprompt.metrics import (
    LPIPS,
    SSIM_VARIANTS,
    WAYS,
    Clip,
    Region,
    Structure,
    Way,
    find_weights,
    mse,
    psnr,
    ssim,
)
from freeprompt.models.vision import load_clip, load_vit

DEFAULTS: dict[str, Any] = {
    "clip": "",
    "dino": "",
    "dino_white": 1,
    "lpips": "squeeze",
    "lpips_folder": "",
    "ssim": "gaussian",
    "ways": ["area"],
}
"""What a plan may say in its table [metrics]: a folder or Hub id of CLIP and DINO, where an empty
text leaves the network out; what white is to DINO, 1 or, as in PIE-Bench's evaluator, 255; the
LPIPS network and where its weights are; the variant of SSIM; the ways to measure a region."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The measures at hand.

    Attributes:
        clip, structure, lpips: Networks, or None where their weights are missing.
        ssim: Variant of SSIM.
        ways: How regions are measured, see `freeprompt.metrics.Way`.
        skipped: By name of a measure, why it is not there.
    """

    clip: Clip | None = None
    structure: Structure | None = None
    lpips: LPIPS | None = None
    ssim: str = "gaussian"
    ways: tuple[Way, ...] = ("area",)
    skipped: Mapping[str, str] = field(default_factory=dict)

    def scores(self, item: Item, source: Image.Image, edited: Image.Image) -> dict[str, Any]:
        """Measure one edit.

        Args:
            item: What was asked.
            source: The source picture.
            edited: The edit, of the same size.

        Returns:
            Scores by name; None for what is no number, such as the direction of no change.
        """
        found = self._pixels(source, edited)
        if self.structure is not None:
            found["structure"] = self.structure.distance(source, edited)
        if self.clip is not None:
            found["clip"] = self.clip.score(edited, item.target)
            if item.source:
                words = item.source, item.target
                found["clip_direction"] = self.clip.direction(source, edited, *words)
        background = item.background(source.size)
        if background is not None:
            for way in self.ways:
                measured = self._pixels(source, edited, background, way)
                known = background.any()  # the way of PIE-Bench would call nothing perfect
                found |= {f"{n}_{way}": v if known else math.nan for n, v in measured.items()}
            if self.clip is not None and not background.all():
                found["clip_edited"] = self.clip.score(edited, item.target, ~background)
        return {name: None if math.isnan(value) else value for name, value in found.items()}

    def _pixels(
        self,
        source: Image.Image,
        edited: Image.Image,
        region: Region | None = None,
        way: Way = "area",
    ) -> dict[str, float]:
        variant = self.ssim
        found = {
            "psnr": capped(psnr(source, edited, region, way=way)),
            "ssim": ssim(source, edited, region, way=way, variant=variant),
            "mse": mse(source, edited, region, way=way),
        }
        if self.lpips is not None:
            found["lpips"] = self.lpips.distance(source, edited, region, way=way)
        return found


def load_panel(options: Mapping[str, Any], device: str = "cpu") -> Panel:
    """Load what can be loaded; what cannot is skipped, with the reason.

    Args:
        options: The table [metrics] of a plan; `DEFAULTS` holds what it may say.
        device: Where networks compute.

    Raises:
        ConfigError: for an unknown name.
    """
    check_options(options)
    chosen = {**DEFAULTS, **options}
    folder = Path(chosen["lpips_folder"]) if chosen["lpips_folder"] else None
    skipped: dict[str, str] = {}

    def attempt(name: str, wanted: str, load: Any) -> Any:
        if not wanted:
            return None
        try:
            return load(wanted)
        except ModelError as error:
            skipped[name] = str(error)
            return None

    return Panel(
        clip=attempt("CLIP", chosen["clip"], lambda w: Clip(*load_clip(w, device))),
        structure=attempt(
            "DINO",
            chosen["dino"],
            lambda w: Structure(load_vit(w, device), white=chosen["dino_white"]),
        ),
        lpips=attempt(
            "LPIPS",
            chosen["lpips"],
            lambda w: LPIPS.load(w, *find_weights(w, folder)).to(device),
        ),
        ssim=chosen["ssim"],
        ways=tuple(chosen["ways"]),
        skipped=skipped,
    )


def check_options(options: Mapping[str, Any]) -> None:
    """Check the table [metrics] of a plan.

    Raises:
        ConfigError: for an unknown name or value.
    """
    for name, value in options.items():
        if name not in DEFAULTS:
            raise unknown(ConfigError, "setting of [metrics]", name, DEFAULTS)
        if type(value) is not type(DEFAULTS[name]):
            raise ConfigError(
                f"{name} of [metrics] must be like {DEFAULTS[name]!r}; got {value!r}."
            )
    for way in options.get("ways", ()):
        if way not in WAYS:
            raise unknown(ConfigError, "way to measure a region", str(way), WAYS)
    if options.get("ssim", "gaussian") not in SSIM_VARIANTS:
        raise unknown(ConfigError, "variant of SSIM", options["ssim"], SSIM_VARIANTS)
