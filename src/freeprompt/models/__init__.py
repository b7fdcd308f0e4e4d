"""Adapters from diffusers pipelines to the core, and ways to load them.

The only package, with `freeprompt.train`, that imports diffusers and transformers, and only when
a model is built or loaded.
"""

from freeprompt.models.adapters import adapted
from freeprompt.models.catalog import CATALOG, Entry
from freeprompt.models.families import adapt
from freeprompt.models.hint_files import load_networks
from freeprompt.models.loading import load_pipeline
from freeprompt.models.memory import Memory
from freeprompt.models.offload import settle
from freeprompt.models.seam import attach, restored
from freeprompt.models.unet import UNetModel

__all__ = [
    "CATALOG",
    "Entry",
    "Memory",
    "UNetModel",
    "adapt",
    "adapted",
    "attach",
    "load_networks",
    "load_pipeline",
    "restored",
    "settle",
]
