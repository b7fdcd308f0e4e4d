"""What every test runs under: one thread, no network, and shapes checked in the core."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from jaxtyping import install_import_hook

import freeprompt

torch.set_num_threads(1)

# The modules of the core that import jaxtyping promise shapes; the others would gain nothing
# and hold what beartype cannot check from a function alone (`Self`).  `model` and `loop` name the
# protocols `Model` and `Schedule`: those are for static checkers, not runtime_checkable.
UNCHECKED = {"model", "loop"}
CORE = Path(freeprompt.__file__).with_name("core")
CHECKED = {p.stem for p in CORE.glob("*.py") if "from jaxtyping" in p.read_text(encoding="utf-8")}

# It must come before the first import of the core, so it stands here and not in a fixture; each
# worker of xdist reads this file before it collects, so it holds there as well.
HOOKED = [f"freeprompt.core.{name}" for name in sorted(CHECKED - UNCHECKED)]
install_import_hook(HOOKED, "beartype.beartype")
