"""Draw the pictures of `docs/control.md` again, and measure what stands there.

    freeprompt train controlnet --run out/control/controlnet --minutes 16
    freeprompt train adapter --run out/control/adapter --minutes 14
    freeprompt train instruct --run out/control/instruct --minutes 16
    python tools/draw_control.py out/control

The weights are made by the first three commands and are not part of the package.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

import freeprompt as fp
from freeprompt.judge import Judge
from freeprompt.train.data import Seeds, scene_at
from freeprompt.train.hints import mask_image
from freeprompt.train.instruct import pair_at
from freeprompt.world import ANIMALS, Scene

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images" / "control"
MEASURED, SHOWN, EDITED = 24, 6, 16
SIDE, STEPS, GUIDANCE = 64, 20, 5.0
KINDS = ("controlnet", "adapter")


def sheet(path: Path, rows: dict[str, Sequence[Any]], captions: Sequence[str]) -> None:
    """Write labelled rows of pictures."""
    zoom, left, foot = 2 * SIDE, 104, 30
    size = (left + zoom * len(captions), zoom * len(rows) + foot)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for i, (label, pictures) in enumerate(rows.items()):
        draw.multiline_text((4, i * zoom + zoom // 2 - 8), label.replace(", ", ",\n"), fill="black")
        for k, picture in enumerate(pictures):
            big = Image.fromarray(np.asarray(picture)).resize(
                (zoom, zoom), Image.Resampling.NEAREST
            )
            canvas.paste(big, (left + k * zoom, i * zoom))
    for k, caption in enumerate(captions):
        words = caption.split()
        text = " ".join(words[:4]) + "\n" + " ".join(words[4:])
        draw.multiline_text(
            (left + k * zoom + 3, size[1] - foot + 2), text, fill="black", spacing=0
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def overlap(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return intersection over union of two masks."""
    return float((found & wanted).sum() / max(1, (found | wanted).sum()))


def mean_overlap(judge: Judge, pictures: Sequence[Any], masks: Sequence[np.ndarray]) -> float:
    """Return how well the subject that the judge finds fills the masks, on average."""
    readings = judge.read(np.stack([np.asarray(picture) for picture in pictures]))
    return round(float(np.mean([overlap(r.mask, m) for r, m in zip(readings, masks)])), 3)  # noqa: B905


def editors(runs: Path) -> dict[str, Any]:
    """Return emoji-sd alone and with each of the networks."""
    made = {"without": fp.load("emoji-sd", device="cpu")}
    for kind in KINDS:
        made[kind] = fp.load("emoji-sd", device="cpu", **{kind: [runs / kind / kind]})
    return made


def edited(editor: Any, mask: np.ndarray, target: str, seed: int, **how: Any) -> Any:
    """Edit with the mask as control image, if there is a network to read it."""
    control = {"control_image": mask_image(mask)} if editor.model.networks else {}
    plan = {"steps": STEPS, "guidance": GUIDANCE, "seed": seed, **how}
    return editor.edit(target, **control, **plan)


def generations(models: dict[str, Any], judge: Judge) -> dict[str, Any]:
    """Draw captions of new scenes, told where their subjects are."""
    scenes = [scene_at(Seeds.PROMPTS, i) for i in range(MEASURED)]
    masks = [scene.render(SIDE).mask for scene in scenes]
    captions = [scene.caption() for scene in scenes]
    rows = {}
    for name, editor in models.items():
        # strength 1 forgets the source: what is left is a plain generation
        rows[name] = [
            edited(editor, m, c, i, source=c, method="sdedit", strength=0).source
            for i, (m, c) in enumerate(zip(masks, captions, strict=True))
        ]
    pictures = {"control image": [mask_image(m) for m in masks], **rows}
    sheet(IMAGES / "generated.png", {n: p[:SHOWN] for n, p in pictures.items()}, captions[:SHOWN])
    return {name: mean_overlap(judge, made, masks) for name, made in rows.items()}


