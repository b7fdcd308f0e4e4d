"""Weights that wait in the machine's memory until the accelerator needs them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, Literal

import torch
from torch import nn

from freeprompt.errors import MissingDependency, ModelError

Offload = Literal["none", "model", "sequential"]
ACCELERATORS = ("cuda", "mps", "xpu")


def offload(pipe: Any, how: str, device: torch.device) -> None:
    """Let weights wait on the CPU until they are needed on `device`.

    `model` is diffusers' own `enable_model_cpu_offload`. `sequential` lends every layer its weights
    for the length of its `forward`: as diffusers' own, but with a hook that keeps each parameter
    the object it is and that computes the same on any device.

    Args:
        pipe: The pipeline; what it had of the kind before is replaced.
        how: `model` or `sequential`.
        device: Where it computes.

    Raises:
        MissingDependency: if accelerate is not installed.
    """
    try:
        from accelerate.hooks import add_hook_to_module
    except ImportError as error:
        raise MissingDependency(
            "Keeping weights off the accelerator needs accelerate: "
            'pip install "freeprompt[offload]"'
        ) from error
    plain(pipe)
    if how == "model":
        pipe.enable_model_cpu_offload(device=device)
        return
    pipe.to("cpu", silence_dtype_warnings=True)
    for part in parts(pipe):
        for module in part.modules():
            if _own(module) or module is part:
                add_hook_to_module(module, _lent()(device))


def _own(module: nn.Module) -> list[torch.Tensor]:
    """Return the parameters and buffers of a module itself, those of its children left out."""
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


@cache
def _lent() -> type[Any]:
    """Return the hook that lends a layer its weights; made late, as accelerate may be missing."""
    from accelerate.hooks import ModelHook

    class Lent(ModelHook):  # type: ignore[misc]
        """Brings a module's own weights to a device before its `forward` and takes them away after.

        Attributes:
            execution_device: Where; diffusers asks every hook for it by this name.
        """

        def __init__(self, device: torch.device):
            self.execution_device = device
            self.away: list[tuple[dict[str, Any], str, torch.Tensor]] = []

        def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self._take_back()
            # a copy in the place of each, not other data in it: what a gradient will need is kept
            # with the copy, and goes on to where the layer computed
            self.away = [
                (kept, name, weight)
                for kept in (module._parameters, module._buffers)
                for name, weight in kept.items()
                if weight is not None
            ]
            for kept, name, weight in self.away:
                kept[name] = self._there(weight)
            return args, kwargs

        def _there(self, weight: torch.Tensor) -> torch.Tensor:
            return weight.to(self.execution_device)

        def post_forward(self, module: nn.Module, output: Any) -> Any:
            self._take_back()
            return output

        def detach_hook(self, module: nn.Module) -> nn.Module:
            self._take_back()
            return module

        def _take_back(self) -> None:
            # also before the next use and at the end: an exception in `forward` leaves them there
            for kept, name, weight in self.away:
                kept[name] = weight
            self.away = []

    return Lent


def offloading(pipe: Any) -> Offload | Literal["other"]:
    """Return how a pipeline's weights are kept off the accelerator now.

    `other` is whatever this library did not do and cannot undo: a device map, group offloading.
    """
    if getattr(pipe, "hf_device_map", None) or _grouped(pipe):
        return "other"
    if getattr(pipe, "_all_hooks", None):
        return "model"
    hooked = any(hasattr(module, "_hf_hook") for part in parts(pipe) for module in part.modules())
    return "sequential" if hooked else "none"


def _grouped(pipe: Any) -> bool:
    """Whether diffusers' group offloading is on, which it tells by an attribute of its hooks."""
    registries = (getattr(m, "_diffusers_hook", None) for p in parts(pipe) for m in p.modules())
    return any(
        name.startswith("group_offloading") for r in registries if r is not None for name in r.hooks
    )


def parts(pipe: Any) -> tuple[nn.Module, ...]:
    """Return the networks of a pipeline."""
    return tuple(part for part in pipe.components.values() if isinstance(part, nn.Module))


@contextmanager
def offloaded(pipe: Any, how: str) -> Iterator[None]:
    """Keep weights off the accelerator for the length of a with-block, then put all back.

    Afterwards hooks, devices and the modules' own attributes are what they were.

    Args:
        pipe: The pipeline, with or without offloading of its own.
        how: `model` or `sequential`.
    """
    before, device = offloading(pipe), pipe._execution_device
    with ExitStack() as undo:
        undo.callback(_back, pipe, before, device)
        offload(pipe, how, device)
        yield


def _back(pipe: Any, before: str, device: torch.device) -> None:
    plain(pipe)
    if before == "none":
        pipe.to(device)
    else:
        offload(pipe, before, device)


def plain(pipe: Any) -> None:
    """Take accelerate's hooks off, and the bound `forward` that they leave on each module."""
    pipe.remove_all_hooks()
    for part in parts(pipe):
        for module in part.modules():
            own = module.__dict__.get("forward")
            if getattr(own, "__func__", None) is type(module).forward:
                del module.__dict__["forward"]


def settle(pipe: Any) -> None:
    """Send back what waits on the accelerator after the last use, as diffusers does after a call.

    Nothing happens to a pipeline whose whole parts are not kept off it.
    """
    free = getattr(pipe, "maybe_free_model_hooks", None)
    if free is not None and getattr(pipe, "_all_hooks", None):
        free()


def weights(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the parameters and buffers of a module by name, also those that wait elsewhere.

    Raises:
        ModelError: if one has no values anywhere.
    """
    for name, value in getattr(module, "_orig_mod", module).state_dict().items():
        yield name, _waiting(module, name) if value.is_meta else value


def _waiting(module: nn.Module, name: str) -> torch.Tensor:
    """Return a weight that accelerate keeps for a layer until the layer runs."""
    path, _, leaf = name.rpartition(".")
    hook = getattr(module.get_submodule(path), "_hf_hook", None)
    kept = getattr(hook, "weights_map", None)
    if kept is None:
        raise ModelError(
            f"The weight {name!r} of {type(module).__name__} has no values: the model was built "
            "without memory and never filled. Load it anew."
        )
    value: torch.Tensor = kept[leaf]
    return value
