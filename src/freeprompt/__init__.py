"""Tuning-free text-guided image editing with Stable Diffusion, and the tools to see why it works.

Importing this package is cheap: torch, diffusers and transformers are imported when first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freeprompt import errors, methods
    from freeprompt.api import Editor, EditResult, controlled, load
    from freeprompt.api.compare import compare
    from freeprompt.api.together import together
    from freeprompt.models import Memory
    from freeprompt.pipeline import FreePromptEditingPipeline

__version__ = "0.1.0"

__all__ = [
    "EditResult",
    "Editor",
    "FreePromptEditingPipeline",
    "Memory",
    "__version__",
    "compare",
    "controlled",
    "errors",
    "load",
    "methods",
    "together",
]

_HOME = {
    "EditResult": "freeprompt.api",
    "Editor": "freeprompt.api",
    "FreePromptEditingPipeline": "freeprompt.pipeline",
    "Memory": "freeprompt.models",
    "compare": "freeprompt.api.compare",
    "controlled": "freeprompt.api",
    "load": "freeprompt.api",
    "errors": "freeprompt.errors",
    "methods": "freeprompt.methods",
    "together": "freeprompt.api.together",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'freeprompt' has no attribute {name!r}")
    module = import_module(_HOME[name])
    return module if _HOME[name] == f"freeprompt.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
