"""The judge: a small network, trained on rendered scenes only, that reads generated images."""

from freeprompt.judge.color import delta_e
from freeprompt.judge.judge import Judge, Reading

__all__ = ["Judge", "Reading", "delta_e"]
