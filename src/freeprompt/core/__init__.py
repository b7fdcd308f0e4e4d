"""The editing core: pure torch, no model library, six nouns and one loop.

`Site`/`Sites` say where, `Window` says when, `Rows` says which batch row is what, `Call` is one
attention evaluation, `Control` is what an edit or an observation does to it, `denoise` is the loop.
"""

from freeprompt.core.attention import Call, attend
from freeprompt.core.control import Control, MapStore, Record, Share, ShareFeature
from freeprompt.core.loop import Denoised, Progress, denoise
from freeprompt.core.model import Model
from freeprompt.core.rows import PAIR, SOURCE, TARGET, TRIPLE, Row, Rows, Text
from freeprompt.core.run import Run
from freeprompt.core.runs import Runs
from freeprompt.core.schedule import DDIM, Schedule
from freeprompt.core.sites import Site, Sites
from freeprompt.core.stochastic import Stochastic
from freeprompt.core.tape import Tape
from freeprompt.core.trajectory import Trajectory
from freeprompt.core.window import Window, step_count

__all__ = [
    "DDIM",
    "PAIR",
    "SOURCE",
    "TARGET",
    "TRIPLE",
    "Call",
    "Control",
    "Denoised",
    "MapStore",
    "Model",
    "Progress",
    "Record",
    "Row",
    "Rows",
    "Run",
    "Runs",
    "Schedule",
    "Share",
    "ShareFeature",
    "Site",
    "Sites",
    "Stochastic",
    "Tape",
    "Text",
    "Trajectory",
    "Window",
    "attend",
    "denoise",
    "step_count",
]
