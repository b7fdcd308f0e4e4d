"""Editing methods, one file each.

`METHODS` holds them by name; each is a frozen dataclass of parameters that is called.
"""

from freeprompt.methods.base import METHODS, Method, Outcome, Task
from freeprompt.methods.fpe import FPE
from freeprompt.methods.two_branch import TwoBranch

__all__ = ["FPE", "METHODS", "Method", "Outcome", "Task", "TwoBranch"]
