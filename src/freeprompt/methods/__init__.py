"""Editing methods, one file each.

`METHODS` holds them by name; each is a frozen dataclass of parameters that is called.
"""

from freeprompt.methods.base import METHODS, Method, Outcome, Task
from freeprompt.methods.diffedit import DiffEdit
from freeprompt.methods.edit_friendly import EditFriendly
from freeprompt.methods.fpe import FPE
from freeprompt.methods.fpe_protect import ProtectedFPE
from freeprompt.methods.imagic import Imagic
from freeprompt.methods.infedit import InfEdit
from freeprompt.methods.instruct_pix2pix import InstructPix2Pix
from freeprompt.methods.ledits import LEdits
from freeprompt.methods.masactrl import MasaCtrl
from freeprompt.methods.p2p import P2P
from freeprompt.methods.pix2pix_zero import Pix2PixZero
from freeprompt.methods.pnp import PnP
from freeprompt.methods.sdedit import SDEdit
from freeprompt.methods.turbo_edit import TurboEdit
from freeprompt.methods.two_branch import TwoBranch

__all__ = [
    "FPE",
    "METHODS",
    "P2P",
    "DiffEdit",
    "EditFriendly",
    "Imagic",
    "InfEdit",
    "InstructPix2Pix",
    "LEdits",
    "MasaCtrl",
    "Method",
    "Outcome",
    "Pix2PixZero",
    "PnP",
    "ProtectedFPE",
    "SDEdit",
    "Task",
    "TurboEdit",
    "TwoBranch",
]
