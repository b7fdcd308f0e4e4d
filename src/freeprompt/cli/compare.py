"""`freeprompt compare`."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freeprompt.cli import show
from freeprompt.cli.edit import DEFAULT_MODEL, check, parse_settings
from freeprompt.cli.outputs import check_out
from freeprompt.errors import ConfigError

if TYPE_CHECKING:
    from freeprompt.api.compare import Comparison
    from freeprompt.core.loop import Callback


def compare(
    target: Annotated[str, typer.Argument(help="Target prompt.")],
    source: Annotated[
        str | None,
        typer.Option(help="Prompt of the source; with --image what the image shows, if known."),
    ] = None,
    image: Annotated[str | None, typer.Option(help="A real image to edit.")] = None,
    methods: Annotated[str, typer.Option(help="Names with commas between, or all.")] = "all",
    model: Annotated[str, typer.Option(help="Catalogue name, folder or Hub id.")] = DEFAULT_MODEL,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps.  [default: the model's, mostly 50]")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale.  [default: the model's, mostly 7.5]")
    ] = None,
    negative: Annotated[str, typer.Option(help="Negative prompt.")] = "",
    seed: Annotated[int, typer.Option(help="Of the start noise.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A method's parameter, e.g. p2p.cross=0.8; repeatable."),
    ] = None,
    columns: Annotated[int, typer.Option(min=1, help="Pictures in a row of the grid.")] = 4,
    out: Annotated[
        str, typer.Option("-o", "--out", help="Folder, or a .png file for the grid alone.")
    ] = "out",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16, bfloat16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Edit one source towards TARGET with every method, in one labelled grid."""
    from freeprompt.api.compare import chosen_methods
    from freeprompt.api.compare import compare as run
    from freeprompt.cli.loading import load

    check_out(out, 1, image)
    names = chosen_methods(methods)
    given: dict[str, Any] = {"negative": negative, "seed": seed}
    asked = {"source": source, "guidance": guidance}
    given |= {name: value for name, value in asked.items() if value is not None}
    check([target], image, given, {}, model)
    by_method = method_settings(settings or [])
    with ExitStack() as bars:

        def begin(method: str) -> "Callback":
            bars.close()
            if not as_json and sys.stderr.isatty():
                typer.echo(method, err=True)
            return bars.enter_context(show.progress(not as_json))

        comparison = run(
            load(model, device=device, dtype=dtype),
            target,
            source=source,
            image=image,
            methods=names,
            steps=steps,
            settings=by_method,
            begin=begin,
            guidance=guidance,
            negative=negative,
            seed=seed,
        )
    _report(comparison, comparison.save(out, columns), as_json)
    if all(entry.result is None for entry in comparison.entries):
        raise typer.Exit(1)


def method_settings(settings: list[str]) -> dict[str, dict[str, Any]]:
    """Read `method.name=value` items.

    Raises:
        ConfigError: for an item that names no method.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, value in parse_settings(settings).items():
        method, dot, parameter = name.partition(".")
        if not dot:
            raise ConfigError(
                f"--set of compare takes method.name=value, such as p2p.cross=0.8; got "
                f"{name + '=' + value!r}."
            )
        found.setdefault(method, {})[parameter] = value
    return found


def _report(comparison: "Comparison", files: list[Path], as_json: bool) -> None:
    if as_json:
        show.print_json({**comparison.to_dict(), "files": [str(path) for path in files]})
        return
    show.print_table(
        ("method", "sample-forwards", "seconds", ""),
        [
            (
                e.method,
                str(e.sample_forwards) if e.result else "-",
                f"{e.seconds:.1f}" if e.result else "-",
                e.refused and f"refused: {e.refused}",
            )
            for e in comparison.entries
        ],
    )
    typer.echo(f"  {files[0]}")