def edits(models: dict[str, Any], judge: Judge) -> dict[str, Any]:
    """Edit rendered pictures to another animal, with the source's mask as control image."""
    sources = [s for s in (scene_at(Seeds.PROMPTS + 1, i) for i in range(400)) if animal(s)]
    sources = sources[:EDITED]
    rendered = [scene.render(SIDE) for scene in sources]
    targets = [other(scene, i).caption() for i, scene in enumerate(sources)]
    rows: dict[str, list[Any]] = {
        "source": [r.image for r in rendered],
        "control image": [mask_image(r.mask) for r in rendered],
    }
    plans: dict[str, dict[str, Any]] = {"fpe": {}, "sdedit": {"strength": 0.9}}
    found: dict[str, Any] = {}
    for method, settings in plans.items():
        for name, editor in models.items():
            label = f"{method}, {name}"
            rows[label] = [
                edited(editor, r.mask, t, i, image=r.image, method=method, **settings).images[0]
                for i, (r, t) in enumerate(zip(rendered, targets, strict=True))
            ]
            found[label] = mean_overlap(judge, rows[label], [r.mask for r in rendered])
    sheet(IMAGES / "edited.png", {n: p[:SHOWN] for n, p in rows.items()}, targets[:SHOWN])
    return found


def animal(scene: Scene) -> bool:
    """Whether a scene shows an animal somewhere, drawn in no special style."""
    return scene.subject in ANIMALS and scene.place is not None and scene.style is None


def other(scene: Scene, index: int) -> Scene:
    """Return the ideal edit: another animal."""
    names = [name for name in ANIMALS if name != scene.subject]
    return scene.edited(subject=names[(7 * index) % len(names)])


def instructed(folder: Path) -> dict[str, Any]:
    """Edit rendered pictures by the caption of their ideal edit, in three ways."""
    pairs = [pair_at(Seeds.PROMPTS + 2, i) for i in range(MEASURED)]
    before, ideal = ([p[i].render(SIDE).image for p in pairs] for i in (0, 1))
    captions = [p[1].caption() for p in pairs]
    told = fp.load(folder, device="cpu")
    plain = fp.load("emoji-sd", device="cpu")
    plan: dict[str, Any] = {"steps": STEPS, "guidance": GUIDANCE}
    ours, fpe = [], []
    for i, (image, caption) in enumerate(zip(before, captions, strict=True)):
        how = {"image": image, "seed": i, **plan}
        ours.append(told.edit(caption, method="instruct-pix2pix", **how).images[0])
        fpe.append(plain.edit(caption, **how).images[0])
    rows = {"picture": before, "instruct-pix2pix": ours, "fpe, emoji-sd": fpe, "ideal": ideal}
    sheet(IMAGES / "compared.png", {n: p[:SHOWN] for n, p in rows.items()}, captions[:SHOWN])
    return {
        name: {"to the picture": apart(made, before), "to the ideal": apart(made, ideal)}
        for name, made in rows.items()
    }


def apart(made: Sequence[Any], wanted: Sequence[Any]) -> float:
    """Return the mean root-mean-square distance of pictures, in 0..255."""
    pairs = zip(made, wanted, strict=True)
    squares = [np.square(np.asarray(a, float) - np.asarray(b, float)).mean() for a, b in pairs]
    return round(float(np.mean(np.sqrt(squares))), 1)


def main() -> None:
    """Draw and measure the parts that are named, or all: edits, instruct, generations, runs."""
    if len(sys.argv) < 2:
        sys.exit(str(__doc__))
    folder, judge = Path(sys.argv[1]), Judge.load()
    parts: dict[str, Callable[[], Any]] = {
        "edits": lambda: edits(editors(folder), judge),
        "instruct": lambda: instructed(folder / "instruct" / "instruct"),
        "generations": lambda: generations(editors(folder), judge),
        "runs": lambda: {kind: trained(folder / kind) for kind in (*KINDS, "instruct")},
    }
    for name in sys.argv[2:] or parts:
        print(json.dumps({name: parts[name]()}, indent=2), flush=True)


def trained(run: Path) -> dict[str, Any]:
    """Return what a run has seen, and its last measurement."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {"images": max(e.get("images", 0) for e in lines), **lines[-1]}


if __name__ == "__main__":
    main()
