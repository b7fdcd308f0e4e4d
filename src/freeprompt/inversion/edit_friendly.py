"""Edit-friendly DDPM inversion: the noises with which random sampling gives the image back."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from freeprompt.core import DDIM, Control, Model, Run, Stochastic, Trajectory, step_count
from freeprompt.core.loop import Callback, Progress, State
from freeprompt.core.params import param
from freeprompt.inversion.base import INVERSIONS, Inversion
from freeprompt.inversion.reconstruct import source_rows


@INVERSIONS.register("edit-friendly")
@dataclass(frozen=True, kw_only=True)
class EditFriendlyInversion(Inversion):
    """Put independent noise on the image at every level; find what leads from each to the next.

    The latents are not a path that the model would take: each is the image with noise of its own.
    Denoising from one to the next therefore needs a noise z with a larger variance than DDPM's and
    correlated over the steps; so the image is written into all of them, and edits made with them
    keep it. What rounding adds is put back into the next latent, so that nothing drifts.

    Source: Huberman-Spiegelglas, Kulikov & Michaeli, CVPR 2024, arXiv:2304.06140, algorithm 1;
    defaults of the released code (there with 100 steps and guidance 15 of the edit).
    """

    skip: float = param(
        0.36,
        "Share of the steps, from the noisiest on, that are left out; more keeps more of the image",
        low=0,
        high=1,
        unit="share",
        source="released code: 36 of 100; with Prompt-to-Prompt 12",
    )
    source_guidance: float = param(
        3.5,
        "Guidance scale with the source prompt; 0 inverts as if there were none",
        low=0,
        source="released code",
    )
    eta: float = param(
        1.0, "Noise of a step, as a share of DDPM's", low=0.1, high=1, source="released code"
    )
    last_noise: bool = param(
        False,
        "Keep the noise of the last step: reconstruction is exact, edits keep the finest texture",
        source="paper and released code set z_1 to 0",
    )

    gives = ("noises",)

    @torch.no_grad()
    def __call__(
        self,
        model: Model,
        clean: Tensor,
        *,
        steps: int,
        prompt: str = "",
        guidance: float = 7.5,
        negative: str = "",
        seed: int = 0,
        controls: Sequence[Control] = (),
        callback: Callback | None = None,
    ) -> Trajectory:
        first, scale = step_count(steps, self.skip), self.source_guidance if prompt else 1.0
        base = model.schedule(steps)
        source = _Source(model, base, prompt, scale)
        zs = [torch.zeros_like(clean)] * steps
        schedule = Stochastic(base=base, noises=torch.cat(zs), eta=self.eta)
        path = noised(base, clean, seed)  # in denoising order
        with model.attach(controls, source.rows) as run:
            for i in range(first, steps):
                noise = source.noise(run, path[i], i)
                zs[i] = schedule.noise_between(path[i], path[i + 1], noise, i)
                if i + 1 < steps:  # what rounding makes of it; the image itself stays
                    path[i + 1] = schedule.step_with(path[i], noise, zs[i], i)
                if callback is not None:
                    state: State = {"source": path[i + 1]}
                    callback(Progress("invert", i - first, steps - first, state))
        if not self.last_noise:
            zs[-1] = torch.zeros_like(clean)
        return Trajectory(
            latents=torch.cat(path[::-1]),
            prompt=prompt,
            noises=torch.cat(zs),
            eta=self.eta,
            first=first,
            guidance=scale,
            provenance={"steps": steps, "seed": seed, **self.to_dict()},
        )


class _Source:
    """The noise that the network predicts in the source, guided by the source's own prompt."""

    def __init__(self, model: Model, base: DDIM, prompt: str, scale: float):
        self.model, self.base, self.scale = model, base, scale
        self.rows, null = source_rows(scale), model.encode_text([""])
        text = model.encode_text([prompt]) if scale > 0 else null
        self.embeddings = self.rows.embeddings({"source": text}, null)

    def noise(self, run: Run, x: Tensor, step: int) -> Tensor:
        """Return the noise predicted in `x` at the beginning of a step."""
        batch = self.rows.spread({"source": x})
        with run.at(step, (x.shape[-2], x.shape[-1])):
            answer = self.model.predict(batch, self.base.timesteps[step], self.embeddings)
        return self.rows.guide(self.base.noise(batch, answer, step), self.scale)["source"]


def noised(base: DDIM, clean: Tensor, seed: int) -> list[Tensor]:
    """Return the image with independent noise at every level, the noisiest first, itself last.

    Drawn on the CPU in float32, and not the noise that a generated picture of that seed starts
    from: it would be no independent noise for that picture.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = [torch.randn(clean.shape, generator=generator) for _ in range(base.steps + 1)]
    return [*(base.noised(clean, z.to(clean), i) for i, z in enumerate(drawn[1:])), clean]
