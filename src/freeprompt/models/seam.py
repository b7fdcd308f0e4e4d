"""The one seam into attention, and the one function that installs and restores anything.

A delegating processor stands around each attention module's own processor, put in place through
the public `set_attn_processor`. The inner processor keeps doing projections, norms, LoRA, fused
QKV and IP-Adapter tokens; while it runs, a thread-local `TorchFunctionMode` intercepts
`F.scaled_dot_product_attention`, and that is where `attend` is called. No copy of an attention
processor exists in this project.
"""

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from freeprompt.core import Call, Control, Rows, Run, Runs, Site
from freeprompt.errors import AlreadyAttached, UnsupportedModel


class AttentionHost(Protocol):
    """The part of a diffusers denoiser that the seam uses."""

    @property
    def attn_processors(self) -> dict[str, Any]:
        """Processors by module path."""

    def set_attn_processor(self, processor: dict[str, Any]) -> None:
        """Replace processors; empties the dict that it is given."""

    def get_submodule(self, target: str) -> nn.Module:
        """Return a module by path."""


_attached: "WeakSet[Any]" = WeakSet()
_held: "WeakKeyDictionary[Any, int]" = WeakKeyDictionary()  # by the thread that trains it
_lock = threading.Lock()


@contextmanager
def attach(
    denoiser: AttentionHost,
    known: Sequence[Site],
    controls: Sequence[Control],
    rows: Rows,
    name: str,
) -> Iterator[Run]:
    """Install controls into a denoiser for the length of a with-block.

    On the way out, also after an exception, every processor is the same object as before and no
    hook is left. At a clean end, a control that should have acted and did not raises.

    Args:
        denoiser: The network.
        known: All its sites.
        controls: What to install, in order.
        rows: Batch layout of the run.
        name: The model's name, for messages.

    Raises:
        AlreadyAttached: if controls are attached to this network now, by any thread.
        ControlNeverFired: if a selection is empty, or a control never acted.
        UnsupportedModel: if attention at a chosen site bypasses `F.scaled_dot_product_attention`.
    """
    denoiser = getattr(denoiser, "_orig_mod", denoiser)  # what torch.compile has wrapped
    run = Run(controls, rows, known, name)
    with _exclusively(denoiser, name), ExitStack() as undo:
        _install_processors(denoiser, run, undo, name)
        _install_features(denoiser, run, undo, name)
        yield run
    run.finish()


@contextmanager
def attach_several(denoiser: AttentionHost, known: Sequence[Site], name: str) -> Iterator[Runs]:
    """Install the controls of several runs, which come and go, for the length of a with-block.

    Every site gets its wrapper once; who is in a pass is said by `Runs.at`. Runs are finished by
    those who made them.

    Args:
        denoiser: The network.
        known: All its sites.
        name: The model's name, for messages.

    Raises:
        AlreadyAttached: if controls are attached to this network now, by any thread.
    """
    denoiser = getattr(denoiser, "_orig_mod", denoiser)
    runs = Runs(known)
    with _exclusively(denoiser, name), ExitStack() as undo:
        _install_processors(denoiser, runs, undo, name)
        _install_features(denoiser, runs, undo, name)
        yield runs


@contextmanager
def held(denoiser: Any, name: str) -> Iterator[None]:
    """Keep a network for this thread alone: it may attach to it, and no other may.

    Raises:
        AlreadyAttached: if it is attached to or kept already.
    """
    with _lock:
        if denoiser in _attached or denoiser in _held:
            raise in_use(name)
        _held[denoiser] = threading.get_ident()
    try:
        yield
    finally:
        with _lock:
            del _held[denoiser]


@contextmanager
def _exclusively(denoiser: AttentionHost, name: str) -> Iterator[None]:
    with _lock:
        here = threading.get_ident()
        if denoiser in _attached or _held.get(denoiser, here) != here:
            raise in_use(name)
        _attached.add(denoiser)
    try:
        yield
    finally:
        with _lock:
            _attached.discard(denoiser)


def in_use(name: str) -> AlreadyAttached:
    """Return the error of a model that is taken."""
    return AlreadyAttached(
        f"Controls are already attached to {name!r}. One model holds one set of controls "
        "at a time: finish that run first, queue this one, or load a second copy."
    )


