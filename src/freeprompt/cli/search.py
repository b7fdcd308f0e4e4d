"""`freeprompt search`: which layers and which share a model should be edited with."""

from pathlib import Path
from typing import Annotated

import typer

from freeprompt.cli import ablate, show
from freeprompt.cli.counting import counter
from freeprompt.cli.loading import loads_model

app = typer.Typer(help="Find the layers and the share to edit a model with.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Find the layers and the share to edit a model with."""


@app.command()
@loads_model
def layers(
    model: ablate.Model = "emoji-sd",
    pairs: ablate.Pairs = 64,
    per_source: ablate.PerSource = 4,
    steps: ablate.Steps = 50,
    first: Annotated[
        int, typer.Option(help="Sources in the first round; each round has twice as many.")
    ] = 2,
    scorer: ablate.ScorerName = "auto",
    out: ablate.Out = Path("search-layers"),
    device: ablate.Device = "auto",
    as_json: ablate.AsJson = False,
) -> None:
    """Search sites x share for the Pareto front of edit success against preservation."""
    from freeprompt.analysis.search import candidates, draw, search
    from freeprompt.errors import FreepromptWarning, MissingDependency
    from freeprompt.images import write_json

    setting = ablate.Setting(
        model=model,
        pairs=pairs,
        per_source=per_source,
        steps=steps,
        scorer=scorer,
        out=out,
        device=device,
        as_json=as_json,
    )
    lab = setting.laboratory()
    cells = candidates(lab.model.sites)
    if not as_json:
        typer.echo(f"first round: {lab.plan(cells, lab.cases[:first])}")
    with counter("searching", not as_json) as tell:
        front = search(lab, cells=cells, first=first, callback=tell)
    write_json(out / "search.json", {**lab.settings, **front.to_dict()})
    try:
        draw(front, lab.scorer, out / "search.png")
    except MissingDependency as error:
        import warnings

        warnings.warn(f"No picture: {error}", FreepromptWarning, stacklevel=2)
    if as_json:
        show.print_json({**lab.settings, **front.to_dict()})
        return
    head = ["sites, share", lab.scorer.success, lab.scorer.preservation, "pairs", "front"]
    show.print_table(
        head,
        [
            [
                f.cell.label,
                f"{f.success:.3f}",
                f"{f.preservation:.3f}",
                str(f.pairs),
                "yes" if f.on_front else "",
            ]
            for f in front.found
        ],
    )
    typer.echo(front.verdict)
    typer.echo(
        f"{front.evaluations} edits scored; all candidates on all pairs would be "
        f"{front.exhaustive}. Results: {out / 'search.json'}"
    )
