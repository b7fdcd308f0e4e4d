"""`freeprompt edit`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freeprompt.cli import show
from freeprompt.errors import ConfigError, FreepromptWarning

if TYPE_CHECKING:
    from freeprompt.api import Editor, EditResult, Provenance

DEFAULT_MODEL = "emoji-sd"


def edit(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Target prompts; all share the source.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Prompt of the source; optional with --image.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="A real image to edit.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help=f"Catalogue name, folder or Hub id.  [default: {DEFAULT_MODEL}]"),
    ] = None,
    method: Annotated[str | None, typer.Option(help="Editing method.  [default: fpe]")] = None,
    inversion: Annotated[
        str | None, typer.Option(help="How a real image becomes noise.  [default: ddim]")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.  [default: 50]")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.  [default: 7.5]")] = None,
    negative: Annotated[str | None, typer.Option(help="Negative prompt.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A parameter of the method, e.g. share=0.8; repeatable."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the start noise.  [default: 0]")] = None,
    width: Annotated[int | None, typer.Option(help="Of a generated image, in pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Of a generated image, in pixels.")] = None,
    native: Annotated[
        bool, typer.Option("--native", help="Keep the size that the model worked at.")
    ] = False,
    out: Annotated[
        str, typer.Option("-o", "--out", help="Folder, or a .png file for a single target.")
    ] = "out",
    again: Annotated[
        str | None, typer.Option("--from", help="Make a saved picture again, from what it carries.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="auto, float32, float16, bfloat16.")] = None,
    reconstruct: Annotated[
        bool,
        typer.Option(help="Measure the inversion of a real image by denoising it on its own."),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Edit a generated image (--source) or a real one (--image) towards each TARGET."""
    from freeprompt.api import load

    asked = {
        "source": source,
        "method": method,
        "inversion": inversion,
        "steps": steps,
        "guidance": guidance,
        "negative": negative,
        "seed": seed,
        "width": width,
        "height": height,
        **parse_settings(settings or []),
    }
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    check_out(out, image, len(targets or ()))
    if again is None:
        editor = load(model or DEFAULT_MODEL, device=device, dtype=dtype or "auto")
        given |= {"image": image, "native": native}
        result = _run(editor, as_json, reconstruct, targets or [], **given)
    else:
        if targets or native or given:
            raise ConfigError(
                "--from brings prompts and all settings with it. Only --image, --model, --device, "
                "--dtype, -o and --json go together with it."
            )
        result = _repeat(again, image, model, device, dtype, as_json, reconstruct)
    files = result.save(out)
    _report(result, files, as_json)


def parse_settings(settings: list[str]) -> dict[str, str]:
    """Read `name=value` items.

    Raises:
        ConfigError: for an item without `=`.
    """
    pairs = {}
    for item in settings:
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set takes name=value, such as share=0.8; got {item!r}.")
        pairs[name.strip()] = value.strip()
    return pairs


def check_out(out: str, image: str | None, targets: int) -> None:
    """Check before any work that the result can go where it should.

    Raises:
        ConfigError: if it would replace the input, or does not fit.
    """
    path = Path(out)
    if image is not None and path.exists() and Path(image).exists() and path.samefile(image):
        raise ConfigError(f"-o {out!r} is the input image itself. Choose another name.")
    if path.suffix.lower() == ".png":
        if targets > 1:
            raise ConfigError(
                f"{targets} targets do not fit into one file ({out!r}): give a folder."
            )
    elif path.exists() and not path.is_dir():
        raise ConfigError(f"-o {out!r} is a file that is no .png. Give a folder or a .png name.")


def _run(
    editor: "Editor", as_json: bool, reconstruct: bool, targets: list[str], **arguments: Any
) -> "EditResult":
    with show.progress(not as_json) as callback:
        result = editor.edit(targets, callback=callback, **arguments)
        if reconstruct and result.inverted is not None:
            result.inverted.reconstruct(callback)
    return result


def _repeat(
    png: str,
    image: str | None,
    model: str | None,
    device: str,
    dtype: str | None,
    as_json: bool,
    reconstruct: bool,
) -> "EditResult":
    from freeprompt.api import Provenance, load

    recipe = Provenance.from_png(png)
    if recipe.image_sha256 is not None:
        recipe = replace(recipe, image=_find_image(recipe, Path(png), image))
    elif recipe.seed is None:
        raise ConfigError(
            f"{png!r} was made from noise that its maker supplied, which it does not carry. "
            "It can be made again only in Python, with the same latents or generator."
        )
    editor = load(model or recipe.model, device=device, dtype=dtype or recipe.dtype)
    result = _run(
        editor,
        as_json,
        reconstruct,
        list(recipe.targets),
        source=recipe.source,
        image=recipe.image,
        method=recipe.method,
        steps=recipe.steps,
        guidance=recipe.guidance,
        negative=recipe.negative,
        native=recipe.native,
        **_noise(recipe),
        **recipe.parameters,
    )
    _warn_of_differences(recipe, result.provenance)
    return result


def _noise(recipe: "Provenance") -> dict[str, Any]:
    if recipe.inversion is not None:
        return {"inversion": recipe.inversion, **recipe.inversion_parameters}
    return {"seed": recipe.seed, "width": recipe.size[0], "height": recipe.size[1]}


def _find_image(recipe: "Provenance", png: Path, given: str | None) -> str:
    from freeprompt.picture import open_image

    name = given if given is not None else recipe.image
    if name is None:
        raise ConfigError(f"{str(png)!r} was made from an image in memory. Give it with --image.")
    beside = png.parent / Path(name).name
    if given is None and not Path(name).exists() and beside.exists():
        name = str(beside)
    if open_image(name).sha256 != recipe.image_sha256:
        raise ConfigError(
            f"{name!r} is not the image that {str(png)!r} was made from: its contents differ. "
            "Give the original with --image."
        )
    return name


def _warn_of_differences(then: "Provenance", now: "Provenance") -> None:
    import warnings

    for what in ("model_fingerprint", "versions", "device", "dtype"):
        before, after = getattr(then, what), getattr(now, what)
        if before != after:
            warnings.warn(
                f"The {what} differs ({before} then, {after} now), so the picture may differ too.",
                FreepromptWarning,
                stacklevel=2,
            )


def _report(result: "EditResult", files: list[Path], as_json: bool) -> None:
    if as_json:
        show.print_json({**result.to_dict(), "files": [str(path) for path in files]})
        return
    p = result.provenance
    typer.echo(
        f"{p.method} on {p.model}: {p.edited_pairs} attention maps shared "
        f"({len(p.edited_sites)} sites x {p.edited_steps} steps), {p.sample_forwards} "
        f"sample-forwards, {p.seconds:.1f} s at {p.size[0]}x{p.size[1]}"
    )
    if result.inverted is not None and result.inverted.reconstructed:
        typer.echo(
            f"inversion: {result.inverted.psnr:.1f} dB between the image denoised on its own and "
            f"the VAE's round trip ({p.steps} more sample-forwards)"
        )
    if any(p.flagged):
        typer.echo(
            "the model's safety checker blackened: "
            + ", ".join(repr(t) for t, flag in zip(p.targets, p.flagged, strict=True) if flag)
        )
    for path in files:
        typer.echo(f"  {path}")
