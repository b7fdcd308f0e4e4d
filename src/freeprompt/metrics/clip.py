"""CLIP: how well a picture fits a prompt, and whether an edit went the way of the words."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from freeprompt.metrics.region import Region, as_region, as_tensor

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


class Clip:
    """A CLIP model as a measure.

    Args:
        model: A transformers `CLIPModel`; transformers 4 and 5 both do.
        tokenizer: Its tokenizer.

    Source: Radford et al., arXiv:2103.00020; the score is Hessel et al., arXiv:2104.08718, without
    their factor 2.5, the direction Gal et al., arXiv:2108.00946.
    """

    def __init__(self, model: Any, tokenizer: Any):
        self._model, self._tokenizer = model.eval(), tokenizer
        self._size: int = model.config.vision_config.image_size
        self._longest: int = model.config.text_config.max_position_embeddings

    def score(self, picture: Image.Image, prompt: str, region: Region | None = None) -> float:
        """CLIP score: 100 times the cosine of picture and prompt, at least 0; higher is better.

        Args:
            picture: The edited picture.
            prompt: The target prompt, whole.
            region: Bool, (height, width): the rest is painted black first, which is what
                PIE-Bench's "CLIP edited" does; None for the whole picture.

        Returns:
            0 .. 100; good matches are near 25 to 32 with the ViT-L/14 that PIE-Bench takes.

        Raises:
            ImageError: if the region does not fit the picture.
        """
        shown = picture if region is None else blackened(picture, region)
        return 100 * max(0.0, float(self.images([shown])[0] @ self.texts([prompt])[0]))

    def direction(
        self,
        source: Image.Image,
        edited: Image.Image,
        source_prompt: str,
        target_prompt: str,
    ) -> float:
        """CLIP directional similarity: the cosine of the picture's change and the prompt's change.

        Differences are taken between unit vectors.

        Returns:
            -1 .. 1, higher is better; NaN if the picture or the prompt did not change at all.
        """
        pictures, prompts = (
            self.images([source, edited]),
            self.texts([source_prompt, target_prompt]),
        )
        moved, meant = pictures[1] - pictures[0], prompts[1] - prompts[0]
        if not bool(moved.any() and meant.any()):
            return math.nan
        return float(functional.cosine_similarity(moved, meant, dim=0))

    @torch.no_grad()
    def images(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "count width"]:
        """Embed pictures as unit vectors, on the CPU in float32."""
        batch = torch.cat([self._prepared(picture) for picture in pictures])
        return _unit(self._model.get_image_features(pixel_values=batch.to(self._model.device)))

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Float[Tensor, "count width"]:
        """Embed prompts as unit vectors; words beyond the model's length are cut off."""
        tokens = self._tokenizer(
            list(prompts),
            padding=True,
            truncation=True,
            max_length=self._longest,
            return_tensors="pt",
        )
        mask = tokens["attention_mask"].to(self._model.device)
        ids = tokens["input_ids"].to(self._model.device)
        return _unit(self._model.get_text_features(input_ids=ids, attention_mask=mask))

    def _prepared(self, picture: Image.Image) -> Float[Tensor, "1 3 size size"]:
        """Resize the short side, bicubic, crop the middle, normalise: CLIP's own preprocessing."""
        width, height = (self._size * side // min(picture.size) for side in picture.size)
        large = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - self._size) // 2, (height - self._size) // 2
        square = large.crop((left, top, left + self._size, top + self._size))
        return normalised(square, _MEAN, _STD)


def normalised(
    picture: Image.Image, mean: Sequence[float], std: Sequence[float], white: float = 1
) -> Float[Tensor, "1 3 height width"]:
    """Turn a picture into a float32 tensor of zero mean and unit variance by given statistics.

    The statistics are those of pixels from 0 to 1; another `white` is for repeating faults.
    """
    shift, scale = (
        torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (mean, std)
    )
    return ((as_tensor(picture) * white - shift) / scale).float()


def blackened(picture: Image.Image, region: Region) -> Image.Image:
    """Paint everything outside a region black.

    Raises:
        ImageError: if the region does not fit the picture.
    """
    mask = Image.fromarray(as_region(region, picture).numpy())
    return Image.composite(picture.convert("RGB"), Image.new("RGB", picture.size), mask)


def _unit(features: Any) -> Tensor:
    # transformers 4 returns the projected tensor, transformers 5 an output that holds it
    tensor = features if isinstance(features, Tensor) else features.pooler_output
    return functional.normalize(tensor.float().cpu(), dim=-1)
