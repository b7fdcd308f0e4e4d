"""The judge's network: a small convolutional encoder, four classifiers and a mask decoder."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from freeprompt.judge.labels import HEADS


class _Residual(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Add what two convolutions find; same shape."""
        hidden = self.conv1(functional.silu(self.norm1(x)))
        result: Tensor = x + self.conv2(functional.silu(self.norm2(hidden)))
        return result


class _Join(nn.Module):
    """One step of the mask decoder: enlarge, join with the finer features."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(coarse, fine, 1)
        self.block = _Residual(fine)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Return features of the finer grid."""
        enlarged = functional.interpolate(self.reduce(coarse), scale_factor=2.0, mode="nearest")
        result: Tensor = self.block(fine + enlarged)
        return result


class JudgeNetwork(nn.Module):
    """Reads subject, colour, place and style of an image and outlines the subject.

    The classifiers see the features averaged over the whole image and over the predicted mask, and
    so do the image's own colours: a colour is read where the subject is.

    Args:
        channels: Widths at 1/2, 1/4, 1/8 and 1/16 of the resolution, multiples of 8.
    """

    def __init__(self, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels[0], 4, stride=2, padding=1)
        depths = (2, 2, 2, 1)  # the coarsest grid is the widest: one block there keeps it small
        self.levels = nn.ModuleList(
            nn.Sequential(*(_Residual(width) for _ in range(depth)))
            for width, depth in zip(channels, depths, strict=True)
        )
        pairs = list(pairwise(channels))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.up = nn.ModuleList(_Join(b, a) for a, b in pairs)
        self.unshuffle = nn.Sequential(nn.Conv2d(channels[0], 32, 1), nn.PixelShuffle(2))
        self.outline = nn.Sequential(
            nn.Conv2d(11, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 1, 3, padding=1)
        )
        width = channels[0] + 2 * sum(channels[1:]) + channels[0] + 6
        self.mix = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 256), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(256, len(v)) for name, v in HEADS.items()})

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[dict[str, Tensor], Float[Tensor, "batch height width"]]:
        """Read images.

        Args:
            images: In [-1, 1]; sides multiples of 16.

        Returns:
            Logits by attribute, `(batch, answers)`, and the mask's logits.
        """
        features = self.encode(images)
        fine = features[-1]
        for join, skip in zip(reversed(self.up), reversed(features[:-1]), strict=True):
            fine = join(fine, skip)
        mask = self.outline(torch.cat([self.unshuffle(fine), images], dim=1))
        pooled = self.mix(self.pool(images, features, fine, mask.detach().sigmoid()))
        return {name: head(pooled) for name, head in self.heads.items()}, mask[:, 0]

    def encode(self, images: Tensor) -> list[Tensor]:
        """Compute the features of the four grids, finest first."""
        x = self.stem(images)
        features = [self.levels[0](x)]
        for down, level in zip(self.down, list(self.levels)[1:], strict=True):
            features.append(level(down(features[-1])))
        return features

    def pool(self, images: Tensor, features: list[Tensor], fine: Tensor, mask: Tensor) -> Tensor:
        """Average features and colours inside the mask, and features over the whole image."""
        inside = [_mean_inside(x, mask) for x in (*features, fine)]
        colors = _mean_inside(images, mask)
        spread = _mean_inside((images - colors[:, :, None, None]).square(), mask)
        whole = [x.mean(dim=(2, 3)) for x in features[1:]]
        return torch.cat([*inside, *whole, colors, spread], dim=1)


def _mean_inside(features: Tensor, mask: Tensor) -> Tensor:
    """Average features with a soft mask brought to their grid as weights."""
    weights = functional.adaptive_avg_pool2d(mask, features.shape[-1])
    total: Tensor = (features * weights).sum(dim=(2, 3)) / (weights.sum(dim=(2, 3)) + 1e-3)
    return total
