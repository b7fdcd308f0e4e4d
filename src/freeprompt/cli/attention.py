"""`freeprompt attention`: pictures, films and files of attention maps."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from freeprompt.cli import show
from freeprompt.cli.outputs import check_file
from freeprompt.errors import ConfigError

if TYPE_CHECKING:
    from freeprompt.analysis import AttentionMaps
    from freeprompt.api import Editor

Size = tuple[int, int]
VIEWS = "components, components=4, clusters, clusters=6 or point=x,y"


def attention(
    prompt: Annotated[str, typer.Argument(help="The prompt; with --image, what the image shows.")],
    words: Annotated[
        str | None,
        typer.Option(
            help="Words to look at, with commas; also <start>, <end>, <pad>.  [default: all words]"
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="Layers by number, such as 3,7,12 or 3-13; one column each."),
    ] = None,
    view: Annotated[
        str | None, typer.Option("--self", metavar="VIEW", help=f"Self-attention: {VIEWS}.")
    ] = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="One word's maps, layers down and steps across.")
    ] = False,
    out: Annotated[str, typer.Option("-o", "--out", help="The picture, a .png.")] = "maps.png",
    film: Annotated[
        str | None, typer.Option(help="Also write a .gif of the words over the steps.")
    ] = None,
    save: Annotated[
        str | None, typer.Option(help="Also write the maps, as .safetensors or .npz.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="A real image: walk along its inversion.")] = (
        None
    ),
    target: Annotated[
        list[str] | None, typer.Option(help="Watch the edit towards this prompt; repeatable.")
    ] = None,
    model: Annotated[str, typer.Option(help="Catalogue name, folder or Hub id.")] = "emoji-sd",
    method: Annotated[
        str | None, typer.Option(help="Of the edit that is watched.  [default: fpe]")
    ] = None,
    inversion: Annotated[
        str | None,
        typer.Option(help="How a real image becomes noise.  [default: the method's own]"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A parameter of the method, e.g. share=0.8; repeatable."),
    ] = None,
    half: Annotated[
        str, typer.Option(help="cond, the rows with the prompt, or uncond, those without.")
    ] = "cond",
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps.  [default: the model's, mostly 50]")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale.  [default: the model's, mostly 7.5]")
    ] = None,
    negative: Annotated[str, typer.Option(help="Negative prompt.")] = "",
    seed: Annotated[int, typer.Option(help="Of the start noise.")] = 0,
    width: Annotated[int | None, typer.Option(help="Of a generated image, in pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Of a generated image, in pixels.")] = None,
    large: Annotated[
        bool, typer.Option("--large", help="Allow self-attention maps above 32x32.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16, bfloat16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Show what attention does while a picture is made: where each word is looked at, and more."""
    wanted = Wanted(
        words=None if words is None else [w.strip() for w in words.split(",") if w.strip()],
        layers=layers,
        view=parse_view(view),
        grid=grid,
        out=out,
        film=film,
        save=save,
    )
    wanted.check(image)
    _check(prompt, image, target, settings, method, inversion)
    from freeprompt.cli.edit import parse_settings
    from freeprompt.cli.loading import load

    parameters: dict[str, Any] = dict(parse_settings(settings or []))
    editor = load(model, device=device, dtype=dtype)
    size = _size(editor, image, width, height)
    wanted.check_point(size)
    with show.progress(not as_json) as callback:
        maps = editor.attention(
            prompt,
            words=wanted.collected,
            sites=wanted.sites,
            image=image,
            target=target or None,
            method=_method(method),
            inversion=inversion,
            half=half,
            by_step=wanted.by_step,
            large=large,
            steps=steps,
            guidance=guidance,
            negative=negative,
            seed=seed,
            width=width,
            height=height,
            callback=callback,
            **parameters,
        )
    _report(maps, wanted.write(maps, size), as_json)


