"""Imagic: an embedding and a model fitted to the picture, and a step from there to the target."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from freeprompt.core import TARGET, Model, Text, denoise
from freeprompt.core.fitting import Fit, Kept, fit_kept
from freeprompt.core.loop import Phase, Progress
from freeprompt.core.objective import Objective
from freeprompt.core.params import param
from freeprompt.methods.base import METHODS, Method, Outcome, Task, generated_source


@METHODS.register("imagic")
@dataclass(frozen=True, kw_only=True)
class Imagic(Method):
    """Fit the target's embedding, then the model, to the source; denoise between the two prompts.

    First the target prompt's embedding moves until the model rebuilds the source from it; then,
    with that embedding, the model itself is trained on the source. What is drawn from the
    embedding found is the source again; a share `mix` of the way back to the target's embedding
    it is the edit. Each target is fitted on its own, and the weights are put back after it.

    Preserves: what the subject is and how it looks.  Changes: pose, layout, kind, with the target.
    Fails when: the few steps do not suffice, or so many are taken that the target is unlearnt; zoom
    or viewpoint move before the edit shows; or the model cannot draw what the target says.

    Source: Kawar et al., CVPR 2023, arXiv:2210.09276; rates of diffusers' community pipeline.
    """

    inverts = False
    trains = True

    mix: float = param(
        0.7,
        "Share of the way from the embedding found to the target's; 0 keeps the source",
        low=0,
        high=1,
        unit="share",
        source="paper: 0.6 to 0.8",
    )
    embedding_steps: int = param(
        100,
        "Gradient steps on the embedding; one sample-forward and one backward each",
        low=1,
        source="paper: 100; diffusers' pipeline: 500",
    )
    embedding_rate: float = param(
        1e-2,
        "Learning rate of these",
        low=0,
        source="ours, to come as far in fewer steps; diffusers' pipeline: 1e-3",
    )
    model_steps: int = param(
        100,
        "Gradient steps on the model; likewise",
        low=0,
        source="ours; paper: 1500, diffusers' pipeline: 1000",
    )
    model_rate: float = param(
        1e-5,
        "Learning rate of these; a model as small as emoji-sd wants 1e-4",
        low=0,
        source="ours, to come as far in fewer steps; diffusers' pipeline: 2e-6",
    )
    weights: str = param(
        "all", "Which weights are trained", choices=("all", "attention"), source="paper: all"
    )

    @torch.no_grad()
    def __call__(self, model: Model, task: Task) -> Outcome:
        source = (task.trajectory or generated_source(model, task)).clean
        moved = [self._edited(model, task, source, target) for target in task.targets]
        return Outcome(
            targets=torch.cat(moved),
            source=None if task.trajectory else source,
            edited=(),
            acted=self.mix > 0,
        )

    def _edited(self, model: Model, task: Task, source: Tensor, target: str) -> Tensor:
        if self.mix == 0:
            return source  # what the fits aim at; there is no use in making them
        training = _Training(self, model, task, source, target)
        wanted = model.encode_text([target])
        with model.lend(self.weights) as weights:
            found = training.embedding(wanted)
            training.model(weights, found)
            done = denoise(
                model,
                model.schedule(task.steps),
                {"target": task.draw(source, 1)[0]},
                text={"target": _between(found, wanted, self.mix)},
                null=model.encode_text([task.negative]),
                rows=replace(task, targets=(target,)).shape(TARGET),
                guidance=task.guidance,
                callback=task.callback,
            )
        return done.state["target"]


class _Training:
    """Both fits to one source, for one target."""

    def __init__(self, method: Imagic, model: Model, task: Task, source: Tensor, target: str):
        self.method, self.net, self.task, self.source = method, model, task, source
        self.objective = Objective(schedule=model.schedule(task.steps), seed=task.seed)
        self.key = "" if task.keep is None else self._key(target)

    def embedding(self, wanted: Text) -> Text:
        """Return the embedding that rebuilds the source, sought from the target's."""
        start = {"states": wanted.states, **wanted.extras}
        fit = Fit(start, self.method.embedding_rate)

        def found() -> dict[str, Tensor]:
            return {name: value.detach().to(start[name]) for name, value in fit.values.items()}

        def gradients(step: int) -> Sequence[Tensor]:
            leaves = {name: value.requires_grad_() for name, value in found().items()}
            return self._gradients(_text(leaves), step, list(leaves.values()))

        self._fit(fit, "optimise", self.method.embedding_steps, gradients)
        return _text(found())

    def model(self, weights: Mapping[str, nn.Parameter], found: Text) -> None:
        """Train the weights to rebuild the source from the embedding found."""
        fit = Fit({name: weight.data for name, weight in weights.items()}, self.method.model_rate)

        def use() -> None:
            for name, value in fit.values.items():  # in float32 the very tensor that is trained
                weights[name].data = value.to(weights[name])

        def gradients(step: int) -> Sequence[Tensor]:
            use()
            draw = self.method.embedding_steps + step
            return self._gradients(found, draw, list(weights.values()))

        self._fit(fit, "tune", self.method.model_steps, gradients)
        use()

    def _gradients(self, text: Text, draw: int, of: list[Tensor]) -> Sequence[Tensor]:
        with torch.enable_grad():
            loss = self.objective.loss(self.net, self.source, text, draw)
            return torch.autograd.grad(loss, of, allow_unused=True, materialize_grads=True)

    def _fit(
        self, fit: Fit, phase: Phase, steps: int, gradients: Callable[[int], Sequence[Tensor]]
    ) -> None:
        def told(step: int) -> None:
            if self.task.callback is not None:
                self.task.callback(Progress(phase, step, steps, {"source": self.source}))

        kept = None
        if self.task.keep is not None:
            file = self.task.keep / f"imagic-{self.key}-{phase}.safetensors"
            kept = Kept(file=file, slim=True)
        fit_kept(fit, kept, steps, gradients, told)

    def _key(self, target: str) -> str:
        """Return a name for what is learnt here: other steps and mixes can make use of it."""
        settings = {k: v for k, v in self.method.to_dict().items() if k != "mix"}
        where = str(self.source.device.type), str(self.source.dtype)
        said = repr((target, settings, self.task.seed, self.net.fingerprint(), where))
        latent = self.source.to("cpu", torch.float32).contiguous().numpy().tobytes()
        return hashlib.sha256(said.encode() + latent).hexdigest()[:16]


def _text(parts: Mapping[str, Tensor]) -> Text:
    return Text(parts["states"], {n: value for n, value in parts.items() if n != "states"})


def _between(one: Text, other: Text, share: float) -> Text:
    """Return the embedding a share of the way from one to another."""
    extras = {name: torch.lerp(one.extras[name], x, share) for name, x in other.extras.items()}
    return Text(torch.lerp(one.states, other.states, share), extras)
