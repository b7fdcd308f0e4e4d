"""`freeprompt probe`: what can be read from attention maps, and what explains it away."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freeprompt.cli import show
from freeprompt.cli.counting import counter
from freeprompt.errors import ConfigError

if TYPE_CHECKING:
    from freeprompt.analysis.collect import Collection
    from freeprompt.analysis.probing import Reading
    from freeprompt.analysis.statistics import Estimate
    from freeprompt.models import UNetModel


class Maps(StrEnum):
    """Which attention is probed."""

    CROSS = "cross"
    SELF = "self"


def probe(
    task: Annotated[str, typer.Option(help="colour, colour-object or animal.")] = "colour",
    maps: Annotated[
        list[Maps] | None, typer.Option(help="cross or self; repeatable.  [default: cross]")
    ] = None,
    token: Annotated[
        list[str] | None,
        typer.Option(
            help="Whose cross maps: color or animal (the class), start, end, padding, or a word "
            "such as car; repeatable.  [default: the class]"
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Catalogue name, folder or Hub id.")] = "emoji-sd",
    samples: Annotated[int, typer.Option(help="Pictures a class; each has its own seed.")] = 40,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 50,
    at: Annotated[
        int,
        typer.Option(min=1, help="So many steps are probed, evenly from the first to the last."),
    ] = 5,
    layers: Annotated[
        str | None, typer.Option(help="Numbers such as 6,7,16.  [default: all]")
    ] = None,
    folds: Annotated[int, typer.Option(help="Parts that the seeds are split into.")] = 5,
    updates: Annotated[int, typer.Option(min=1, help="Updates of a probe's training.")] = 300,
    pool: Annotated[int, typer.Option(help="Self maps are shrunk to so many cells a side.")] = 4,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder; a run that was stopped goes on there.")
    ] = Path("probe"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train small classifiers on attention maps and report held-out accuracy by layer and step."""
    from freeprompt.analysis.collect import Recipe, collect, evenly, sites_of
    from freeprompt.analysis.probe import check_folds
    from freeprompt.analysis.probing import checked_layers, probing
    from freeprompt.cli.loading import load
    from freeprompt.images import write_json

    recipe = Recipe(
        task=task,
        maps=tuple(kind.value for kind in maps or [Maps.CROSS]),
        tokens=tuple(token or ["class"]),
        seeds=samples,
        steps=steps,
        at=evenly(steps, at),
        pool=pool,
    )
    chosen = numbers(layers)
    check_folds(folds, samples)
    adapter = load(model, device=device).model
    for kind in recipe.maps:
        checked_layers(chosen, kind, sites_of(adapter))  # before hours of collecting
    if not as_json:
        typer.echo(f"{samples} seeds x 10 classes: at most {recipe.forwards} sample-forwards")
    with counter("collecting maps", not as_json) as tell:
        collection = collect(adapter, recipe, out / "maps", tell)
    with counter("training probes", not as_json) as tell:
        readings = probing(
            collection,
            layers=chosen,
            folds=folds,
            probe_settings={"updates": updates},
            callback=tell,
        )
    shown = _recognised(collection, adapter)
    result: dict[str, Any] = {
        "model": model,
        "recipe": recipe.__dict__,
        "folds": folds,
        "updates": updates,
        "recognised": None if shown is None else shown.to_dict(),
        "readings": [reading.to_dict() for reading in readings],
    }
    write_json(out / "probe.json", result)
    if as_json:
        show.print_json(result)
    else:
        if shown is not None:
            typer.echo(
                f"{shown.value:.0%} of the pictures show their class, as the judge reads them "
                f"[{shown.low:.0%}, {shown.high:.0%}]"
            )
        _print(readings, len(collection.task.classes), out)


def _recognised(collection: "Collection", model: "UNetModel") -> "Estimate | None":
    """Return how many pictures show their class; None where there is no judge for the model."""
    from freeprompt.analysis.probing import recognised
    from freeprompt.analysis.scoring import JudgeScorer, scorer_for

    scorer = scorer_for(model.name)
    if not isinstance(scorer, JudgeScorer):
        return None
    return recognised(collection, model, scorer.judge)


def numbers(text: str | None) -> list[int] | None:
    """Read numbers such as `6,7,16`; None stays None.

    Raises:
        ConfigError: for anything else.
    """
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"Layers are numbers separated by commas, such as 6,7,16; got {text!r}."
        ) from None


def _print(readings: "list[Reading]", classes: int, out: Path) -> None:
    from freeprompt.analysis.probing import VARIANTS, chance, heat_map, names, table, title
    from freeprompt.errors import MissingDependency

    for kind, token in names(readings):
        head, *rows = table(readings, kind, token)
        typer.echo(f"\n{title(kind, token)}: held-out accuracy in %, 95 % intervals over seeds")
        show.print_table(head, rows)
    for variant, meaning in VARIANTS.items():
        typer.echo(f"{variant}: {meaning}; chance {chance(classes, variant):.1%}")
    typer.echo(f"results: {out / 'probe.json'}")
    try:
        heat_map(readings, classes, out / "probe.png")
        typer.echo(f"picture: {out / 'probe.png'}")
    except MissingDependency as error:
        typer.echo(f"no picture: {error}")
