"""`controlled`: a method inside a stock diffusers call, where diffusers runs the loop."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from freeprompt.core import PAIR, Control, Rows, Run
from freeprompt.errors import ConfigError, ControlNeverFired, FreepromptWarning, UnsupportedModel
from freeprompt.methods import Method, Task, TwoBranch
from freeprompt.models import UNetModel, adapt


@contextmanager
def controlled(pipe: Any, method: Method, prompts: Sequence[str] = ()) -> Iterator[None]:
    """Apply a method's controls while a stock pipeline call runs inside the with-block.

    The first prompt of the call is the source, the others are targets:

        with fp.controlled(pipe, fp.methods.FPE()):
            images = pipe([source, target], latents=noise.expand(2, -1, -1, -1)).images

    All rows must start from the same noise: pass `latents`, or as many equal generators as there
    are prompts. The step is read from the timestep that the denoiser is given, never counted, so
    schedulers that call it twice a step work too.

    Args:
        pipe: A pipeline of the Stable Diffusion 1.x or 2.x family.
        method: The method, for example `fp.methods.FPE(share=0.6)`.
        prompts: Source and target prompts of the call, for methods that read them (P2P).

    Raises:
        ConfigError: if the method runs its own loop, changes latents between steps (as a blend with
            the source does), or reads prompts and got none.
        ControlNeverFired: at the end of the block, if nothing was denoised or edited in it.
        UnsupportedModel: if the call has no target row.
        AlreadyAttached: if controls are attached to this model now.

    Warns:
        FreepromptWarning: if source and target start from different noise.
    """
    if not isinstance(method, Method):
        raise ConfigError(f"method must be an instance such as FPE(); got {method!r}.")
    if not isinstance(method, TwoBranch):
        raise ConfigError(
            f"{type(method).__name__} runs a loop of its own and cannot act inside a stock call. "
            "Use Editor(pipe).edit(...)."
        )
    if method.reads_prompts and len(prompts) < 2:
        raise ConfigError(
            f"{type(method).__name__} works on words: give controlled() the prompts of the call, "
            "prompts=[source, target, ...]."
        )
    name = getattr(pipe, "name_or_path", "") or type(pipe).__name__
    model = adapt(pipe, name)
    if model.takes != "text":
        raise UnsupportedModel(
            f"{name!r} takes {pipe.unet.config.in_channels} input channels, so its rows are not "
            "those of text-to-image. Use Editor, which knows inpainting and instruction models."
        )
    guest = _Guest(model, method, tuple(prompts) or ("", ""))
    with ExitStack() as undo:
        undo.push(guest.attached)
        before = pipe.unet.register_forward_pre_hook(guest.before, with_kwargs=True)
        undo.callback(before.remove)
        after = pipe.unet.register_forward_hook(guest.after)
        undo.callback(after.remove)
        yield
        if guest.run is None:
            raise ControlNeverFired(
                "Nothing was denoised inside controlled(): call the pipeline within the block."
            )
        guest.finish()


class _StepError(Exception):
    """Ends a step that never came to its end."""


class _Guest:
    """Attaches at the first call of the denoiser, when batch and schedule are known.

    A later pipeline call with another schedule or batch is attached anew.
    """

    def __init__(self, model: UNetModel, method: TwoBranch, prompts: tuple[str, ...]):
        self.model, self.method, self.prompts = model, method, prompts
        self.run: Run | None = None
        self.shape: tuple[tuple[float, ...], int] | None = None
        self.attached = ExitStack()
        self.step = ExitStack()

    def before(self, unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        text = args[2] if len(args) > 2 else kwargs.get("encoder_hidden_states")
        steps = tuple(dict.fromkeys(float(t) for t in self.model.pipe.scheduler.timesteps))
        if self.run is None or self.shape != (steps, len(sample)):
            self.finish()
            self.shape = steps, len(sample)
            self.run = self._attach(sample, text, len(steps))
        self._forget()
        step = steps.index(float(torch.as_tensor(timestep).flatten()[0]))
        self.step.enter_context(self.run.at(step, (sample.shape[-2], sample.shape[-1])))

    def after(self, unet: Any, args: Any, out: Any) -> None:
        self.step.close()

    def _forget(self) -> None:
        """Leave a step in which the network failed, if whoever caught that calls it again."""
        left = self.step.pop_all()
        with suppress(_StepError):
            left.__exit__(_StepError, _StepError(), None)

    def finish(self) -> None:
        """Detach after the last call under one schedule, and say if nothing was edited."""
        self.attached.close()
        if self.shape is not None and self.run is not None and not self.run.fired:
            _warn("The method's window or selection is empty: nothing was edited in this call.")

    def _attach(self, sample: Tensor, text: Tensor | None, steps: int) -> Run:
        rows = stock_rows(len(sample), self.model.pipe.do_classifier_free_guidance)
        pairs = [(i, rows.source_of(i)) for i in rows.targets()]
        if any(not torch.equal(sample[i], sample[j]) for i, j in pairs):
            _warn(
                "Source and target start from different noise, so their layouts have nothing in "
                "common to share. Pass latents=noise.expand(len(prompts), -1, -1, -1)."
            )
        spoken = [(i, j) for i, j in pairs if rows.rows[i].conditional]
        if text is not None and any(torch.equal(text[i], text[j]) for i, j in spoken):
            _warn(
                "A target's prompt is the source's (the first of the call): nothing to edit there. "
                "Leave num_images_per_prompt at 1."
            )
        source, *targets = self.prompts
        task = Task(
            targets=tuple(targets),
            source=source,
            start=sample[:1],
            steps=steps,
            guidance=float(self.model.pipe.guidance_scale),
        )
        controls = self.method.controls(self.model, task)
        _check_controls(self.method, controls)
        return self.attached.enter_context(self.model.attach(controls, rows))


def _check_controls(method: TwoBranch, controls: Sequence[Control]) -> None:
    """Refuse what acts outside the network, where diffusers' loop does not ask it."""
    for control in controls:
        if any(
            getattr(type(control), name) is not getattr(Control, name)
            for name in ("latents", "guide")
        ):
            raise ConfigError(
                f"{type(control).__name__} of {type(method).__name__} changes latents between the "
                "steps, and in a stock call diffusers takes the steps, so it would be left out "
                "without a word. Leave out what asks for it (such as blend_words), or use "
                "Editor(pipe).edit(...)."
            )


def _warn(message: str) -> None:
    warnings.warn(message, FreepromptWarning, stacklevel=2)


def stock_rows(batch: int, guided: bool) -> Rows:
    """Return the rows of a stock pipeline's batch: all unconditional rows, then all conditional.

    Args:
        batch: Number of rows.
        guided: Whether the first half is unconditional.

    Raises:
        UnsupportedModel: if there is no row left for a target.
    """
    prompts = batch // 2 if guided else batch
    if prompts < 2:
        raise UnsupportedModel(
            "The pipeline call has one prompt; controlled() needs [source, target, ...]."
        )
    rows = PAIR if guided else PAIR.without(half="uncond")
    return rows.with_targets(prompts - 1)