def _install_processors(
    denoiser: AttentionHost, run: Run | Runs, undo: ExitStack, name: str
) -> None:
    sites = [site for site in run.sites if site.kind != "feature"]
    if not sites:
        return
    saved = dict(denoiser.attn_processors)
    undo.callback(lambda: denoiser.set_attn_processor(dict(saved)))
    chosen = {f"{site.path}.processor": site for site in sites}
    denoiser.set_attn_processor(
        {
            path: delegate(inner, chosen[path], run, name) if path in chosen else inner
            for path, inner in saved.items()
        }
    )


def _install_features(denoiser: AttentionHost, run: Run | Runs, undo: ExitStack, name: str) -> None:
    for site in run.sites:
        if site.kind == "feature":
            handle = denoiser.get_submodule(site.path).register_forward_hook(_feature(site, run))
            undo.callback(handle.remove)


def _feature(site: Site, run: Run | Runs) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        return run.featured(site, out)

    return hook


def delegate(inner: Any, site: Site, run: Run | Runs, name: str) -> Any:
    """Wrap one attention module's own processor."""
    kind: Any = type(inner)
    return _delegate_class(kind, isinstance(inner, nn.Module))(inner, site, run, name)


@cache
def _delegate_class(inner: Any, is_module: bool) -> type:
    """Return the wrapper class for one kind of processor.

    diffusers drops keyword arguments that the processor's `__call__` does not name, so the wrapper
    carries the inner signature; and a processor with weights of its own (IP-Adapter) must stay a
    registered submodule, so its wrapper is a module too.
    """

    class Delegate(nn.Module if is_module else object):  # type: ignore[misc]
        def __init__(self, inner: Any, site: Site, run: Run | Runs, name: str):
            super().__init__()
            self.inner, self.site, self.run, self.name = inner, site, run, name
            self.mode = _Interceptor(site, run, name)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            if not self.run.live[self.site]:
                return self.inner(*args, **kwargs)
            self.mode.before = len(self.run.hits)
            with self.mode:
                out = self.inner(*args, **kwargs)
            if len(self.run.hits) == self.mode.before:
                raise UnsupportedModel(
                    f"{type(self.inner).__name__} at {self.site.name} of {self.name!r} computes "
                    "attention without F.scaled_dot_product_attention, so nothing can be edited "
                    "there. Go back to diffusers' default: pipe.disable_attention_slicing(), "
                    "pipe.disable_xformers_memory_efficient_attention(), or "
                    "pipe.unet.set_attn_processor(AttnProcessor2_0())."
                )
            return out

    Delegate.__call__.__signature__ = inspect.signature(inner.__call__)  # type: ignore[attr-defined]
    return Delegate


class _Interceptor(TorchFunctionMode):
    """Sends the fused attention calls of one processor call through `attend`.

    It is made once a site and run, and keeps no state but `before`, the number of hits when the
    processor was entered: torch.compile loses what a mode that is made in a graph counts itself.
    """

    def __init__(self, site: Site, run: Run | Runs, name: str):
        super().__init__()
        self.site, self.run, self.name = site, run, name
        self.before = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # a second attention in one module is an IP-Adapter's, to image tokens: not the text's
        first = len(self.run.hits) == self.before
        if func is not F.scaled_dot_product_attention or not first:
            return func(*args, **(kwargs or {}))
        return self.run.attended(self.site, self._call(*args, **(kwargs or {})))

    def _call(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **options: Any,
    ) -> Call:
        grid = self.site.grid(*self.run.latent_size)
        if query.shape[2] != grid[0] * grid[1] or query.shape[0] != self.run.count:
            raise UnsupportedModel(
                f"Attention at {self.site.name} of {self.name!r} has {tuple(query.shape)} queries "
                f"(batch, heads, tokens, head_dim); expected {self.run.count} rows of a "
                f"{grid[0]}x{grid[1]} grid. Token merging and similar patches cannot be edited."
            )
        return Call(
            site=self.site,
            run=self.run,  # type: ignore[arg-type]  # of several, each gets its own
            q=query,
            k=key,
            v=value,
            mask=attn_mask,
            scale=scale,
            grid=grid,
            options={"dropout_p": dropout_p, "is_causal": is_causal, **options},
        )


def restored(denoiser: AttentionHost) -> bool:
    """Return whether no delegate is installed and nothing is attached."""
    denoiser = getattr(denoiser, "_orig_mod", denoiser)
    names = {type(processor).__name__ for processor in denoiser.attn_processors.values()}
    return denoiser not in _attached and "Delegate" not in names
