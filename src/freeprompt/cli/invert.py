"""`freeprompt invert`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from freeprompt.cli import show
from freeprompt.cli.edit import DEFAULT_MODEL, parse_settings


def invert(
    image: Annotated[str, typer.Argument(help="A real image.")],
    out: Annotated[str, typer.Option("-o", "--out", help="A .safetensors file.")],
    source: Annotated[str, typer.Option(help="What the image shows, if known.")] = "",
    model: Annotated[str, typer.Option(help="Catalogue name, folder or Hub id.")] = DEFAULT_MODEL,
    method: Annotated[
        str, typer.Option(help="The method to come; some record while inverting.")
    ] = "fpe",
    inversion: Annotated[
        str | None, typer.Option(help="How noise is found.  [default: the method's own]")
    ] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps of the edits to come.")] = 50,
    guidance: Annotated[float, typer.Option(help="Their guidance scale.")] = 7.5,
    negative: Annotated[str, typer.Option(help="Their negative prompt.")] = "",
    seed: Annotated[int, typer.Option(help="Of noise that some inversions draw.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A parameter of inversion or method; repeatable."),
    ] = None,
    reconstruct: Annotated[
        bool, typer.Option(help="Measure the inversion by denoising it on its own.")
    ] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16, bfloat16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Invert an image once and save it, to edit it with `freeprompt edit --image FILE`."""
    from freeprompt.api import checks
    from freeprompt.api.pairs import check_pair
    from freeprompt.api.saved import check_name
    from freeprompt.cli.loading import load
    from freeprompt.inversion import INVERSIONS
    from freeprompt.picture import open_image

    parameters: dict[str, Any] = dict(parse_settings(settings or []))
    check_name(out)
    open_image(image)
    how, via = checks.resolve(method, inversion, parameters)
    checks.checked_guidance(guidance)
    check_pair(how, via, image, inversion is not None, source, guidance, negative)
    editor = load(model, device=device, dtype=dtype)
    with show.progress(not as_json) as callback:
        inverted = editor.invert(
            image,
            source=source,
            method=method,
            inversion=inversion,
            steps=steps,
            guidance=guidance,
            negative=negative,
            seed=seed,
            callback=callback,
            **parameters,
        )
        inverted.save(out)
        if reconstruct:
            inverted.reconstruct(callback)
    psnr = inverted.psnr if reconstruct else None
    name = INVERSIONS.name_of(via)
    if as_json:
        show.print_json(
            {"file": out, "inversion": name, "steps": steps, "reconstruction_psnr": psnr}
        )
        return
    quality = "" if psnr is None else f", reconstruction {psnr:.1f} dB"
    typer.echo(f"{name}, {steps} steps{quality}")
    typer.echo(f"  {Path(out)}")
