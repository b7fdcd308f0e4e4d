"""A small data set and its manifest, and what is compared of two runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from freeprompt.batch import Defaults, Run, Setup

MEASURED = ("seconds",)
TARGETS = ("a red cat", "a blue car", "a dog")
EDITS = 17  # of `write_data`
BAD = 1  # of them


def write_data(folder: Path) -> Path:
    """Write four pictures and a manifest of every kind of row; return the manifest."""
    rng = np.random.default_rng(0)
    for i in range(4):
        pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    rows: list[dict[str, Any]] = [
        {"id": f"{i}/{t}", "image": f"{i}.png", "target": t} for t in TARGETS for i in range(4)
    ]
    rows += [
        {"id": "generated", "source": "a red dog", "targets": ["a blue cat", "a car"]},
        {
            "id": "noises",
            "image": "0.png",
            "source": "a red dog",
            "target": "a cat",
            "method": "edit-friendly",
        },
        {"id": "drawn", "image": "1.png", "target": "a cat", "method": "sdedit", "_label": 3},
        {"id": "gone", "image": "gone.png", "target": "a cat"},
    ]
    return write_rows(folder / "manifest.jsonl", rows)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def asked(manifest: Path, model: Path, out: Path, batch: int = 2, **changes: Any) -> Run:
    """Return what to do: two steps on the CPU, two targets of one image in a batch."""
    setup = Setup(model=str(model), device="cpu", batch=batch, metrics=("psnr",), threads=1)
    values: dict[str, Any] = {
        "manifest": str(manifest),
        "out": out,
        "setup": setup,
        "defaults": Defaults(steps=2, guidance=3.0),
        "together": 1,
    }
    return Run(**{**values, **changes})


def asked_together(manifest: Path, model: Path, out: Path, **changes: Any) -> Run:
    """Return the same, with two images side by side."""
    return asked(manifest, model, out, batch=6, together=2, **changes)


def results(out: Path) -> list[dict[str, Any]]:
    """Return the results without what differs from run to run."""
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [{n: v for n, v in row.items() if n not in MEASURED} for row in rows]


def pictures(out: Path) -> dict[str, bytes]:
    """Return all files of the pictures with their bytes."""
    files = sorted(path for path in (out / "images").rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def journalled(out: Path) -> list[str]:
    """Names of all edits that were ever recorded, as often as they were."""
    lines = [
        line
        for path in sorted(out.glob("journal/part-*"))
        for line in path.read_text().splitlines()
    ]
    return [row["id"] for line in lines for row in json.loads(line)["rows"]]


def strays(out: Path) -> list[Path]:
    """Files that no finished run leaves: drafts and reserves."""
    return [path for path in out.rglob(".*") if path.is_file()]


def same(out: Path, other: Path) -> None:
    """Check that two finished runs have the same pictures and results."""
    for mine, others in zip(results(out), results(other), strict=True):
        assert mine == others
    assert pictures(out) == pictures(other)
    assert strays(out) == []
