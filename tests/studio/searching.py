"""A layer search as `freeprompt search` writes it, with made-up scores."""

import json
from pathlib import Path

from freeprompt.analysis.search import Found, Front, candidates
from freeprompt.models import adapt
from freeprompt.models.tiny import tiny_sd

SITES = adapt(tiny_sd(), "tiny-sd").sites


def write_search(path: Path, model: str) -> None:
    """Every third candidate is on the front; among them is not the paper's choice."""
    cells = candidates(SITES, [0.4, 0.8])
    found = []
    for i, cell in enumerate(cells):
        share, best = i / len(cells), i % 3 == 0
        kept = 1 - share - (0 if best else 0.3)
        found.append(Found(cell=cell, success=share, preservation=kept, pairs=8, on_front=best))
    front = Front(
        found=tuple(found), evaluations=9, exhaustive=99, rungs=((len(cells), 8),), dominators=()
    )
    settings = {"model": model, "fingerprint": "0", "steps": 10, "guidance": 7.5, "scorer": "judge"}
    path.write_text(json.dumps({**settings, **front.to_dict()}))
