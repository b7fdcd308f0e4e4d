"""`freeprompt invert`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from freeprompt.cli import show
from freeprompt.cli.control import Control, ControlWeight, ControlWindow, control_given
from freeprompt.cli.edit import DEFAULT_MODEL, parse_settings
from freeprompt.cli.outputs import check_file


def invert(
    image: Annotated[str, typer.Argument(help="A real image.")],
    out: Annotated[str, typer.Option("-o", "--out", help="A .safetensors file.")],
    source: Annotated[str, typer.Option(help="What the image shows, if known.")] = "",
    control: Control = None,
    control_weight: ControlWeight = None,
    control_window: ControlWindow = None,
    model: Annotated[str, typer.Option(help="Catalogue name, folder or Hub id.")] = DEFAULT_MODEL,
    method: Annotated[
        str, typer.Option(help="The method to come; some record while inverting.")
    ] = "fpe",
    inversion: Annotated[
        str | None, typer.Option(help="How noise is found.  [default: the method's own]")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Denoising steps of the edits to come.  [default: the model's]"),
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Their guidance scale.  [default: the model's]")
    ] = None,
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
    from freeprompt.models.defaults import Defaults, defaults_by_name
    from freeprompt.picture import open_image

    parameters: dict[str, Any] = dict(parse_settings(settings or []))
    check_name(out)
    check_file("-o", out, image)
    open_image(image)
    how, via = checks.resolve(method, inversion, parameters)
    usual = defaults_by_name(model) or Defaults(origin="")
    scale = checks.checked_guidance(usual.guidance if guidance is None else guidance)
    check_pair(how, via, image, inversion is not None, source, scale, negative)
    editor = load(model, device=device, dtype=dtype)
    with show.progress(not as_json) as callback:
        inverted = editor.invert(
            image,
            source=source,
            **control_given(control, control_weight, control_window),
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
    psnr, taken = inverted.psnr if reconstruct else None, inverted.trajectory.steps
    name = INVERSIONS.name_of(via)
    if as_json:
        show.print_json(
            {"file": out, "inversion": name, "steps": taken, "reconstruction_psnr": psnr}
        )
        return
    quality = "" if psnr is None else f", reconstruction {psnr:.1f} dB"
    typer.echo(f"{name}, {taken} steps{quality}")
    typer.echo(f"  {Path(out)}")
