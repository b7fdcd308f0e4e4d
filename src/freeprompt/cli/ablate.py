"""`freeprompt ablate`: replace attention somewhere, sometimes, and score what becomes of edits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freeprompt.cli import show
from freeprompt.cli.counting import counter
from freeprompt.cli.loading import loads_model

if TYPE_CHECKING:
    from freeprompt.analysis.laboratory import Laboratory
    from freeprompt.analysis.studies import Study
    from freeprompt.core import Site

app = typer.Typer(
    help="Replace attention by layers, windows or words, and score the edits.",
    no_args_is_help=True,
)

Model = Annotated[str, typer.Option(help="Catalogue name, folder or Hub id.")]
Pairs = Annotated[int, typer.Option(help="Number of (source, target) pairs.")]
PerSource = Annotated[int, typer.Option(help="Targets of one source; they share a batch.")]
Steps = Annotated[int, typer.Option(min=1, help="Denoising steps.")]
ScorerName = Annotated[
    str, typer.Option("--scorer", help="judge, pixels, or auto: the judge for emoji-sd.")
]
Out = Annotated[
    Path, typer.Option("-o", "--out", help="Folder; a run that was stopped goes on there.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Share = Annotated[float, typer.Option(help="Share of the steps, from the noisiest on.")]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all studies are told."""

    model: str
    pairs: int
    per_source: int
    steps: int
    scorer: str
    out: Path
    device: str
    as_json: bool

    def laboratory(self) -> "Laboratory":
        """Load the model and open the folder."""
        from freeprompt.analysis.laboratory import Laboratory
        from freeprompt.analysis.scoring import scorer_for
        from freeprompt.analysis.tasks import edit_cases
        from freeprompt.cli.loading import load

        scorer = scorer_for(self.model, self.scorer)
        cases = edit_cases(self.pairs, per_source=self.per_source)
        model = load(self.model, device=self.device).model
        return Laboratory(model, cases, scorer=scorer, folder=self.out, steps=self.steps)


@app.command()
@loads_model
def layers(
    model: Model = "emoji-sd",
    kind: Annotated[str, typer.Option(help="self or cross.")] = "self",
    share: Share = 0.8,
    words: Annotated[
        str, typer.Option(help="At cross: edited, others, padding, others+padding or all.")
    ] = "all",
    every: Annotated[int, typer.Option(min=1, help="Only every so many layers.")] = 1,
    pairs: Pairs = 200,
    per_source: PerSource = 4,
    steps: Steps = 50,
    scorer: ScorerName = "auto",
    out: Out = Path("ablate-layers"),
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Single layers, layers added from either end, below the top, random sets."""
    from freeprompt.analysis.studies import layer_study
    from freeprompt.errors import ConfigError, unknown

    if kind not in ("self", "cross"):
        raise unknown(ConfigError, "kind of attention", kind, ("self", "cross"))
    if kind == "self" and words != "all":
        raise ConfigError(f"--words {words} would have no effect: it acts with --kind cross.")

    def study(sites: "tuple[Site, ...]") -> "Study":
        return layer_study(sites, kind=kind, share=share, words=words, every=every)

    _run(study, _setting(locals()))


@app.command()
@loads_model
def windows(
    model: Model = "emoji-sd",
    sites: Annotated[str, typer.Option(help="Where maps are replaced.")] = "self:below-top",
    pairs: Pairs = 200,
    per_source: PerSource = 4,
    steps: Steps = 50,
    scorer: ScorerName = "auto",
    out: Out = Path("ablate-windows"),
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Windows of steps: from the noise on, up to the picture, and sliding."""
    from freeprompt.analysis.studies import window_study

    _run(lambda known: window_study(sites), _setting(locals()))


@app.command()
@loads_model
def cross(
    model: Model = "emoji-sd",
    sites: Annotated[str, typer.Option(help="Where maps are replaced.")] = "cross:all",
    words: Annotated[
        str, typer.Option(help="Kinds of words, by commas.")
    ] = "edited,others,padding,others+padding,all",
    pairs: Pairs = 200,
    per_source: PerSource = 4,
    steps: Steps = 50,
    scorer: ScorerName = "auto",
    out: Out = Path("ablate-cross"),
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Cross maps of the edited word, of the others, of the end token and padding."""
    from freeprompt.analysis.studies import cross_study
    from freeprompt.core import Sites
    from freeprompt.errors import ConfigError

    def study(known: "tuple[Site, ...]") -> "Study":
        if any(site.kind != "cross" for site in Sites(sites).select(known, model)):
            raise ConfigError(
                f"--sites are cross-attention here, such as cross:all; got {sites!r}."
            )
        return cross_study(sites, tuple(words.split(",")))

    _run(study, _setting(locals()))


def _setting(given: dict[str, Any]) -> Setting:
    return Setting(**{name: given[name] for name in Setting.__dataclass_fields__})


def _run(make: "Callable[[tuple[Site, ...]], Study]", setting: Setting) -> None:
    from freeprompt.analysis.studies import cells_of, summary
    from freeprompt.images import write_json

    lab = setting.laboratory()
    study = make(lab.model.sites)
    cells = cells_of(study)
    if not setting.as_json:
        typer.echo(str(lab.plan(cells)))
    with counter("editing", not setting.as_json) as tell:
        results = lab.run(cells, callback=tell)
    series = summary(results, study)
    result = {**lab.settings, "pairs": setting.pairs, "series": series}
    write_json(setting.out / "results.json", result)
    files = _draw(lab, study, series, setting.out)
    if setting.as_json:
        show.print_json({**result, "files": files})
        return
    for one in series:
        typer.echo(f"\n{one['title']}")
        show.print_table(*_table(one, list(lab.scorer.measures)))
    for name in (str(setting.out / "results.json"), *files):
        typer.echo(f"  {name}")


def _table(series: dict[str, Any], measures: list[str]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [cell["label"], *(_figure(cell["groups"]["all"][name]) for name in measures)]
        for cell in series["cells"]
    ]
    return ["replaced", *measures], rows


def _figure(estimate: dict[str, Any]) -> str:
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    if value is None:
        return "-"
    interval = "" if low is None else f" [{low:.2f}, {high:.2f}]"
    return f"{value:.2f}{interval}"


def _draw(lab: "Laboratory", study: "Study", series: list[dict[str, Any]], out: Path) -> list[str]:
    """Draw the grids, and the curves where matplotlib is installed; return the files."""
    from freeprompt.analysis.laboratory import Results
    from freeprompt.analysis.studies import cells_of, draw_curves, draw_grid
    from freeprompt.errors import FreepromptWarning, MissingDependency
    from freeprompt.images import save_png

    results, files = Results(lab, tuple(cells_of(study)), lab.cases), []
    for i, one in enumerate(study):
        path = out / f"grid-{i + 1}.png"
        save_png(draw_grid(results, one, examples=4), path, {})
        files.append(str(path))
    try:
        draw_curves(series, [lab.scorer.success, lab.scorer.preservation], out / "curves.png")
        files.append(str(out / "curves.png"))
    except MissingDependency as error:
        import warnings

        warnings.warn(f"No curves: {error}", FreepromptWarning, stacklevel=2)
    return files
