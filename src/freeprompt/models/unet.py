"""Stable Diffusion 1.x and 2.x: a UNet, one CLIP text encoder, a VAE."""

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freeprompt.core import DDIM, Control, Rows, Run, Site, Text
from freeprompt.core.words import Spelling
from freeprompt.errors import ConfigError
from freeprompt.models.chunks import Chunked
from freeprompt.models.fingerprint import fingerprint
from freeprompt.models.hints import HintNetwork, Hints, no_image
from freeprompt.models.lending import lend
from freeprompt.models.memory import Memory
from freeprompt.models.passes import Lane, Pass, Tally
from freeprompt.models.seam import attach, in_use
from freeprompt.models.text import spell, tokenize
from freeprompt.models.walk import unet_sites

Takes = Literal["text", "picture", "room"]
TAKES: dict[int, Takes] = {0: "text", 4: "picture", 5: "room"}  # by the channels beyond the VAE's
PICTURE = "picture"
DISTILLED_GUIDANCE = 8.5  # scale that LCM_Dreamshaper_v7's authors run it at


def latent_side(config: Mapping[str, Any]) -> int:
    """Return the side of the square latents that a UNet with this config was trained on."""
    size = config["sample_size"]
    return int(size) if isinstance(size, int) else max(int(side) for side in size)


def guidance_embedding(strength: float, width: int) -> Tensor:
    """Return how a consistency model is told the guidance it was distilled with, (1, width).

    Args:
        strength: Guidance scale minus 1.
        width: Of the embedding.

    Source: Luo et al., arXiv:2310.04378, section 4.1: sines and cosines of 1000 times the scale.
    """
    half = width // 2
    rates = torch.exp(torch.arange(half) * -(math.log(10000.0) / (half - 1)))
    angles = strength * 1000.0 * rates
    return F.pad(torch.cat([angles.sin(), angles.cos()]), (0, width % 2))[None]


