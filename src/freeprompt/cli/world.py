"""`freeprompt world`: render scenes of Emoji World, with their truth."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from PIL import Image

    from freeprompt.world import Scene

app = typer.Typer(help="Render small scenes whose truth is known.", no_args_is_help=True)

_Size = Annotated[int, typer.Option(help="Height and width of a picture in pixels.")]
_Seed = Annotated[int, typer.Option(help="Decides what the captions leave open.")]


@app.command()
def render(
    spec: Annotated[
        str | None, typer.Argument(help='A caption, e.g. "a red car on the street".')
    ] = None,
    random: Annotated[int, typer.Option(help="Render so many random scenes instead.")] = 0,
    size: _Size = 128,
    seed: _Seed = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")] = Path("world"),
    masks: Annotated[bool, typer.Option("--masks", help="Write the subjects' masks too.")] = False,
) -> None:
    """Write each scene as a PNG, and `truth.json` with everything that is known of them."""
    import json

    from PIL import Image

    truth: list[dict[str, Any]] = []
    for number, scene in enumerate(_scenes(spec, random, seed)):
        rendered, name = scene.render(size), f"{number:04d}"
        row = {"image": f"{name}.png", "caption": scene.caption(), "scene": scene.to_dict()}
        _write_picture(Image.fromarray(rendered.image), out / f"{name}.png")
        if masks:
            row["mask"] = f"{name}.mask.png"
            _write_picture(Image.fromarray(rendered.mask), out / f"{name}.mask.png")
        truth.append(row)
    _write((json.dumps(truth, indent=1) + "\n").encode(), out / "truth.json")
    typer.echo(f"{len(truth)} scene(s) in {out}")


@app.command()
def sheet(
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.")],
    count: Annotated[int, typer.Option(help="How many random scenes.")] = 40,
    size: _Size = 128,
    seed: _Seed = 0,
) -> None:
    """Write a contact sheet of random scenes with their captions."""
    from freeprompt.errors import ConfigError
    from freeprompt.world import contact_sheet

    if out.suffix.lower() != ".png":
        raise ConfigError(f"The sheet is written as .png; got {str(out)!r}.")
    if count < 1:
        raise ConfigError(f"--count must be at least 1; got {count}.")
    _write_picture(contact_sheet(_scenes(None, count, seed), size=size), out)
    typer.echo(f"{count} scenes in {out}")


def _scenes(spec: str | None, count: int, seed: int) -> "list[Scene]":
    """The scene of a caption, or so many random ones of any split."""
    import numpy as np

    from freeprompt.errors import ConfigError
    from freeprompt.world import parse_scene, random_scene

    if (spec is None) == (count == 0):
        raise ConfigError("Give either a caption or a number of random scenes (--random N).")
    if count < 0 or seed < 0:
        raise ConfigError(f"Counts and seeds are 0 or more; given: {count} and {seed}.")
    if spec is not None:
        return [parse_scene(spec, seed)]
    rng = np.random.default_rng(seed)
    return [random_scene(rng, split="any") for _ in range(count)]


def _write_picture(picture: "Image.Image", path: Path) -> None:
    """Save as PNG."""
    import io

    data = io.BytesIO()
    picture.save(data, "PNG")
    _write(data.getvalue(), path)


def _write(data: bytes, path: Path) -> None:
    """Write a whole file or nothing; missing folders are made."""
    import os
    import tempfile

    from freeprompt.errors import SaveError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            # mkstemp makes private files; a result is an ordinary one.
            umask = os.umask(0)
            os.umask(umask)
            Path(temporary).chmod(0o666 & ~umask)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SaveError(f"Could not write {str(path)!r}: {error.strerror or error}.") from error
