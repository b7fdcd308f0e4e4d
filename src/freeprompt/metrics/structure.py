"""Structure distance: how differently a picture's parts resemble each other."""

from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from freeprompt.errors import ModelError
from freeprompt.metrics.clip import normalised
from freeprompt.metrics.region import as_pair

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_KEYS = (".attention.k_proj", ".attention.attention.key")  # transformers 5, transformers 4


class Structure:
    """DINO structure distance.

    The keys of one attention layer, all heads side by side, are compared with each other: cosine
    similarity of every two tokens, the class token included. The distance is the mean squared
    difference of two pictures' similarities.

    Args:
        model: A transformers `ViTModel`; the field takes DINO's ViT-B/8.
        size: Pixels of the short side.
        layer: Index of the layer; the field takes the last of twelve, 11.
        white: What white is before the network's normalisation. It knows pixels from 0 to 1;
            PIE-Bench's evaluator leaves them at 0 to 255, and so do tables made with it.

    Raises:
        ModelError: if the model has no such attention layer.

    Source: Tumanyan et al., CVPR 2022, arXiv:2201.00424, eq. 1; used by PIE-Bench.
    """

    def __init__(self, model: Any, *, size: int = 224, layer: int = -1, white: float = 1):
        self._model, self._size, self._white = model.eval(), size, white
        keys = [module for name, module in model.named_modules() if name.endswith(_KEYS)]
        if not -len(keys) <= layer < len(keys):
            raise ModelError(
                f"{type(model).__name__} has {len(keys)} attention layers with keys, and layer "
                f"{layer} was asked for. A ViTModel such as facebook/dino-vitb8 is needed."
            )
        self._key = keys[layer]

    def distance(self, a: Image.Image, b: Image.Image) -> float:
        """Structure distance; 0 when equal, lower is better. Published tables multiply by 1000.

        Raises:
            ImageError: if the pictures differ in size.
        """
        as_pair(a, b)
        first, second = self.similarities(a), self.similarities(b)
        return float(((first - second) ** 2).mean())

    @torch.no_grad()
    def similarities(self, picture: Image.Image) -> Float[Tensor, "tokens tokens"]:
        """Return the cosine of every two tokens' keys, -1 .. 1, float32 on the CPU."""
        seen: list[Tensor] = []
        hook = self._key.register_forward_hook(lambda module, args, out: seen.append(out))
        try:
            pixels = self._prepared(picture).to(self._model.device)
            self._model(pixels, interpolate_pos_encoding=True)
        finally:
            hook.remove()
        keys = functional.normalize(seen[0][0].float().cpu(), dim=-1, eps=1e-8)
        return keys @ keys.T

    def _prepared(self, picture: Image.Image) -> Tensor:
        patch: int = self._model.config.patch_size
        ratio = self._size / min(picture.size)
        width, height = (max(1, round(side * ratio / patch)) * patch for side in picture.size)
        scaled = picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        return normalised(scaled, _MEAN, _STD, self._white)
