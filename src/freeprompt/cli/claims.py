"""`freeprompt claims`: measure the paper's claims again and write the document."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freeprompt.cli.counting import counter

if TYPE_CHECKING:
    from freeprompt.api import Editor


def claims(
    names: Annotated[
        list[str] | None, typer.Argument(help="R0 to R11, search.  [default: all]")
    ] = None,
    model: Annotated[str, typer.Option(help="A model of Emoji World.")] = "emoji-sd",
    quick: Annotated[
        bool, typer.Option("--quick", help="A small run, marked as such in the document.")
    ] = False,
    pairs: Annotated[int | None, typer.Option(help="Pairs to edit.  [default: 200]")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.  [default: 50]")] = None,
    curve: Annotated[
        int | None, typer.Option(help="Pairs of curves, which decide no verdict.  [default: 48]")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Pictures a class for the probes.  [default: 40]")
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder of the results files.")] = Path(
        "results/claims"
    ),
    document: Annotated[Path, typer.Option(help="The page to write.")] = Path("docs/claims.md"),
    work: Annotated[Path, typer.Option(help="Folder of what a stopped run goes on from.")] = Path(
        "out/claims"
    ),
    only_write: Annotated[
        bool, typer.Option("--write", help="Measure nothing: write the page from the results.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
) -> None:
    """Measure the paper's claims R0-R11 and write docs/claims.md from what was found."""
    from freeprompt.analysis.claims import run
    from freeprompt.analysis.claims.base import QUICK, Budget

    wanted = run.chosen(names or [])
    images = document.parent / "images" / "claims"
    if not only_write:
        from freeprompt.cli.loading import load

        given: dict[str, Any] = {"pairs": pairs, "curve": curve, "steps": steps, "seeds": samples}
        budget = replace(
            QUICK if quick else Budget(), **{k: v for k, v in given.items() if v is not None}
        )
        editor = load(model, device=device, dtype="float32")  # what must hold exactly, does
        for claim in wanted:
            with counter(claim.name) as tell:
                run.measure(
                    editor.model,
                    [claim],
                    budget,
                    results=results,
                    images=images,
                    work=work,
                    progress=lambda what, done, total, tell=tell: tell(done, total),  # type: ignore[misc]
                )
            run.write(results, images, document)  # a run that is stopped leaves what it measured
            typer.echo(f"{claim.name}: {results / f'{claim.name}.json'}")
        if not names:
            _draw_maps(editor, budget.steps, images)
    run.write(results, images, document)
    typer.echo(f"document: {document}")


def _draw_maps(editor: "Editor", steps: int, images: Path) -> None:
    """Draw the counterpart of the paper's Figure 3."""
    from freeprompt.analysis import pictures
    from freeprompt.analysis.panels import save_figure

    maps = editor.attention("a horse standing in the park", steps=steps, seed=3)
    save_figure(pictures.overlays(maps), images / "maps-words.png")
    save_figure(pictures.components(maps), images / "maps-components.png")
