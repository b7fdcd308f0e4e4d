"""Options that every command has which loads a model, in one place."""

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from freeprompt.api import Editor

_chosen: ContextVar[dict[str, Any] | None] = ContextVar("chosen", default=None)


def _options(
    lora: Annotated[
        list[str] | None,
        typer.Option(help="A LoRA to add: FILE, FILE:WEIGHT, or lcm for few steps; repeatable."),
    ] = None,
    embedding: Annotated[
        list[str] | None,
        typer.Option(help="A textual inversion to add: TOKEN=FILE, or FILE; repeatable."),
    ] = None,
    controlnet: Annotated[
        list[str] | None,
        typer.Option(help="A ControlNet: folder, single file or Hub id; repeatable."),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="A T2I-Adapter: folder, single file or Hub id; repeatable."),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="Kind of weight files of a folder or Hub id, e.g. fp16.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(help="Configs for a single file: a folder, or sd1, sd2, sd2-base, sdxl."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Keep to models downloaded before.")
    ] = False,
    allow_pickle: Annotated[
        bool,
        typer.Option("--allow-pickle", help="Read .ckpt, .bin and .pt files: their tensors alone."),
    ] = False,
) -> None:
    """Carry the options; never called."""


def _memory(
    offload: Annotated[
        str | None,
        typer.Option(help="What waits on the CPU: none, model (parts), sequential (layers)."),
    ] = None,
    at_once: Annotated[
        int | None, typer.Option(help="Targets denoised side by side; 0 for as many as fit.")
    ] = None,
    attention_mib: Annotated[
        int | None,
        typer.Option(help="MiB of attention scores at a time where torch has no fused kernel."),
    ] = None,
    vae_tiling: Annotated[
        bool | None, typer.Option("--vae-tiling", help="Decode large pictures in tiles.")
    ] = None,
    channels_last: Annotated[
        bool | None, typer.Option("--channels-last", help="Weights with channels last.")
    ] = None,
    compile: Annotated[
        bool | None, typer.Option("--compile", help="Compile the network with torch.compile.")
    ] = None,
    step_down: Annotated[
        bool | None,
        typer.Option(
            "--step-down/--no-step-down",
            help="Try again with less at a time when memory runs out.  [default: step-down]",
        ),
    ] = None,
) -> None:
    """Carry the fields of `models.memory.Memory`, which a test compares; never called."""


MEMORY = inspect.signature(_memory).parameters
SHARED = {**inspect.signature(_options).parameters, **MEMORY}


def loads_model(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of loading; its calls of `load` will heed them."""

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        mine = {name: given.pop(name) for name in SHARED}
        token = _chosen.set(
            {name: v for name, v in mine.items() if v is not None and (name in MEMORY or _said(v))}
        )
        try:
            command(**given)
        finally:
            _chosen.reset(token)

    own = inspect.signature(command)
    parameters = [*own.parameters.values(), *SHARED.values()]
    with_options.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {
        **command.__annotations__,
        **_options.__annotations__,
        **_memory.__annotations__,
    }
    return with_options


def _said(value: Any) -> bool:
    """Whether an option was given, be it an empty text."""
    return value is not False and value != []


def told(name: str) -> Any:
    """Return what the running command was told by an option of loading; None for nothing."""
    return (_chosen.get() or {}).get(name)


def choose(**options: Any) -> None:
    """Tell the running command options of loading, instead of those it was given."""
    _chosen.set({**(_chosen.get() or {}), **options})


def load(model: str, *, device: str = "auto", dtype: str = "auto", **usual: Any) -> "Editor":
    """Load a model as the running command was told to; `usual` counts where it was not.

    Raises:
        FreepromptError: as `freeprompt.load` does.
    """
    from freeprompt.api import load

    return load(model, device=device, dtype=dtype, **chosen(**usual))


def chosen(**usual: Any) -> dict[str, Any]:
    """Return what the running command was told of loading, for who loads in another process."""
    from freeprompt.models import Memory

    found = {**usual, **(_chosen.get() or {})}
    memory = Memory(**{name: found.pop(name) for name in MEMORY if name in found})
    return {**found, "memory": memory}
