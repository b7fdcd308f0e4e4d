"""All commands in one place."""

from typing import Annotated

import typer

from freeprompt.cli import (
    ablate,
    attention,
    batch,
    bench,
    claims,
    compare,
    demo,
    edit,
    finetune,
    invert,
    listings,
    map_vs_values,
    probe,
    search,
    studio,
    train,
    world,
)
from freeprompt.cli.loading import loads_model

app = typer.Typer(
    name="freeprompt",
    help="Edit images with nothing but a target prompt, and see why it works.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # errors in one plain paragraph, whoever reads them
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Edit images with nothing but a target prompt, and see why it works."""
    if version:
        from freeprompt import __version__

        typer.echo(__version__)
        raise typer.Exit


app.command("edit")(loads_model(edit.edit))
app.command("invert")(loads_model(invert.invert))
app.command("compare")(loads_model(compare.compare))
app.command("demo")(demo.demo)
app.command("studio")(loads_model(studio.studio))
app.command("attention")(loads_model(attention.attention))
app.command("map-vs-values")(loads_model(map_vs_values.map_vs_values))
app.command("probe")(loads_model(probe.probe))
app.add_typer(ablate.app, name="ablate")
app.add_typer(search.app, name="search")
app.command("claims")(loads_model(claims.claims))
app.command("methods")(listings.methods)
app.command("inversions")(listings.inversions)
app.command("models")(listings.models)
app.command("sites")(listings.sites)
app.add_typer(world.app, name="world")
app.add_typer(train.app, name="train")
app.add_typer(finetune.app, name="finetune")
app.add_typer(bench.app, name="bench")
app.add_typer(batch.app, name="batch")
