"""The public face: load a model, edit with it, keep the result."""

from freeprompt.api.editor import Editor, load
from freeprompt.api.provenance import Provenance
from freeprompt.api.result import EditResult
from freeprompt.api.source import InvertedImage
from freeprompt.api.stock import controlled

__all__ = ["EditResult", "Editor", "InvertedImage", "Provenance", "controlled", "load"]