class UNetModel:
    """Adapter for `StableDiffusionPipeline`; fulfils `freeprompt.core.Model`.

    Args:
        pipe: The pipeline; nothing in it is changed.
        name: How messages and provenance call it.

    Attributes:
        sample_forwards: Number of samples the network has evaluated through this adapter, and
            through those that see control images or room for it.
        cuts: Prompts that were too long, and what was said of each; clear it to be told again.
        memory: How it is fitted into the memory there is.
        networks: ControlNets and T2I-Adapters that go with it.
        hints: The control images of the edit at hand, if it has some.
        room: What an inpainting network sees of the edit at hand: 1 where it may paint, and the
            latent of the picture without that part, (1, 1 + channels, height, width).
    """

    TEXT_ENCODERS: tuple[str, ...] = ("text_encoder",)

    def __init__(self, pipe: Any, name: str):
        self.pipe = pipe
        self.name = name
        self._tally = Tally()
        self.cuts: dict[str, str] = {}
        self.memory = Memory()
        self.networks: tuple[HintNetwork, ...] = ()
        self.hints: Hints | None = None
        self.room: Tensor | None = None
        self._lane: Lane | None = None

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """All seams, in execution order within each kind."""
        return unet_sites(getattr(self.pipe.unet, "_orig_mod", self.pipe.unet))

    @property
    def sample_forwards(self) -> int:
        """Number of samples the network has evaluated, see above."""
        return self._tally.samples

    @sample_forwards.setter
    def sample_forwards(self, count: int) -> None:
        self._tally.samples = count

    @property
    def lane(self) -> Lane | None:
        """What evaluates its batches, while it is one of several edits that go on side by side."""
        # what outlives its edit, such as an inverted image, evaluates by itself
        return None if self._lane is None or self._lane.over else self._lane

    @property
    def device(self) -> torch.device:
        """Where the denoiser runs, also under CPU offload."""
        device: torch.device = self.pipe._execution_device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What the denoiser computes in."""
        dtype: torch.dtype = next(self.pipe.unet.parameters()).dtype
        return dtype

    @property
    def takes(self) -> Takes:
        """What the denoiser sees beside latents: text alone, a picture, or one with a gap."""
        return TAKES[int(self.pipe.unet.config.in_channels) - self._channels]

    @property
    def _channels(self) -> int:
        return int(self.pipe.vae.config.latent_channels)

    @property
    def granularity(self) -> int:
        """Pixels a latent cell: picture sides must be multiples of this."""
        return int(2 ** (len(self.pipe.vae.config.block_out_channels) - 1))

    @property
    def native_size(self) -> int:
        """Side in pixels of the square pictures that the model was trained on."""
        return latent_side(self.pipe.unet.config) * self.granularity

    @property
    def shortest_side(self) -> int:
        """Smallest side in pixels that leaves a cell at the coarsest grid."""
        return self.granularity << max(site.halvings for site in self.sites)

    def schedule(self, steps: int) -> DDIM:
        """Return DDIM on the checkpoint's own noise levels."""
        return DDIM.from_config(self.pipe.scheduler.config, steps)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return (1, channels, height, width) of the latent of a picture of that many pixels."""
        return 1, self._channels, height // self.granularity, width // self.granularity

    def encode_text(self, prompts: Sequence[str]) -> Text:
        """Encode prompts, one row each, (prompts, tokens, width)."""
        ids = tokenize(self.pipe.tokenizer, prompts, self.cuts).to(self.device)
        mask = None
        if getattr(self.pipe.text_encoder.config, "use_attention_mask", False):
            mask = (ids != self.pipe.tokenizer.pad_token_id).long()
        states = self.pipe.text_encoder(ids, attention_mask=mask)[0]
        return Text(states.to(self.dtype))

    def spell(self, prompt: str) -> Spelling:
        """Return a prompt's words and the tokens that they become."""
        return spell(self.pipe.tokenizer, prompt)

    def encode_image(self, x: Tensor) -> Tensor:
        """Encode a picture in [-1, 1] as the scaled mean of the VAE's posterior."""
        vae = self.pipe.vae
        with self._thrift():
            posterior = vae.encode(x.to(self.device, vae.dtype)).latent_dist
        return (posterior.mean * vae.config.scaling_factor).to(self.dtype)  # type: ignore[no-any-return]

    def decode(self, x: Tensor) -> Tensor:
        """Decode scaled latents, one at a time, to float32 pictures nominally in [-1, 1]."""
        vae = self.pipe.vae
        scaled = x.to(vae.dtype) / vae.config.scaling_factor
        with self._thrift():
            return torch.cat([vae.decode(x[None], return_dict=False)[0].float() for x in scaled])

    def screen(self, images: Tensor) -> tuple[Tensor, list[bool]]:
        """Run the pipeline's safety checker, if it has one.

        Args:
            images: Pictures in [-1, 1].

        Returns:
            The pictures, those that were flagged blackened, and the flags.
        """
        if getattr(self.pipe, "safety_checker", None) is None:
            return images, [False] * len(images)
        _, flags = self.pipe.run_safety_checker(images.clone(), self.device, self.dtype)
        hidden = torch.tensor([bool(flag) for flag in flags], device=images.device)
        # hiding is not left to the checker: some only report, and its black is this range's grey
        return torch.where(hidden.view(-1, 1, 1, 1), -torch.ones_like(images), images), list(flags)

    def predict(self, x: Tensor, timestep: int, text: Text) -> Tensor:
        """Return the network's raw answer, and add the batch to `sample_forwards`."""
        self.sample_forwards += len(x)
        # a tensor, as the stock pipeline passes: a plain number would recompile at every step
        t = torch.tensor(timestep, device=x.device)
        given = self.conditions(x, text)
        asked = Pass(
            sample=self._widened(x, text),
            timestep=t,
            states=text.states,
            given={**given, **self._hinted(x, t, text, given)},
        )
        lane = self.lane
        return self.evaluate(asked) if lane is None else lane.evaluate(asked)

    def evaluate(self, asked: Pass) -> Tensor:
        """Return the network's answer to one batch."""
        with self._thrift():
            answer: Tensor = self.pipe.unet(
                asked.sample,
                asked.timestep,
                encoder_hidden_states=asked.states,
                return_dict=False,
                **asked.given,
            )[0]
        return answer

    def _hinted(self, x: Tensor, t: Tensor, text: Text, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the control images add."""
        if self.hints is not None:
            return self.hints.added(x, t, text.states, given)
        if self.networks:
            raise no_image(self.name, self.networks[0])
        return {}

    def _widened(self, x: Tensor, text: Text) -> Tensor:
        """Return the latents with the channels that the denoiser takes beside them."""
        if self.takes == "text":
            return x
        if self.takes == "picture":
            # without a picture it draws from the text alone, as it was trained to
            return torch.cat([x, text.extras.get(PICTURE, torch.zeros_like(x)).to(x)], 1)
        if self.room is None:
            raise ConfigError(
                f"{self.name!r} is an inpainting model: it must be told where it may paint. Give a "
                "real image (image=) and a mask (mask=, white where it may change), with a method "
                "that uses one."
            )
        return torch.cat([x, self.room.to(x).expand(len(x), -1, -1, -1)], 1)

    def shown(self, text: Text, picture: Tensor) -> Text:
        """Add to encoded instructions the picture that they are about.

        Args:
            text: Encoded instructions.
            picture: Its latent, (1, channels, height, width), scaled; zeros are no picture.

        Source: Brooks et al., arXiv:2211.09800: the network takes it unscaled.
        """
        seen = picture / self.pipe.vae.config.scaling_factor
        return Text(text.states, {**text.extras, PICTURE: seen.expand(len(text), -1, -1, -1)})

    def seeing(self, *, hints: Hints | None = None, room: Tensor | None = None) -> Self:
        """Return this model as it is for an edit with control images, or with room to paint in.

        A new adapter of the same pipeline, which is not changed; they count together.
        """
        made = copy.copy(self)
        made.hints, made.room = hints, room
        return made

    @property
    def told(self) -> tuple[dict[str, Any], ...]:
        """What provenance says of the control images."""
        return () if self.hints is None else tuple(h.describe() for h in self.hints.hints)

    def beside(self, lane: Lane) -> Self:
        """Return this model as one of several edits uses it that go on side by side.

        A new adapter of the same pipeline, which is not changed; with books of its own.

        Args:
            lane: What evaluates its batches together with those of the others.
        """
        made = copy.copy(self)
        made._lane, made.cuts, made._tally = lane, {}, Tally()
        # stepping down would move the weights under the feet of the others
        made.memory = replace(self.memory, step_down=False)
        return made

    def _thrift(self) -> AbstractContextManager[object]:
        """Bound what attention holds at a time, if that was asked for."""
        limit = self.memory.attention_mib
        return Chunked(limit * 2**20) if limit else nullcontext()

    def conditions(self, x: Tensor, text: Text) -> dict[str, Any]:
        """Return what the network takes beside latents, timestep and text."""
        width = getattr(self.pipe.unet.config, "time_cond_proj_dim", None)
        if width is None:
            return {}
        told = guidance_embedding(DISTILLED_GUIDANCE - 1, width)
        return {"timestep_cond": told.to(x).expand(len(x), -1)}

    def attach(self, controls: Sequence[Control], rows: Rows) -> AbstractContextManager[Run]:
        """Install controls for the length of a with-block and restore the model exactly."""
        if (lane := self.lane) is not None:
            return lane.attach(Run(controls, rows, self.sites, self.name))
        return attach(self.pipe.unet, self.sites, controls, rows, self.name)

    def lend(self, kind: str) -> AbstractContextManager[Mapping[str, nn.Parameter]]:
        """Lend weights for training, for the length of a with-block, and restore them exactly."""
        if self.lane is not None:
            raise in_use(self.name)
        return lend(self.pipe.unet, kind, self.name)

    def fingerprint(self) -> str:
        """Return a cheap identity of all weights as they are now, and of what steers the edit."""
        weights = fingerprint(self.pipe)
        if self.hints is None and self.room is None:
            return weights
        steps = () if self.hints is None else self.hints.timesteps
        room = b"" if self.room is None else self.room.to("cpu", torch.float32).numpy().tobytes()
        said = repr((weights, self.told, steps)).encode()
        return hashlib.sha256(said + room).hexdigest()[:16]
