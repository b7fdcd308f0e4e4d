"""Few steps: how good the pictures are, and how well methods hold a layout.

    python benchmarks/few_steps.py OUT [--part pictures|edits|tables|all] [--prompts N] [--pairs N]

With emoji-sd, and with emoji-sd distilled by `freeprompt train lcm` (its LoRA, merged and saved as
a checkpoint of a consistency model, which is then loaded as any other). Pictures: the share whose
subject, colour and place the judge reads as the prompt says. Edits: pairs of EmojiEdit-Bench whose
source is generated, with as many steps as the edit; a third each exchange a colour, an object and
an animal. `layout` is the overlap of the subject with the source's as the judge sees both: of the
masks where the colour changes, else of their boxes. `plain` is the target's own picture from the
source's noise, so what its layout has is no merit of a method. Whatever is in OUT is not measured
again; OUT/few-steps.md is the result.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import freeprompt as fp
from freeprompt.bench import Contender, Data
from freeprompt.bench.plan import Plan
from freeprompt.bench.runner import Advance, run
from freeprompt.bench.store import Store
from freeprompt.images import to_images
from freeprompt.judge import Judge
from freeprompt.methods import Task
from freeprompt.methods.base import generated_source
from freeprompt.models import load_pipeline
from freeprompt.models.distilled import begin_at_noise
from freeprompt.train.evaluate import balanced_scenes, said

FEW, MANY = (2, 4, 8), 25
METHODS = ("fpe", "p2p", "masactrl", "pnp", "sdedit", "infedit", "turbo-edit")
CELLS = ("color", "object", "animal")
PICTURES = (
    ("distilled", 1, 1.0), ("distilled", 2, 1.0), ("distilled", 4, 1.0), ("distilled", 8, 1.0),
    ("emoji-sd", 1, 5.0), ("emoji-sd", 2, 5.0), ("emoji-sd", 4, 5.0), ("emoji-sd", 8, 5.0),
    ("emoji-sd", 30, 5.0),
)  # fmt: skip


def checkpoint(out: Path) -> Path:
    """Save emoji-sd with the LoRA merged into it, as a checkpoint of a consistency model."""
    folder = out / "emoji-sd-lcm"
    if not (folder / "model_index.json").is_file():
        pipe = load_pipeline("emoji-sd", device="cpu", lora=["lcm"])
        pipe.fuse_lora()
        pipe.unload_lora_weights()
        pipe.save_pretrained(folder)
    return folder


def editor_of(name: str, out: Path) -> fp.Editor:
    """Load one of the two; with few steps both begin at pure noise."""
    if name == "distilled":
        return fp.load(checkpoint(out), device="cpu")
    editor = fp.load("emoji-sd", device="cpu")
    begin_at_noise(editor.pipe)
    return editor


@torch.no_grad()
def drawn(editor: fp.Editor, prompts: Sequence[str], steps: int, guidance: float) -> list[Any]:
    """Draw one picture per prompt, the noise of each by its place in the list."""
    images, model = [], editor.model
    shape = model.latent_shape(model.native_size, model.native_size)
    for seed, prompt in enumerate(prompts):
        start = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        task = Task(targets=(prompt,), source=prompt, start=start, steps=steps, guidance=guidance)
        images += to_images(model.decode(generated_source(model, task).clean))
    return images


def rates(out: Path, count: int) -> list[dict[str, Any]]:
    """Measure how often a picture shows what its prompt says."""
    file, judge, scenes = out / "pictures.json", Judge.load(), balanced_scenes(count)
    rows = json.loads(file.read_text()) if file.is_file() else []
    prompts = [scene.caption() for scene in scenes]
    for name, steps, guidance in PICTURES:
        about = {"model": name, "steps": steps, "guidance": guidance, "prompts": count}
        if any(about.items() <= row.items() for row in rows):
            continue
        seen = judge.read(drawn(editor_of(name, out), prompts, steps, guidance))
        rows.append({**about, **said(seen, scenes)})
        file.write_text(json.dumps(rows, indent=1) + "\n")
        print(rows[-1], flush=True)
    return rows


def contenders(steps: int, guidance: float) -> Iterator[Contender]:
    """Yield every method as its authors have it, and the target's plain picture."""
    yield Contender(method="plain", steps=steps, guidance=guidance)
    for name in METHODS:
        if name == "turbo-edit" and steps > 8:
            continue
        # MasaCtrl begins with the fifth of 50 steps; of few steps that is the first
        given = {"start": 0} if name == "masactrl" and steps <= 8 else {}
        yield with_layers(Contender(method=name, steps=steps, guidance=guidance, parameters=given))


