"""LPIPS: distance of two pictures in the features of a classifier, weighed by people's judgement.

Written from the paper; weights are read from the files in which they are published.
"""

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from freeprompt.errors import ConfigError, ModelError, unknown
from freeprompt.metrics.region import Region, Way, as_pair, as_region, check_way

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
BACKBONES = {"squeeze": "squeezenet1_1", "alex": "alexnet", "vgg": "vgg16"}
"""Names of the networks, and what torchvision calls their files."""


class _Fire(nn.Module):
    """SqueezeNet's block: few channels, then many."""

    def __init__(self, channels: int, squeezed: int, expanded: int):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.squeeze(x))
        return functional.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


def _squeeze() -> tuple[list[nn.Module], tuple[int, ...], tuple[int, ...]]:
    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), pool()]
    layers += [_Fire(64, 16, 64), _Fire(128, 16, 64), pool()]
    layers += [_Fire(128, 32, 128), _Fire(256, 32, 128), pool()]
    layers += [_Fire(256, 48, 192), _Fire(384, 48, 192), _Fire(384, 64, 256), _Fire(512, 64, 256)]
    return layers, (1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512)


def _alex() -> tuple[list[nn.Module], tuple[int, ...], tuple[int, ...]]:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU()]
    layers += [nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    for channels, width in ((192, 384), (384, 256), (256, 256)):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
    return layers, (1, 4, 7, 9, 11), (64, 192, 384, 256, 256)


def _vgg() -> tuple[list[nn.Module], tuple[int, ...], tuple[int, ...]]:
    layers: list[nn.Module] = []
    channels, taps, widths = 3, [], (64, 128, 256, 512, 512)
    for width, depth in zip(widths, (2, 2, 3, 3, 3), strict=True):
        layers += [nn.MaxPool2d(2)] if layers else []
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        taps.append(len(layers) - 1)
    return layers, tuple(taps), widths


_STACKS = {"squeeze": _squeeze, "alex": _alex, "vgg": _vgg}


class LPIPS(nn.Module):
    """The measure, version 0.1, with random weights until some are loaded.

    PIE-Bench's evaluator takes `squeeze`; papers that say nothing usually take `alex`.

    Args:
        net: `squeeze`, `alex` or `vgg`.

    Raises:
        ConfigError: for another network.

    Source: Zhang et al., CVPR 2018, arXiv:1801.03924.
    """

    def __init__(self, net: str = "squeeze"):
        super().__init__()
        if net not in _STACKS:
            raise unknown(ConfigError, "LPIPS network", net, _STACKS)
        layers, self._taps, widths = _STACKS[net]()
        self.net = net
        self.features = nn.Sequential(*layers)
        self.linear = nn.ParameterList([nn.Parameter(torch.rand(width)) for width in widths])
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, net: str, backbone: Path, linear: Path) -> "LPIPS":
        """Load published weights.

        Args:
            net: `squeeze`, `alex` or `vgg`.
            backbone: torchvision's file of the classifier, such as `squeezenet1_1-b8a52dc0.pth`.
            linear: The file of the lpips package, such as `weights/v0.1/squeeze.pth`.

        Raises:
            ConfigError: for another network.
            ModelError: if a file cannot be read or is another network's.
        """
        measure = cls(net)
        weights, heads = _read(backbone), _read(linear)
        try:
            own = {name: weights[name] for name in measure.state_dict() if name in weights}
            own |= {
                f"linear.{i}": heads[f"lin{i}.model.1.weight"].flatten()
                for i in range(len(measure.linear))
            }
            measure.load_state_dict(own)
        except (KeyError, RuntimeError) as error:
            raise ModelError(
                f"'{backbone}' and '{linear}' are not the weights of LPIPS with {net!r} ({error}). "
                f"Needed: torchvision's {BACKBONES[net]} and lpips' weights/v0.1/{net}.pth."
            ) from error
        return measure

    def distance(
        self, a: Image.Image, b: Image.Image, region: Region | None = None, *, way: Way = "area"
    ) -> float:
        """Perceptual distance; 0 when equal, lower is better, rarely above 1.

        Within a region, the way `area` lets the pictures differ nowhere else and averages the map
        of distances over the region alone. The way `pie` paints the rest black in both.

        Args:
            a: One picture, at least 32 pixels a side.
            b: Another of the same size.
            region: Bool, (height, width): what is measured; None for everything.
            way: See `freeprompt.metrics.region.Way`.

        Returns:
            The distance; NaN if the region is empty and the way is `area`.

        Raises:
            ImageError: if sizes differ.
            ConfigError: for another way.
        """
        check_way(way)
        first, second = as_pair(a, b)
        mask = as_region(region, a)
        if way == "pie":
            first, second = first * mask, second * mask
        elif region is not None:
            if not bool(mask.any()):
                return math.nan
            return float(self.map(first, torch.where(mask, second, first))[0][mask].mean())
        return float(self(first, second)[0])

    @torch.no_grad()
    def forward(
        self, a: Float[Tensor, "batch 3 height width"], b: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, " batch"]:
        """Distances of pictures in [0, 1]: of each layer, averaged over positions, summed."""
        return torch.stack([layer.mean((1, 2)) for layer in self._layers(a, b)]).sum(0)

    @torch.no_grad()
    def map(
        self, a: Float[Tensor, "batch 3 height width"], b: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch height width"]:
        """Distances at every pixel: each layer's enlarged to the picture, bilinear, and summed."""
        size = a.shape[-2:]
        enlarged = [
            functional.interpolate(layer[:, None], size, mode="bilinear")[:, 0]
            for layer in self._layers(a, b)
        ]
        return torch.stack(enlarged).sum(0)

    def _layers(self, a: Tensor, b: Tensor) -> list[Tensor]:
        """Weighed squared differences of unit feature vectors; (batch, height, width) a layer."""
        pairs = zip(self._features(a), self._features(b), self.linear, strict=True)
        return [((x - y) ** 2 * w[:, None, None]).sum(1) for x, y, w in pairs]

    def _features(self, x: Tensor) -> list[Tensor]:
        device = self.linear[0].device
        shift, scale = (torch.tensor(v, device=device)[:, None, None] for v in (_SHIFT, _SCALE))
        x = (x.to(device, torch.float32) * 2 - 1 - shift) / scale
        found = []
        for start, stop in pairwise((-1, *self._taps)):
            x = self.features[start + 1 : stop + 1](x)
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found


def find_weights(net: str, folder: Path | None = None) -> tuple[Path, Path]:
    """Look for published weights: in a folder, in the lpips package, among torch's downloads.

    Args:
        net: `squeeze`, `alex` or `vgg`.
        folder: Where to look first.

    Returns:
        The files of the classifier and of the linear weights, for `LPIPS.load`.

    Raises:
        ConfigError: for another network.
        ModelError: if a file is nowhere to be found; the message says what to get.
    """
    if net not in BACKBONES:
        raise unknown(ConfigError, "LPIPS network", net, BACKBONES)
    package = find_spec("lpips")
    places = [folder] if folder else []
    if package is not None and package.origin is not None:
        places.append(Path(package.origin).parent / "weights" / "v0.1")
    places.append(Path(torch.hub.get_dir()) / "checkpoints")
    backbone = _first(places, [f"{BACKBONES[net]}*.pth", f"{BACKBONES[net]}*.safetensors"])
    linear = _first(places, [f"{net}.pth", f"{net}.safetensors"])
    if backbone is None or linear is None:
        missing = f"{BACKBONES[net]}*.pth" if backbone is None else f"{net}.pth"
        raise ModelError(
            f"LPIPS ({net}) lacks {missing}. Needed: torchvision's weights of {BACKBONES[net]} "
            f"and weights/v0.1/{net}.pth of the lpips package. Put both into one folder and name "
            "it."
        )
    return backbone, linear


def _first(places: Sequence[Path], patterns: Sequence[str]) -> Path | None:
    found = (path for place in places for p in patterns for path in sorted(place.glob(p)))
    return next(found, None)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, ValueError, EOFError) as error:
        raise ModelError(f"'{path}' cannot be read as weights ({error}). Get it anew.") from error
    except Exception as error:  # pickle's own errors, of any kind
        raise ModelError(f"'{path}' is no file of weights ({error}). Get it anew.") from error
    if not isinstance(weights, Mapping):
        raise ModelError(f"'{path}' holds a {type(weights).__name__}, not a table of weights.")
    return weights
