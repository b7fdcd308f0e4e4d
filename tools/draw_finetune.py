"""Teach emoji-sd one truck from five pictures, edit to it, measure, draw docs/images/finetune.png.

Some minutes on one core: pictures of one sprite design are rendered, a LoRA and a textual inversion
are trained on them, and trucks are edited to the one that was learnt. How often the truck of an
edit is the design is counted against rendered templates of all designs of trucks; how far that
reading can be trusted, on rendered pictures themselves. What has been trained is kept in the folder
given, so a second run edits, measures and draws only.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from freeprompt.api import Editor, load
from freeprompt.api.source import start_noise
from freeprompt.finetune import EmbeddingTraining, LoraTraining, train_embedding, train_lora
from freeprompt.images import grid, to_images, write_json
from freeprompt.judge import Judge
from freeprompt.methods import Task
from freeprompt.methods.base import generated_source
from freeprompt.models import adapted
from freeprompt.world import Scene
from freeprompt.world.sprites import designs, picture

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SUBJECT, DESIGN = "truck", 2
PLACES = ("in the park", "on the beach", "in the snow", "on the street", "in the desert")
LORA = LoraTraining(
    prompt="a sks truck", class_prompt="a truck", class_count=8, steps=250, rate=5e-4
)
EMBEDDING = EmbeddingTraining(
    token="<sks>", like="truck", prompts="a {}", vectors=1, steps=300, rate=1e-2
)
GENERATED = [
    (place, seed) for place in ("in the park", "on the street", "at night") for seed in (0, 1)
]
REAL = [("on the beach", 0), ("on the street", 3)]  # place and design of rendered photographs
FPE = {"method": "fpe", "sites": "self:all", "share": 0.5, "steps": 20, "guidance": 5.0}


def subject_pictures() -> list[Image.Image]:
    """Five renderings of one design, each elsewhere."""
    layouts = [(0.5, 0.6, False), (0.4, 0.62, True), (0.6, 0.58, False), (0.5, 0.55, True)]
    layouts.append((0.55, 0.62, False))
    scenes = [
        Scene(subject=SUBJECT, design=DESIGN, place=place, x=x, y=y, flip=flip, seed=i)
        for i, (place, (x, y, flip)) in enumerate(zip(PLACES, layouts, strict=True))
    ]
    return [Image.fromarray(scene.render(128).image) for scene in scenes]


@dataclass(frozen=True)
class Template:
    """A design as large as a judge's mask says, in colour and cover."""

    design: int
    flip: bool

    def distance(self, image: np.ndarray, mask: np.ndarray) -> float:
        """Mean colour distance of the masked thing from the design, laid over its box.

        Args:
            image: (height, width, 3), 0..255.
            mask: Where the thing is.
        """
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        if len(rows) < 4 or len(columns) < 4:
            return float("inf")
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        sprite = picture(designs()[SUBJECT][self.design], None)
        drawn = sprite.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BILINEAR)
        if self.flip:
            drawn = drawn.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        values = np.asarray(drawn).astype(float)
        cover = values[..., 3:] / 255
        part = image[box[1] : box[3], box[0] : box[2]].astype(float)
        inside = mask[box[1] : box[3], box[0] : box[2], None]
        colour = np.abs(values[..., :3] - part * cover).mean(-1, keepdims=True)
        shape = np.abs(cover - inside) * 128
        return float((colour + shape).mean())


TEMPLATES = [Template(d, f) for d in range(len(designs()[SUBJECT])) for f in (False, True)]


def nearest(judge: Judge, images: Sequence[Image.Image]) -> list[int]:
    """Return the design that each picture's subject is nearest to."""
    found = []
    for image, reading in zip(images, judge.read(images), strict=True):
        pixels = np.asarray(image.convert("RGB"))
        best = min(TEMPLATES, key=lambda t: t.distance(pixels, reading.mask))
        found.append(best.design)
    return found


def instrument(judge: Judge) -> float:
    """How often the reading is right on rendered pictures of all designs."""
    count, right = len(designs()[SUBJECT]), []
    for design in range(count):
        scenes = [
            Scene(subject=SUBJECT, design=design, place=place, flip=flip, seed=100 + i)
            for i, place in enumerate(PLACES)
            for flip in (False, True)
        ]
        images = [Image.fromarray(scene.render(64).image) for scene in scenes]
        right += [found == design for found in nearest(judge, images)]
    return float(np.mean(right))


@dataclass(frozen=True)
class Way:
    """One way to bring the subject to an edit."""

    name: str
    words: str
    lora: tuple[str, ...] = ()
    embedding: tuple[str, ...] = ()


