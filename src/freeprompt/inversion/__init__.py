"""Inversions: from an image to the noise it would come from, as a `Trajectory`.

`INVERSIONS` holds them by name; each is a frozen dataclass of parameters that is called.
"""

from freeprompt.inversion.base import INVERSIONS, Inversion
from freeprompt.inversion.ddim import DDIMInversion
from freeprompt.inversion.reconstruct import reconstruct

__all__ = ["INVERSIONS", "DDIMInversion", "Inversion", "reconstruct"]
