"""What `FPE(record="inversion")` changes in a real image's edit, against the default.

    python benchmarks/recording.py [--model NAME] [--steps N] [--sites SITES] [--json FILE]

Taping queries and keys while inverting saves the source's rows, but the network saw them one noise
level nearer to the image than the step that uses them. This measures what that does. Rendered
scenes of the Emoji World are edited towards a prompt with one attribute changed, by the default
(the source runs beside the target) and from the tape; both also with fixed-point iterations in the
inversion, where what the tape holds was seen almost at the right place.

latents      PSNR in dB of the taped edit's last latent against the default's, the peak being the
             default's range of values
pictures     PSNR in dB of the pictures, 8-bit, at the model's size
unshared     for comparison, the same of an edit with sites="none" against the default: how much
             there is to get wrong
ideal        PSNR in dB of the picture against the ideal edit, which the renderer knows: default's,
             then taped
forwards     sample-forwards of the default, then taped

The last row is the mean of the decibels. Seeds are fixed; on one machine the figures repeat.
Without trained weights they mean nothing: tiny-sd draws noise.
"""

import warnings
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import freeprompt as fp
from common import Report, one_thread, parser
from freeprompt.core.loop import Progress
from freeprompt.errors import FreepromptWarning
from freeprompt.images import psnr
from freeprompt.models.catalog import CATALOG
from freeprompt.world import Scene, parse_scene

EDITS: tuple[tuple[str, dict[str, str]], ...] = (
    ("a red car on the street", {"color": "blue"}),
    ("a yellow umbrella on the beach", {"color": "purple"}),
    ("a green teapot in the park", {"color": "orange"}),
    ("a dog in the park", {"subject": "cat"}),
    ("a horse in the snow", {"subject": "zebra"}),
    ("a blue bus in the desert", {"place": "in the snow"}),
)
ITERATIONS = (0, 3)


@dataclass(frozen=True)
class Edited:
    """One edit: the target's last latent, its picture, and what it cost."""

    latent: Tensor
    picture: Image.Image
    forwards: int


def edit(
    editor: fp.Editor, image: Image.Image, target: str, steps: int, **parameters: Any
) -> Edited:
    """Edit a real image, keeping the last latent."""
    last: list[Tensor] = []

    def keep(progress: Progress) -> None:
        if progress.phase == "edit":
            last[:] = [progress.state["target"]]

    result = editor.edit(target, image=image, steps=steps, callback=keep, **parameters)
    return Edited(last[0], result.images[0], result.provenance.sample_forwards)


def latent_psnr(found: Tensor, right: Tensor) -> float:
    """PSNR in dB, the peak being the range of `right`."""
    error = (found.double() - right.double()).square().mean()
    return float(10 * torch.log10((right.max() - right.min()).double() ** 2 / error))


def compare(
    editor: fp.Editor, scene: Scene, change: dict[str, str], steps: int, shared: dict[str, str]
) -> list[Any]:
    """Return one row for each number of fixed-point iterations; `shared` may name the layers."""
    side = editor.model.native_size
    image, wanted = (Image.fromarray(s.render(side).image) for s in (scene, scene.edited(**change)))
    target = scene.edited(**change).caption()
    return [
        {
            "edit": f"{scene.caption()} → {target}",
            "iterations": iterations,
            **_row(editor, image, wanted, target, steps, {"iterations": iterations, **shared}),
        }
        for iterations in ITERATIONS
    ]


def _row(
    editor: fp.Editor,
    image: Image.Image,
    wanted: Image.Image,
    target: str,
    steps: int,
    settings: dict[str, Any],
) -> dict[str, float | int]:
    default = edit(editor, image, target, steps, **settings)
    taped = edit(editor, image, target, steps, record="inversion", **settings)
    with warnings.catch_warnings(action="ignore", category=FreepromptWarning):
        unshared = edit(editor, image, target, steps, **{**settings, "sites": "none"})
    return {
        "latents": latent_psnr(taped.latent, default.latent),
        "pictures": psnr(taped.picture, default.picture),
        "unshared latents": latent_psnr(unshared.latent, default.latent),
        "unshared pictures": psnr(unshared.picture, default.picture),
        "ideal, default": psnr(default.picture, wanted),
        "ideal, taped": psnr(taped.picture, wanted),
        "forwards, default": default.forwards,
        "forwards, taped": taped.forwards,
    }


def mean_of(rows: list[dict[str, Any]], iterations: int) -> dict[str, Any]:
    """Return the mean row of one number of iterations."""
    mine = [row for row in rows if row["iterations"] == iterations]
    means = {k: fmean(row[k] for row in mine) for k in mine[0] if k not in ("edit", "iterations")}
    return {"edit": "mean", "iterations": iterations, **means}


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: round(value, 1) if isinstance(value, float) else value for name, value in row.items()
    }


def main() -> None:
    """Run the benchmark."""
    embedded = "emoji-sd" if CATALOG["emoji-sd"].embedded else "tiny-sd"
    options = parser(__doc__)
    options.add_argument("--model", default=embedded, help=f"name, folder or Hub id ({embedded})")
    options.add_argument("--steps", type=int, default=50, metavar="N", help="denoising steps (50)")
    options.add_argument("--sites", help="layers that are shared (the model's own)")
    given = options.parse_args()
    one_thread()
    editor = fp.load(given.model, device="cpu", dtype="float32")
    shared = {} if given.sites is None else {"sites": given.sites}
    rows = []
    for seed, (prompt, change) in enumerate(EDITS):
        rows += compare(editor, parse_scene(prompt, seed=seed), change, given.steps, shared)
    report = Report()
    means = [mean_of(rows, iterations) for iterations in ITERATIONS]
    shown = [_rounded(row) for row in (*rows, *means)]
    report.add(f"record=inversion against the default, {given.model}, {given.steps} steps", shown)
    report.write(given.json)


if __name__ == "__main__":
    main()
