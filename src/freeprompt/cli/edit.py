"""`freeprompt edit`."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freeprompt.cli import show
from freeprompt.cli.brought import bring_again
from freeprompt.cli.control import (
    Control,
    ControlWeight,
    ControlWindow,
    control_again,
    control_given,
    networks_again,
    warn_of_networks,
)
from freeprompt.cli.outputs import check_out
from freeprompt.errors import ConfigError, FreepromptWarning

if TYPE_CHECKING:
    from freeprompt.api import EditResult, Provenance

DEFAULT_MODEL = "emoji-sd"
FOUND_AGAIN = {"mask", "control_image"}  # files of a picture that is made again, which may move


def edit(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Target prompts; all share the source.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Prompt of the source; optional with --image.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="A real image to edit, or what `invert` saved of one.")
    ] = None,
    mask: Annotated[
        str | None, typer.Option(help="White where the picture may change; fpe-protect, diffedit.")
    ] = None,
    control: Control = None,
    control_weight: ControlWeight = None,
    control_window: ControlWindow = None,
    model: Annotated[
        str | None,
        typer.Option(help=f"Catalogue name, folder or Hub id.  [default: {DEFAULT_MODEL}]"),
    ] = None,
    method: Annotated[str | None, typer.Option(help="Editing method.  [default: fpe]")] = None,
    inversion: Annotated[
        str | None,
        typer.Option(help="How a real image becomes noise.  [default: the method's own]"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps.  [default: the model's, mostly 50]")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale.  [default: the model's, mostly 7.5]")
    ] = None,
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
    keep: Annotated[
        str | None, typer.Option(help="Folder for what a method learns of the source; imagic.")
    ] = None,
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
    asked = {
        **control_given(control, control_weight, control_window),
        "source": source,
        "mask": mask,
        "method": method,
        "inversion": inversion,
        "steps": steps,
        "guidance": guidance,
        "negative": negative,
        "seed": seed,
        "width": width,
        "height": height,
    }
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    parameters: dict[str, Any] = dict(parse_settings(settings or []))
    how = Running(device=device, dtype=dtype, as_json=as_json, reconstruct=reconstruct)
    check_out(out, len(targets or ()), image, mask, *(control or ()))
    if again is None:
        given = {**of_saved(image), **given}
        check(targets or [], image, {**given, "native": native}, parameters, model)
        given |= {"image": image, "native": native, "keep": keep, **parameters}
        result = how.edit(DEFAULT_MODEL if model is None else model, targets or [], **given)
    elif targets or native or keep is not None or parameters or given.keys() - FOUND_AGAIN:
        raise ConfigError(
            "--from brings prompts and all settings with it. Only --image, --mask, --control, "
            "--model, --device, --dtype, -o and --json go together with it."
        )
    else:
        result = _repeat(again, image, given, model, how, out)
    files = result.save(out)
    _report(result, files, as_json)


def check(
    targets: list[str],
    image: str | None,
    given: dict[str, Any],
    parameters: dict[str, Any],
    model: str | None = None,
) -> None:
    """Refuse what can be known to be wrong before a model is loaded.

    Raises:
        FreepromptError: as the edit would.
    """
    from freeprompt.api import checks
    from freeprompt.api.mask import check_uses_mask
    from freeprompt.api.pairs import check_pair
    from freeprompt.api.saved import is_saved
    from freeprompt.api.source import checked_seed
    from freeprompt.models.defaults import Defaults, defaults_by_name
    from freeprompt.picture import open_image

    checks.checked_prompts(targets)
    how, via = checks.resolve(given.get("method", "fpe"), given.get("inversion"), parameters)
    how.check(targets)
    if given.get("mask") is not None:
        check_uses_mask(how)
        open_image(given["mask"])
    sizes = given.get("width"), given.get("height")
    checks.check_generated(image, bool(given.get("native")), None, None)
    checks.check_source(given.get("source"), image, given.get("negative", ""), *sizes)
    usual = defaults_by_name(DEFAULT_MODEL if model is None else model) or Defaults(origin="")
    guidance = checks.checked_guidance(given.get("guidance", usual.guidance))
    checked_seed(given.get("seed", 0))
    if is_saved(image):
        return  # it has been read, and whether it fits is known once the model is there
    named = "inversion" in given or bool(set(via.specs()) & set(parameters))
    negative = given.get("negative", "")
    check_pair(how, via, image, named, given.get("source"), guidance, negative)
    if image is not None:
        open_image(image)


def of_saved(image: str | None) -> dict[str, Any]:
    """Return the settings that an edit must share with a saved inversion; none for others.

    Raises:
        ConfigError: if the file is no saved inversion.
    """
    from freeprompt.api.saved import about_saved, is_saved
    from freeprompt.inversion import INVERSIONS

    if image is None or not is_saved(image):
        return {}
    about = about_saved(image)
    numbers = json.loads(about["trajectory"]["numbers"])
    tuned = ("guidance", "negative") if INVERSIONS[about["inversion"]].tuned else ()
    seed = json.loads(about["trajectory"]["provenance"]).get("seed", 0)
    return {"steps": about["steps"], "seed": seed, **{name: numbers[name] for name in tuned}}


@dataclass(frozen=True, kw_only=True)
class Running:
    """How a model is run: where, in what precision, and with what on the screen."""

    device: str
    dtype: str | None
    as_json: bool
    reconstruct: bool
    networks: dict[str, list[str]] = field(default_factory=dict)

    def edit(self, model: str, targets: list[str], **arguments: Any) -> "EditResult":
        """Load a model and edit with it under a progress bar."""
        from freeprompt.cli.loading import load

        dtype = "auto" if self.dtype is None else self.dtype
        editor = load(model, device=self.device, dtype=dtype, **self.networks)
        with show.progress(not self.as_json) as callback:
            result = editor.edit(targets, callback=callback, **arguments)
            if self.reconstruct and result.reconstructable:
                result.inverted.reconstruct(callback)  # type: ignore[union-attr]
        return result


def parse_settings(
    settings: list[str], option: str = "--set", such: str = "share=0.8"
) -> dict[str, str]:
    """Read `name=value` items of an option, of which a message shows an example.

    Raises:
        ConfigError: for an item without `=`, or a name that stands twice.
    """
    pairs: dict[str, str] = {}
    for item in settings:
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"{option} takes name=value, such as {such}; got {item!r}.")
        if name.strip() in pairs:
            raise ConfigError(f"{option} names {name.strip()!r} twice. Give it one value.")
        pairs[name.strip()] = value.strip()
    return pairs


def _repeat(
    png: str,
    image: str | None,
    given: dict[str, Any],
    model: str | None,
    how: Running,
    out: str,
) -> "EditResult":
    from freeprompt.api import Provenance

    recipe = Provenance.from_png(png)
    check_out(out, len(recipe.targets))
    _spare(Path(png), Path(out), recipe.targets)
    if recipe.image_sha256 is not None:
        found = _find_file("image", recipe.image, recipe.image_sha256, Path(png), image)
        recipe = replace(recipe, image=found)
        check_out(out, len(recipe.targets), recipe.image)
    elif recipe.seed is None:
        raise ConfigError(
            f"{png!r} was made from noise that its maker supplied, which it does not carry. "
            "It can be made again only in Python, with the same latents or generator."
        )
    if recipe.mask_sha256 is not None:
        found = _find_file("mask", recipe.mask, recipe.mask_sha256, Path(png), given.get("mask"))
        recipe = replace(recipe, mask=found)
        check_out(out, len(recipe.targets), recipe.mask)
    control = control_again(
        recipe,
        given.get("control_image"),
        lambda what, name, sha256, now: _find_file(what, name, sha256, Path(png), now),
    )
    bring_again(recipe, Path(png))
    dtype = recipe.dtype if how.dtype is None else how.dtype
    how = replace(how, dtype=dtype, networks=networks_again(recipe))
    result = how.edit(
        recipe.model if model is None else model,
        list(recipe.targets),
        source=recipe.source,
        image=recipe.image,
        mask=recipe.mask,
        method=recipe.method,
        steps=recipe.steps,
        guidance=recipe.guidance,
        negative=recipe.negative,
        native=recipe.native,
        **control,
        **_noise(recipe),
        **recipe.parameters,
    )
    _warn_of_differences(recipe, result.provenance)
    warn_of_networks(recipe, result.provenance)
    return result


def _spare(png: Path, out: Path, targets: tuple[str, ...]) -> None:
    """Refuse to write over the picture that is made again: it may not come out the same."""
    from freeprompt.api.result import file_names

    single = out.suffix.lower() == ".png"
    written = [out] if single else [out / name for name in file_names(targets)]
    if any(path.exists() and path.samefile(png) for path in written):
        raise ConfigError(
            f"-o {str(out)!r} would replace {str(png)!r}, the picture to be made again. Choose "
            "another -o."
        )


def _noise(recipe: "Provenance") -> dict[str, Any]:
    given: dict[str, Any] = {"seed": recipe.seed}
    if recipe.image_sha256 is None:
        given |= {"width": recipe.size[0], "height": recipe.size[1]}
    if recipe.inversion is not None:
        given |= {"inversion": recipe.inversion, **recipe.inversion_parameters}
    return given


def _find_file(what: str, recorded: str | None, sha256: str, png: Path, given: str | None) -> str:
    """Return the file that has the contents of the image (or mask) that was used."""
    name = given if given is not None else recorded
    if name is None:
        raise ConfigError(f"{str(png)!r} was made from a {what} in memory. Give it with --{what}.")
    beside = png.parent / Path(name).name
    candidates = [name] if given is not None or not beside.exists() else [name, str(beside)]
    there = [c for c in candidates if Path(c).exists()] or candidates[:1]
    for candidate in there:
        if _has_contents(sha256, candidate):
            return candidate
    raise ConfigError(
        f"{there[0]!r} is not the {what} that {str(png)!r} was made from: its contents differ. "
        f"Give the original with --{what}."
    )


def _has_contents(sha256: str, name: str) -> bool:
    from freeprompt.picture import open_image

    picture = open_image(name)
    # an image from memory is known by its pixels instead of the bytes of a file
    return sha256 in (picture.sha256, open_image(picture.image).sha256)


def _warn_of_differences(then: "Provenance", now: "Provenance") -> None:
    import warnings

    for what in ("model_fingerprint", "versions", "device", "dtype", "memory"):
        before, after = getattr(then, what), getattr(now, what)
        if before != after:
            warnings.warn(
                f"The {what} differs ({before} then, {after} now), so the picture may differ too.",
                FreepromptWarning,
                stacklevel=2,
            )


def defaults_line(defaults: dict[str, Any]) -> str:
    """Say which settings the user left open, and what they became."""
    shown = ", ".join(f"{name} {value}" for name, value in defaults.items() if name != "of")
    return f"defaults of {defaults['of']}: {shown}"


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
    if p.defaults:
        typer.echo(defaults_line(p.defaults))
    if result.inverted is not None and result.inverted.reconstructed:
        typer.echo(
            f"inversion: {result.inverted.psnr:.1f} dB between the image denoised on its own and "
            f"the VAE's round trip ({result.inverted.reconstruction_cost} more sample-forwards)"
        )
    if any(p.flagged):
        typer.echo(
            "the model's safety checker blackened: "
            + ", ".join(repr(t) for t, flag in zip(p.targets, p.flagged, strict=True) if flag)
        )
    for path in files:
        typer.echo(f"  {path}")
