"""Inversions: from an image to the noise it would come from, as a `Trajectory`.

`INVERSIONS` holds them by name; each is a frozen dataclass of parameters that is called.
"""

from freeprompt.inversion.base import INVERSIONS, Inversion
from freeprompt.inversion.ddim import DDIMInversion
from freeprompt.inversion.edit_friendly import EditFriendlyInversion
from freeprompt.inversion.negative_prompt import NegativePromptInversion
from freeprompt.inversion.null_text import NullTextInversion
from freeprompt.inversion.reconstruct import reconstruct, reconstruction_cost
from freeprompt.inversion.regularised import RegularisedInversion

__all__ = [
    "INVERSIONS",
    "DDIMInversion",
    "EditFriendlyInversion",
    "Inversion",
    "NegativePromptInversion",
    "NullTextInversion",
    "RegularisedInversion",
    "reconstruct",
    "reconstruction_cost",
]