def ways(out: Path) -> list[Way]:
    """Return the ways compared."""
    lora, embedding = str(out / "sks.safetensors"), str(out / "word.safetensors")
    return [
        Way("DreamBooth LoRA", f"a sks {SUBJECT}", lora=(lora,)),
        Way("textual inversion", "a <sks>", embedding=(embedding,)),
    ]


def train(editor: Editor, out: Path, costs: dict[str, Any]) -> None:
    """Train what is not there yet, and note what it cost."""
    pictures = subject_pictures()
    for i, one in enumerate(pictures):
        one.save(out / f"subject-{i}.png")
    runs = {
        "lora": (train_lora, out / "sks.safetensors", LORA),
        "embedding": (train_embedding, out / "word.safetensors", EMBEDDING),
    }
    for name, (run, file, settings) in runs.items():
        if file.exists():
            continue
        done = run(editor.model, pictures, file, settings)
        costs[name] = {
            "steps": done.steps,
            "sample_forwards": done.sample_forwards,
            "loss_before": round(done.loss_before, 4),
            "loss_after": round(done.loss_after, 4),
            "bytes": file.stat().st_size,
        }
        print(name, costs[name], flush=True)


def photographs() -> list[Image.Image]:
    """Rendered pictures of other designs, which stand for real images."""
    scenes = [Scene(subject=SUBJECT, design=design, place=place, seed=50) for place, design in REAL]
    return [Image.fromarray(scene.render(64).image) for scene in scenes]


@torch.no_grad()
def sources(editor: Editor) -> list[Image.Image]:
    """The sources: drawn by the model as it is, and photographs."""
    drawn = []
    for place, seed in GENERATED:
        size = (editor.model.native_size,) * 2
        task = Task(
            targets=("",),
            source=f"a {SUBJECT} {place}",
            start=start_noise(editor.model, size, seed, None, None),
            steps=FPE["steps"],
            guidance=FPE["guidance"],
        )
        drawn += to_images(editor.model.decode(generated_source(editor.model, task).clean))
    return [*drawn, *photographs()]


def edits(editor: Editor, way: Way) -> list[Image.Image]:
    """Every source edited to the way's words, with FPE."""
    made = []
    with adapted(editor.pipe, lora=way.lora, embedding=way.embedding):
        for place, seed in GENERATED:
            target, source = f"{way.words} {place}", f"a {SUBJECT} {place}"
            made += editor.edit(target, source=source, seed=seed, **FPE).images
        for (place, _), photo in zip(REAL, photographs(), strict=True):
            made += editor.edit(f"{way.words} {place}", image=photo, **FPE).images
    return made


def measured(judge: Judge, images: Sequence[Image.Image]) -> dict[str, float]:
    """How many of the pictures show the design, the subject, and the place asked for."""
    places = [place for place, _ in (*GENERATED, *REAL)]
    readings = judge.read(images)
    return {
        "design": float(np.mean([found == DESIGN for found in nearest(judge, images)])),
        "subject": float(np.mean([reading.subject == SUBJECT for reading in readings])),
        "place": float(np.mean([r.place == p for r, p in zip(readings, places, strict=True)])),
    }


def drawing(rows: dict[str, list[Image.Image]]) -> Image.Image:
    """The pictures it was trained on above the sources and what each way made of them."""
    blank = Image.new("RGB", (64, 64), "white")
    count = len(GENERATED) + len(REAL)
    subject = [*subject_pictures(), *[blank] * (count - len(PLACES))]
    cells = []
    for name, images in {"trained on": subject, **rows}.items():
        cells += [(name if i == 0 else "", image) for i, image in enumerate(images)]
    return grid(cells, columns=count).reduce(2)


def main() -> None:
    """Train what is missing, then edit, measure and draw."""
    torch.set_num_threads(1)
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/finetune")
    out.mkdir(parents=True, exist_ok=True)
    editor, judge = load("emoji-sd", device="cpu"), Judge.load()
    report: dict[str, Any] = {"reading_is_right": instrument(judge), "training": {}}
    if (out / "training.json").exists():
        report["training"] = json.loads((out / "training.json").read_text(encoding="utf-8"))
    train(editor, out, report["training"])
    write_json(out / "training.json", report["training"])
    rows = {"source": sources(editor)}
    rows |= {way.name: edits(editor, way) for way in ways(out)}
    report["pictures"] = len(rows["source"])
    report["shares"] = {name: measured(judge, images) for name, images in rows.items()}
    print(json.dumps(report, indent=2))
    write_json(IMAGES / "finetune.json", report)
    drawing(rows).save(IMAGES / "finetune.png")


if __name__ == "__main__":
    main()
