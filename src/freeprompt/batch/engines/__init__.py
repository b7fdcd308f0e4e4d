"""Who makes the edits: this process, several, or a cluster. All give the same pictures."""

from freeprompt.batch.engines.base import Engine, Hands
from freeprompt.batch.engines.local import Local
from freeprompt.batch.engines.pool import Pool
from freeprompt.batch.engines.ray import RayData

__all__ = ["Engine", "Hands", "Local", "Pool", "RayData"]