@dataclass(frozen=True)
class View:
    """How self-attention is shown."""

    kind: Literal["components", "clusters", "point"]
    count: int = 0
    point: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What shall be shown and written."""

    words: list[str] | None
    layers: str | None
    view: View | None
    grid: bool
    out: str
    film: str | None
    save: str | None

    def check(self, image: str | None) -> None:
        """Refuse what can be known to be wrong before a model is loaded.

        Args:
            image: The file that is looked at, which no file may replace.

        Raises:
            ConfigError: for file names and options that do not fit.
            SaveError: for a place that cannot be written to.
            MissingDependency: without matplotlib.
        """
        from freeprompt.analysis.archive import check_suffix
        from freeprompt.analysis.panels import check_name, need_matplotlib
        from freeprompt.analysis.pictures import check_clusters
        from freeprompt.core import Sites

        need_matplotlib()
        check_name(self.out, ".png")
        if self.film is not None:
            check_name(self.film, ".gif")
        if self.save is not None:
            check_suffix(self.save)
        for option, name in (("-o", self.out), ("--film", self.film), ("--save", self.save)):
            check_file(option, name, image)
        if self.words == []:
            raise ConfigError("--words names no word. Leave it out to look at every word.")
        if self.grid and (self.view is not None or len(self.words or ()) != 1):
            raise ConfigError("--grid shows cross-attention of one word: give --words with one.")
        if self.view is not None and self.view.kind == "clusters":
            check_clusters(self.view.count)
        if self.view is not None and self.film is not None and self.words is None:
            raise ConfigError("--film shows words: give --words beside --self.")
        Sites(self._cross)

    @property
    def collected(self) -> list[str] | None:
        """Words to collect; none where self-attention alone is shown."""
        return [] if self.view is not None and self.words is None else self.words

    @property
    def by_step(self) -> bool:
        """Whether single steps are needed."""
        return self.grid or self.film is not None

    @property
    def sites(self) -> str:
        """Where to look."""
        if self.view is None:
            return self._cross
        if self.layers is None:
            return "auto"
        return f"self:{self.layers}" + (f"+cross:{self.layers}" if self.words else "")

    @property
    def _cross(self) -> str:
        return "cross:all" if self.layers is None else f"cross:{self.layers}"

    def check_point(self, size: Size) -> None:
        """Refuse a point outside the picture, (width, height) as the user knows it.

        Raises:
            ConfigError: saying how large it is.
        """
        if self.view is None or self.view.kind != "point":
            return
        x, y = self.view.point
        if not (0 <= x < size[0] and 0 <= y < size[1]):
            raise ConfigError(
                f"--self point={x:g},{y:g} lies outside the picture of {size[0]}x{size[1]} pixels."
            )

    def write(self, maps: "AttentionMaps", size: Size) -> list[Path]:
        """Write the picture, and what else was asked for; points are in a picture of `size`."""
        from freeprompt.analysis import pictures
        from freeprompt.analysis.panels import save_figure

        files = [save_figure(self._figure(maps, size), self.out)]
        if self.film is not None:
            files.append(pictures.film(maps, self.film, words=self.words))
        if self.save is not None:
            files.append(maps.save(self.save))
        return files

    def _figure(self, maps: "AttentionMaps", size: Size) -> Any:
        from freeprompt.analysis import pictures

        match self.view:
            case View(kind="components"):
                return pictures.components(maps, self.view.count)
            case View(kind="clusters"):
                return pictures.clusters(maps, self.view.count)
            case View(kind="point", point=(x, y)):
                # a real image is worked on at another size than its own
                wide, high = maps.image.size
                return pictures.point(maps, x * wide / size[0], y * high / size[1])
        if self.grid and self.words:
            return pictures.layers_by_steps(maps, self.words[0])
        if self.layers is not None:
            return pictures.by_layer(maps, words=self.words)
        return pictures.overlays(maps, words=self.words)


def parse_view(text: str | None) -> View | None:
    """Read `components`, `components=4`, `clusters=6` or `point=x,y`.

    Raises:
        ConfigError: for anything else.
    """
    if text is None:
        return None
    kind, _, value = text.partition("=")
    try:
        match kind.strip():
            case "components":
                return View("components", count=int(value or 6))
            case "clusters":
                return View("clusters", count=int(value or 5))
            case "point":
                x, y = (float(part) for part in value.split(","))
                return View("point", point=(x, y))
    except ValueError:
        pass
    raise ConfigError(f"--self takes {VIEWS} (in pixels of the picture); got {text!r}.")


def _check(
    prompt: str,
    image: str | None,
    target: list[str] | None,
    settings: list[str] | None,
    method: str | None,
    inversion: str | None,
) -> None:
    """Refuse wrong prompts, names, parameters and images before a model is loaded."""
    from freeprompt.api.checks import checked_prompts, resolve
    from freeprompt.cli.edit import parse_settings
    from freeprompt.picture import open_image

    if image is None:
        checked_prompts(prompt)
    else:
        open_image(image)
    if target:
        checked_prompts(target)
    resolve(_method(method), inversion, parse_settings(settings or []))
    if method is not None and not target and image is None:
        raise ConfigError(f"--method {method} would have no effect: it acts with --target.")
    if inversion is not None and image is None:
        raise ConfigError(f"--inversion {inversion} would have no effect: it acts with --image.")


def _method(given: str | None) -> str:
    return "fpe" if given is None else given


def _size(editor: "Editor", image: str | None, width: int | None, height: int | None) -> Size:
    """Return the size of the picture as the user knows it."""
    from freeprompt.picture import open_image

    if image is not None:
        return open_image(image).size
    native = editor.model.native_size
    return native if width is None else width, native if height is None else height


def _report(maps: "AttentionMaps", files: list[Path], as_json: bool) -> None:
    if as_json:
        described = [
            {
                "prompt": one.prompt,
                "role": one.role,
                "words": list(one.words),
                "cross_sites": [s.name for s in one.cross_maps.sites] if one.cross_maps else [],
                "self_sites": [s.name for s in one.self_maps.sites] if one.self_maps else [],
            }
            for one in maps.pictures
        ]
        found = {"pictures": described, "settings": dict(maps.settings), "bytes": maps.nbytes}
        show.print_json({**found, "files": [str(path) for path in files]})
        return
    for one in maps.pictures:
        parts = []
        if one.cross_maps:
            parts.append(f"{', '.join(one.words)} at {_layers(len(one.cross_maps.sites))}")
        if one.self_maps:
            parts.append(f"self-attention at {_layers(len(one.self_maps.sites))}")
        typer.echo(f"{one.role} {one.prompt!r}: {'; '.join(parts) or 'never in the batch'}")
    typer.echo(f"{maps.nbytes / 2**10:.1f} KiB of maps")
    for path in files:
        typer.echo(f"  {path}")


def _layers(count: int) -> str:
    return f"{count} layer{'s' if count > 1 else ''}"
