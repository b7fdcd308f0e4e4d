"""Edits by the million: a manifest in, pictures and one record an edit out, resumable.

`run(Run(...))` makes every edit of a manifest that is not there yet; `look(folder)` says how far a
run is. The pictures depend on the manifest alone: not on the engine, the order, the number of
workers, or how often the run was killed.
"""

from freeprompt.batch.engines import Engine, Local, Pool, RayData
from freeprompt.batch.jobs import Group, Job
from freeprompt.batch.manifest import Defaults, Reader
from freeprompt.batch.runner import Advance, Run, run
from freeprompt.batch.status import Status, look
from freeprompt.batch.stopping import Stopped
from freeprompt.batch.store import Store
from freeprompt.batch.worker import Setup

__all__ = [
    "Advance",
    "Defaults",
    "Engine",
    "Group",
    "Job",
    "Local",
    "Pool",
    "RayData",
    "Reader",
    "Run",
    "Setup",
    "Status",
    "Stopped",
    "Store",
    "look",
    "run",
]
