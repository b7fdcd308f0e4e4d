"""`freeprompt map-vs-values`: whose shape and whose colour, when maps or values are copied."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from freeprompt.cli import show
from freeprompt.cli.outputs import check_file

if TYPE_CHECKING:
    from freeprompt.analysis.map_vs_values import Results

BOTH = ("source", "target")


def map_vs_values(
    count: Annotated[int, typer.Option("--pairs", min=1, help="Pairs of prompts.")] = 24,
    out: Annotated[
        str, typer.Option("-o", "--out", help="The picture, a .png; figures go to a .json beside.")
    ] = "map-vs-values.png",
    sites: Annotated[str, typer.Option(help="Self-attention layers to copy at.")] = "self:all",
    share: Annotated[float, typer.Option(help="Share of the steps to copy in.")] = 1.0,
    half: Annotated[str, typer.Option(help="cond, uncond or both.")] = "both",
    same_noise: Annotated[
        bool, typer.Option("--same-noise", help="Start the targets from the source's noise.")
    ] = False,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 50,
    guidance: Annotated[float, typer.Option(help="Guidance scale.")] = 7.5,
    shown: Annotated[int, typer.Option(min=1, help="Pairs in the picture.")] = 4,
    model: Annotated[
        str, typer.Option(help="A model of Emoji World, which the judge can read.")
    ] = "emoji-sd",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Copy the source's self-attention maps, or its keys and values, and let the judge look."""
    from freeprompt.analysis import map_vs_values as study
    from freeprompt.analysis.panels import check_name, need_matplotlib, save_figure
    from freeprompt.api.checks import checked_guidance
    from freeprompt.cli.counting import counter
    from freeprompt.cli.loading import load
    from freeprompt.core import Sites
    from freeprompt.core.rows import HALVES
    from freeprompt.errors import ConfigError
    from freeprompt.models.fingerprint import fingerprint

    need_matplotlib()
    check_name(out, ".png")
    check_file("-o", out)
    if half not in HALVES:
        raise ConfigError(f"--half must be one of {', '.join(HALVES)}; got {half!r}.")
    setting = study.Setting(
        sites=sites,
        share=share,
        half=half,
        other_noise=not same_noise,
        steps=steps,
        guidance=checked_guidance(guidance),
    )
    setting.controls()
    editor = load(model, device=device)
    if any(site.kind != "self" for site in Sites(sites).select(editor.model.sites, model)):
        raise ConfigError(f"--sites are self-attention here, such as self:all; got {sites!r}.")
    side = editor.model.native_size
    with counter("pairs", not as_json) as callback:
        results, kept = study.run(
            editor.model,
            study.pairs(count),
            setting,
            size=(side, side),
            told={"name": model, "fingerprint": fingerprint(editor.pipe)},
            path=Path(out).with_suffix(".json"),
            shown=shown,
            callback=callback,
        )
    save_figure(study.picture(kept, setting), out)
    _report(results, out, as_json)


def _report(results: "Results", out: str, as_json: bool) -> None:
    from freeprompt.analysis.map_vs_values import MEASURES, WAYS

    files = [out, str(Path(out).with_suffix(".json"))]
    if as_json:
        show.print_json({**results.to_dict(), "files": files})
        return
    names = {"plain": "nothing", "maps": "its maps", "values": "its keys and values"}
    heads = ("mask IoU", "colour ΔE", *(f"{w}'s {x}" for x in ("colour", "subject") for w in BOTH))
    formats = [".2f", ".0f", *[".0%"] * 4]
    rows = []
    for way in WAYS:
        found = [results.estimate(way, measure) for measure in MEASURES]
        shown = [
            f"{e.value:{f}} ({e.low:{f}} to {e.high:{f}})"
            for e, f in zip(found, formats, strict=True)
        ]
        rows.append((names[way], *shown))
    show.print_table(("copied from the source", *heads), rows)
    typer.echo(
        f"{len(results.rows)} pairs; in brackets 95 % intervals. IoU and ΔE (CIE 1976) are of the "
        "subject and the source's subject."
    )
    for path in files:
        typer.echo(f"  {path}")
