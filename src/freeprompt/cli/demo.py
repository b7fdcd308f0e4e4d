"""`freeprompt demo`: the main job, once on a generated image and once on a real image file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freeprompt.cli import show
from freeprompt.cli.edit import defaults_line

if TYPE_CHECKING:
    from PIL import Image

    from freeprompt.api import EditResult

GENERATED = ("a dog standing in the park", "a rabbit standing in the park")
REAL = "a red car on the street"
REAL_TARGETS = ("a blue car on the street", "a red bus on the street")


def demo(
    out: Annotated[str, typer.Option("-o", "--out", help="Folder.")] = "out/demo",
    model: Annotated[
        str | None, typer.Option(help="Catalogue name, folder or Hub id.  [default: emoji-sd]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the generated source.")] = 7,
) -> None:
    """Edit a generated image and a real image file with the embedded model."""
    from PIL import Image

    from freeprompt.api import load
    from freeprompt.api.source import checked_seed
    from freeprompt.images import save_png
    from freeprompt.models import CATALOG
    from freeprompt.world import parse_scene

    checked_seed(seed)
    if model is None and not CATALOG["emoji-sd"].embedded:
        typer.echo("emoji-sd is not part of this installation: using tiny-sd, which draws noise.")
        model = "tiny-sd"
    folder = Path(out)
    editor = load("emoji-sd" if model is None else model)
    photo = folder / "car.png"
    save_png(Image.fromarray(parse_scene(REAL, seed=seed).render(256).image), photo, {})
    with show.progress() as callback:
        source, target = GENERATED
        more: dict[str, Any] = {"callback": callback}
        generated = editor.edit(target, source=source, seed=seed, **more)
        real = editor.edit(list(REAL_TARGETS), image=photo, **more)
        if real.inverted is not None:
            real.inverted.reconstruct(callback)
    for name, result in (("generated", generated), ("real", real)):
        result.save(folder / name)
    save_png(_stack(generated, real), folder / "demo.png", {})
    _report(generated, real, folder)


def _stack(*results: "EditResult") -> "Image.Image":
    """Return the side-by-sides of several results below each other."""
    from PIL import Image

    rows = [result.side_by_side() for result in results]
    sheet = Image.new("RGB", (max(r.width for r in rows), sum(r.height for r in rows)), "white")
    y = 0
    for row in rows:
        sheet.paste(row, (0, y))
        y += row.height
    return sheet


def _report(generated: "EditResult", real: "EditResult", folder: Path) -> None:
    for what, result in (("generated image", generated), ("real image file", real)):
        p = result.provenance
        typer.echo(
            f"{what}: {' | '.join(p.targets)}  ({p.sample_forwards} sample-forwards, "
            f"{p.seconds:.1f} s)"
        )
    typer.echo(defaults_line(generated.provenance.defaults))
    typer.echo(f"inversion of the real image: {real.reconstruction_psnr:.1f} dB")
    typer.echo(f"side by side: {folder / 'demo.png'}")
