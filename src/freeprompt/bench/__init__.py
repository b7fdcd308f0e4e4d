"""The scoreboard: edits against exact truth, the field's metrics and data sets, what edits cost.

`run` makes and scores every edit of a plan and can be killed and called again; `build` turns the
results into a report. `freeprompt bench` does both; `docs/benchmark.md` explains the figures.
"""

from freeprompt.bench.contenders import BASELINES, Contender
from freeprompt.bench.datasets import DATASETS, load_dataset
from freeprompt.bench.items import Dataset, Item, SceneItem
from freeprompt.bench.plan import Data, Plan, find_plan, read_plan, shipped_plans
from freeprompt.bench.report import build
from freeprompt.bench.runner import run
from freeprompt.bench.store import Store
from freeprompt.bench.table import Results

__all__ = [
    "BASELINES",
    "DATASETS",
    "Contender",
    "Data",
    "Dataset",
    "Item",
    "Plan",
    "Results",
    "SceneItem",
    "Store",
    "build",
    "find_plan",
    "load_dataset",
    "read_plan",
    "run",
    "shipped_plans",
]