def plans(out: Path) -> dict[str, Plan]:
    """Return what is edited with, without the data; the first half comes first when time is up."""
    few = [c for n in (4, *(n for n in FEW if n != 4)) for c in contenders(n, 1.0)]
    many = list(contenders(MANY, 7.5))
    first = {"plain", "fpe"}
    found = {
        "few": (str(checkpoint(out)), [c for c in few if c.denoising_steps == 4]),
        "many": ("emoji-sd", [c for c in many if c.method in first]),
        "few, all": (str(checkpoint(out)), few),
        "many, all": ("emoji-sd", many),
    }
    common: dict[str, Any] = {"device": "cpu", "metrics": {"lpips": ""}}
    return {
        name: Plan(model=model, contenders=tuple(chosen), **common)
        for name, (model, chosen) in found.items()
    }


def edits(out: Path, pairs: int) -> list[dict[str, Any]]:
    """Make and score the edits, so that a run that is broken off has the same pairs of each."""
    every = plans(out)
    for names in (("few", "many"), ("few, all", "many, all")):
        for limit in range(1, pairs // len(CELLS) + 1):
            data = Data(tracks=("generated",), cells=CELLS, limit=limit)
            for name in names:
                run(replace(every[name], data=data), out / name.partition(",")[0], report=told)
    return rows_of(out)


def rows_of(out: Path) -> list[dict[str, Any]]:
    """Read what has been measured, whole or not."""
    folders = [out / "few", out / "many"]
    return [row for folder in folders if folder.is_dir() for row in Store(folder).rows()]


def with_layers(contender: Contender) -> Contender:
    """Share all layers, which is emoji-sd's default, also where the catalogue is not asked."""
    if contender.method not in ("fpe", "p2p"):
        return contender
    return replace(contender, parameters={**contender.parameters, "sites": "self:all"})


def told(advance: Advance) -> None:
    """Say how far a run is, now and then."""
    if advance.done % 40 == 0:
        print(f"{advance.done} of {advance.total} edits, {advance.errors} errors", flush=True)


def tables(pictures: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """Write both results as Markdown."""
    lines = ["| model | steps | subject | colour | place | all |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row['model']} | {row['steps']} | "
        + " | ".join(f"{100 * row[name]:.0f} %" for name in ("subject", "color", "place", "all"))
        + " |"
        for row in pictures
    ]
    found: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if not row["error"]:
            found[row["contender"]["method"], steps_of(row)].append(row["scores"])
    counts = sorted({steps for _, steps in found})
    names = [name for name in ("plain", *METHODS) if any(name == m for m, _ in found)]
    for score, what in (("layout", "layout"), ("success", "edit succeeded")):
        lines += ["", f"| {what} | " + " | ".join(f"{n} steps" for n in counts) + " |"]
        lines.append("|---|" + "---|" * len(counts))
        for name in names:
            cells = [_mean(found.get((name, n), []), score) for n in counts]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        counted = [str(len(found.get((name, n), []))) for name in names for n in counts]
        lines += ["", f"Pairs a cell, row by row: {' '.join(counted)}."]
    return "\n".join(lines) + "\n"


def steps_of(row: dict[str, Any]) -> int:
    """Return the steps of a row; a contender that has its method's own number says none."""
    steps = row["contender"]["steps"]
    return 4 if steps is None else int(steps)


def _mean(scores: list[dict[str, Any]], name: str) -> str:
    values = [s[name] for s in scores if s.get(name) is not None]
    return f"{fmean(values):.2f}" if values else "–"


def main() -> None:
    """Measure what is asked for and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", choices=("pictures", "edits", "all", "tables"), default="all")
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--pairs", type=int, default=24)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if given.part in ("edits", "all"):
        edits(given.out, given.pairs)
    if given.part in ("pictures", "all"):
        rates(given.out, given.prompts)
    file = given.out / "pictures.json"
    text = tables(json.loads(file.read_text()) if file.is_file() else [], rows_of(given.out))
    (given.out / "few-steps.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
