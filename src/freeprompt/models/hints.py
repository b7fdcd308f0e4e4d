"""Control images: ControlNet and T2I-Adapter beside the denoiser, for all rows of a batch alike."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from freeprompt.errors import ConfigError, ModelError, UnsupportedModel
from freeprompt.models.fingerprint import fingerprint

Kind = Literal["controlnet", "adapter"]
CLASSES: dict[str, Kind] = {"ControlNetModel": "controlnet", "T2IAdapter": "adapter"}
TITLES: dict[Kind, str] = {"controlnet": "ControlNet", "adapter": "T2I-Adapter"}
OFF_ASPECT = 0.02  # relative difference of aspect ratios that rounding to pixels can explain


@dataclass(frozen=True, kw_only=True)
class HintNetwork:
    """A network that reads a control image.

    Attributes:
        kind: `controlnet` or `adapter`.
        module: The module, of diffusers' own class.
        name: How messages and provenance call it.
    """

    kind: Kind
    module: Any
    name: str

    @property
    def title(self) -> str:
        """How a message calls it."""
        return f"the {TITLES[self.kind]} {self.name!r}"

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits over its weights."""
        return fingerprint(SimpleNamespace(unet=self.module))


def no_image(name: str, network: HintNetwork) -> ConfigError:
    """Return the error for a model that has a network, and no control image for it."""
    return ConfigError(
        f"{name!r} was loaded with {network.title}, and there is no control image. Give one with "
        "control_image= (--control), or load the model alone."
    )


def as_network(module: Any, name: str | None = None) -> HintNetwork:
    """Take a module of diffusers as a network that reads a control image.

    Raises:
        UnsupportedModel: if it is another class, or one that works without prompts only.
    """
    kind = CLASSES.get(type(module).__name__)
    if kind is None:
        raise UnsupportedModel(
            f"{type(module).__name__} is no network for control images that freeprompt knows. "
            f"Those are diffusers' {' and '.join(CLASSES)}, for SD 1, SD 2 and SDXL."
        )
    known = str(getattr(module, "name_or_path", "") or type(module).__name__)
    network = HintNetwork(kind=kind, module=module, name=known if name is None else name)
    if getattr(module.config, "global_pool_conditions", False):
        raise UnsupportedModel(
            f"{network.title} pools its answer over the picture (a shuffle model) and is meant for "
            "conditional rows alone. It cannot hold source and target to one layout."
        )
    return network


def check_network(network: HintNetwork, unet: Any, name: str) -> None:
    """Check that a network was made for a denoiser's anatomy.

    Raises:
        ModelError: saying what differs.
    """
    theirs, ours = network.module.config, unet.config
    widths = list(ours.block_out_channels)
    pairs = [("widths", list(getattr(theirs, "block_out_channels", widths)), widths)]
    if network.kind == "controlnet":
        pairs += [
            (what, getattr(theirs, what), getattr(ours, what))
            for what in ("cross_attention_dim", "addition_embed_type", "layers_per_block")
        ]
    else:
        pairs = [("widths", list(theirs.channels)[: len(widths)], widths)]
    for what, given, wanted in pairs:
        if given != wanted:
            raise ModelError(
                f"{network.title} does not fit {name!r}: its {what} are {given}, and the model's "
                f"{wanted}. It was made for another family of models."
            )


