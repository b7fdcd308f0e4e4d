"""`freeprompt bench`: run the benchmark, look at the results, compare two of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freeprompt.cli import show
from freeprompt.cli.counting import progress

if TYPE_CHECKING:
    from freeprompt.bench.plan import Plan

app = typer.Typer(
    help="Score methods: `run` makes edits, `report` shows them, `compare` two of them.",
    no_args_is_help=True,
)

PlanName = Annotated[
    str, typer.Argument(help="TOML file, or emojiedit, inversions, protection, pie-bench.")
]
Folder = Annotated[Path, typer.Option("-o", "--out", help="Folder of the results.")]
Run = Annotated[Path, typer.Argument(help="Folder that `bench run` has written.")]
Model = Annotated[str | None, typer.Option(help="Catalogue name, folder or Hub id.")]
DataPath = Annotated[Path | None, typer.Option("--data", help="Your copy of the data set.")]
Limit = Annotated[int | None, typer.Option(help="Items of each kind of edit and track.")]
Steps = Annotated[
    int | None,
    typer.Option(min=1, help="Denoising steps, but for methods made for a number of their own."),
]
Processes = Annotated[int | None, typer.Option(help="Edits made at a time.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Tracks = Annotated[list[str] | None, typer.Option("--track", help="generated or real; repeatable.")]


@app.command()
def run(
    plan: PlanName = "emojiedit",
    out: Folder = Path("out/bench"),
    model: Model = None,
    data: DataPath = None,
    limit: Limit = None,
    track: Tracks = None,
    steps: Steps = None,
    include: Annotated[
        list[Path] | None, typer.Option(help="File with more [[grid]] tables; repeatable.")
    ] = None,
    processes: Processes = None,
    device: Device = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Make edits that ended in an error again.")
    ] = False,
) -> None:
    """Make and score every edit of PLAN; a run that was killed goes on where it was."""
    from freeprompt.bench import run as run_plan

    chosen = _plan(plan, model, data, limit, track, steps, processes, device, include)
    with progress("edits") as report:
        store = run_plan(chosen, out, retry=retry, report=report)
    typer.echo(f"results in {store.path}; look at them with: freeprompt bench report {out}")


@app.command()
def tune(
    plan: PlanName = "emojiedit",
    out: Folder = Path("out/tune"),
    trials: Annotated[int, typer.Option(help="Settings tried of each method.")] = 8,
    model: Model = None,
    limit: Limit = 5,
    track: Tracks = None,
    steps: Steps = None,
    processes: Processes = None,
    device: Device = None,
    seed: Annotated[int, typer.Option(help="Of the settings drawn.")] = 0,
) -> None:
    """Choose settings for every method by the same budget; writes OUT/tuned.toml."""
    from freeprompt.bench import Results, run
    from freeprompt.bench.runner import command_line
    from freeprompt.bench.tune import best_settings, tuned_toml, tuning_plan
    from freeprompt.images import write_whole

    chosen = _plan(plan, model, None, limit, track, steps, processes, device)
    trying = tuning_plan(chosen, trials, seed)
    with progress("trials") as report:
        store = run(trying, out, report=report)
    best = best_settings(Results(tuple(store.rows())))
    about = [
        f"Tuned settings: {trials} trials of each method on {limit} items of each kind of the tune",
        f"split, model {chosen.model}, seed {seed}, by: {command_line()}",
    ]
    file = out / "tuned.toml"
    write_whole(file, tuned_toml(best, about).encode())
    typer.echo(f"{file}: use it with: freeprompt bench run {plan} --include {file}")


@app.command()
def report(
    results: Run,
    html: Annotated[Path | None, typer.Option(help="[default: RUN/report.html]")] = None,
    markdown: Annotated[Path | None, typer.Option(help="[default: RUN/report.md]")] = None,
) -> None:
    """Write the report of a run: one self-contained HTML page, and Markdown."""
    from freeprompt.bench import Store, build
    from freeprompt.bench.document import write_html, write_markdown

    blocks = build(Store(results))
    pages = html or results / "report.html", markdown or results / "report.md"
    write_html(blocks, pages[0])
    write_markdown(blocks, pages[1])
    typer.echo("\n".join(map(str, pages)))


@app.command()
def compare(
    results: Run,
    first: Annotated[str, typer.Argument(help="A contender, as reports call it.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    score: Annotated[
        list[str] | None,
        typer.Option(help="Scores to compare; repeatable. Default: the main ones."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Compare two contenders item by item, with bootstrap intervals of the difference."""
    from freeprompt.bench import Results, Store
    from freeprompt.bench.report import without_common_steps

    whole = Results(tuple(Store(results).rows()))
    if not {first, second} <= set(whole.labels):  # then as reports call them
        whole, _ = without_common_steps(whole)
    found = [
        row
        for track in whole.tracks
        if {first, second} <= set(whole.on(track).labels)
        for row in _comparisons(whole.on(track), track, first, second, score)
    ]
    if not found:
        whole.compared(first, second, "right")  # says which of the two is not there
    if as_json:
        show.print_json(found)
        return
    head = ("track", "score", first, second, "difference [95 %]", "won", "lost", "alike")
    show.print_table(head, [tuple(map(str, row.values())) for row in found])


def _comparisons(
    results: Any, track: str, first: str, second: str, scores: list[str] | None
) -> Iterator[dict[str, Any]]:
    from freeprompt.bench.scores import SCORES
    from freeprompt.bench.table import headline

    names = scores or [
        name
        for name in headline(results)
        if results.by(first).values(name) and results.by(second).values(name)
    ]
    for name in names:
        paired, form = results.compared(first, second, name), SCORES.get(name)
        assert form is not None  # `compared` refuses others
        gap = paired.difference
        yield {
            "track": track,
            "score": form.head,
            "first": form.show(paired.first),
            "second": form.show(paired.second),
            "difference": f"{form.show(gap.value)} [{form.show(gap.low)}, {form.show(gap.high)}]",
            "won": paired.wins,
            "lost": paired.losses,
            "alike": paired.ties,
        }


@app.command()
def data(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List the data sets that can be run, and what each needs."""
    from freeprompt.bench import DATASETS

    rows = {name: (entry.summary, entry.needs) for name, entry in DATASETS.items()}
    if as_json:
        show.print_json({n: {"summary": s, "needs": needs} for n, (s, needs) in rows.items()})
        return
    show.print_table(
        ("data set", "what it is"),
        [(n, s + (f" (needs {needs})" if needs else "")) for n, (s, needs) in rows.items()],
    )


def _plan(
    name: str,
    model: str | None,
    data: Path | None,
    limit: int | None,
    track: list[str] | None,
    steps: int | None,
    processes: int | None,
    device: str | None,
    include: list[Path] | None = None,
) -> "Plan":
    from freeprompt.bench import find_plan, read_plan

    plan = read_plan(find_plan(name), include or ())
    return plan.with_options(
        data={"path": data, "limit": limit, "tracks": tuple(track) if track else None},
        steps=steps,
        model=model,
        processes=processes,
        device=device,
    )