@dataclass(frozen=True, kw_only=True)
class Hint:
    """One control image, and how it acts.

    Attributes:
        network: What reads it.
        image: The control image, RGB.
        told: What provenance says of the image: `image` (file name or None) and `sha256`.
        weight: Factor of what the network adds; 0 switches it off.
        window: Share of the steps in which it acts, (from, to) in [0, 1].
    """

    network: HintNetwork
    image: Image.Image
    told: Mapping[str, Any]
    weight: float = 1.0
    window: tuple[float, float] = (0.0, 1.0)

    def describe(self) -> dict[str, Any]:
        """Return what is needed to act the same again, as JSON types."""
        return {
            "kind": self.network.kind,
            "network": self.network.name,
            "fingerprint": self.network.fingerprint,
            **self.told,
            "weight": self.weight,
            "window": list(self.window),
        }

    def acts(self, step: int, steps: int) -> bool:
        """Whether it acts in a step: one that lies wholly in the window, as in diffusers."""
        inside = self.window[0] <= step / steps and (step + 1) / steps <= self.window[1]
        return self.weight != 0 and inside

    def pixels(self, size: tuple[int, int]) -> Tensor:
        """Return the control image at (width, height), (1, channels, height, width) in [0, 1].

        Raises:
            ConfigError: if its shape is not that of the picture.
        """
        self._check_size(size)
        config = self.network.module.config
        grey = self.network.kind == "adapter" and config.in_channels == 1
        resized = self.image.resize(size, Image.Resampling.LANCZOS)
        values = np.asarray(resized.convert("L" if grey else "RGB"), dtype=np.float32) / 255
        found = torch.from_numpy(values.reshape(size[1], size[0], -1))
        return found.permute(2, 0, 1)[None].contiguous()

    def _check_size(self, size: tuple[int, int]) -> None:
        width, height = self.image.size
        if abs(math.log(width / height / (size[0] / size[1]))) > OFF_ASPECT:
            raise ConfigError(
                f"The control image has {width} x {height} pixels and the picture {size[0]} x "
                f"{size[1]}: another shape. Give a control image of the picture's own size, or a "
                "generated picture the shape of the control image (width=, height=)."
            )
        unit = int(getattr(self.network.module, "downscale_factor", 1))
        if size[0] % unit or size[1] % unit:
            raise ConfigError(
                f"{self.network.title} works in units of {unit} pixels, and the picture has "
                f"{size[0]} x {size[1]}. Give it sides that are multiples of {unit}."
            )


@dataclass(frozen=True, kw_only=True)
class Hints:
    """The control images of one edit. All rows see them: source and target share each.

    Attributes:
        hints: The control images; what they add, adds up.
        timesteps: Of the edit's steps, in denoising order; they say where in it a timestep is.
        unit: Pixels a latent cell.
    """

    hints: tuple[Hint, ...]
    timesteps: tuple[int, ...]
    unit: int
    _seen: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def added(
        self, x: Tensor, timestep: Tensor, states: Tensor, conditions: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return what the denoiser takes of the control images: residuals, for its keywords.

        Args:
            x: Latents of all rows, (batch, channels, height, width).
            timestep: The timestep.
            states: What cross-attention reads, (batch, tokens, width).
            conditions: What the denoiser takes beside them.

        Raises:
            ConfigError: if a control image has not the shape of the picture.
        """
        live = [h for h in self.hints if h.acts(self._step(int(timestep)), len(self.timesteps))]
        down: list[Tensor] = []
        inner: list[Tensor] = []
        for hint in live:
            if hint.network.kind == "controlnet":
                new = self._residuals(hint, x, timestep, states, conditions)
                down = [a + b for a, b in zip(down, new, strict=True)] if down else new
            else:
                features = self._features(hint, x)
                inner = [a + b for a, b in zip(inner, features, strict=True)] if inner else features
        given: dict[str, Any] = {}
        if down:
            given["down_block_additional_residuals"] = tuple(down[:-1])
            given["mid_block_additional_residual"] = down[-1]
        if inner:  # the denoiser takes them out of the list
            given["down_intrablock_additional_residuals"] = list(inner)
        return given

    def _step(self, timestep: int) -> int:
        """Return the step that a timestep belongs to; below the last one there is no other."""
        before = sum(t > timestep for t in self.timesteps)
        return min(before, len(self.timesteps) - 1)

    def _residuals(
        self, hint: Hint, x: Tensor, t: Tensor, states: Tensor, conditions: Mapping[str, Any]
    ) -> list[Tensor]:
        """Return what a ControlNet adds to the skip connections, and last to the middle."""
        down, middle = hint.network.module(
            x,
            t,
            encoder_hidden_states=states,
            controlnet_cond=self._pixels(hint, x).expand(len(x), -1, -1, -1),
            conditioning_scale=hint.weight,
            return_dict=False,
            **conditions,
        )
        return [*down, middle]

    def _features(self, hint: Hint, x: Tensor) -> list[Tensor]:
        """Return what an adapter adds inside the blocks: it sees nothing but the image."""
        key = (id(hint), "features", *x.shape[-2:], x.dtype, x.device)
        if key not in self._seen:
            found = hint.network.module(self._pixels(hint, x))
            self._seen[key] = [hint.weight * feature for feature in found]
        return [one.expand(len(x), -1, -1, -1) for one in self._seen[key]]

    def _pixels(self, hint: Hint, x: Tensor) -> Tensor:
        key = (id(hint), *x.shape[-2:], x.dtype, x.device)
        if key not in self._seen:
            height, width = x.shape[-2:]
            size = width * self.unit, height * self.unit
            self._seen[key] = hint.pixels(size).to(x.device, x.dtype)
        pixels: Tensor = self._seen[key]
        return pixels
