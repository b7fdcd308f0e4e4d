"""`freeprompt train`: make emoji-sd and its judge from nothing but the renderer."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from freeprompt.cli.training import Asked, Device, PresetName, prepare, trains

app = typer.Typer(
    help="Train emoji-sd: `vae`, then `model`; `judge`; at any time `export`, `sheet` and `eval`. "
    "On top of it: `controlnet`, `adapter`, `instruct`.",
    no_args_is_help=True,
)

RunFolder = Annotated[Path, typer.Option("--run", help="Folder of checkpoint, log and sheets.")]
VAEFolder = Annotated[Path, typer.Option("--vae", help="Finished autoencoder: RUN/vae of `vae`.")]
BaseFolder = Annotated[
    Path | None, typer.Option("--base", help="Saved pipeline to build on; default: emoji-sd.")
]
_UNPREPARED = "ended before training began; the same command goes on with what is there"


@app.command()
@trains
def vae(
    run: RunFolder,
    init: Annotated[
        Path | None, typer.Option(help="Finished autoencoder; trains on its decoder alone.")
    ] = None,
    *,
    asked: Asked,
) -> None:
    """Train the autoencoder; leaves RUN/vae for `model`."""
    from freeprompt.train.vae import train_vae

    sizes, config, where = asked.sized("vae")
    train_vae(sizes, config, asked.start(run), where, init)


@app.command()
@trains
def model(
    run: RunFolder,
    vae: VAEFolder,
    init: Annotated[Path | None, typer.Option(help="Saved pipeline to start from.")] = None,
    cache: Annotated[int | None, typer.Option(min=1, help="Scenes whose latents are kept.")] = None,
    *,
    asked: Asked,
) -> None:
    """Train the denoiser and the text encoder; makes the cache of latents first."""
    from freeprompt.train.model import train_model

    sizes, config, where = asked.sized("model")
    if cache is not None:
        sizes = replace(sizes, cache=cache)
    if train_model(sizes, config, asked.start(run), vae, where, init) is None:
        typer.echo(_UNPREPARED)


@app.command()
@trains
def judge(run: RunFolder, *, asked: Asked) -> None:
    """Train the judge; leaves RUN/judge.safetensors."""
    from freeprompt.train.judge import train_judge

    sizes, config, where = asked.sized("judge")
    train_judge(sizes, config, asked.start(run), where)


def _pipeline(given: Path | None) -> Path:
    """Return the folder of a saved pipeline: that of the model that ships, if none is given."""
    from freeprompt.models.catalog import CATALOG

    return Path(str(CATALOG["emoji-sd"].source)) if given is None else given


@app.command()
@trains
def controlnet(run: RunFolder, base: BaseFolder = None, *, asked: Asked) -> None:
    """Train a ControlNet on object masks; leaves RUN/controlnet for --controlnet."""
    _hints("controlnet", run, base, asked)


@app.command()
@trains
def adapter(run: RunFolder, base: BaseFolder = None, *, asked: Asked) -> None:
    """Train a T2I-Adapter on object masks; leaves RUN/adapter for --adapter."""
    _hints("adapter", run, base, asked)


def _hints(
    kind: Literal["controlnet", "adapter"], run: Path, base: Path | None, asked: Asked
) -> None:
    from freeprompt.train.hints import train_hints

    where, folder = prepare(asked.device, 1), _pipeline(base)
    made = train_hints(kind, folder, asked.start(run), where, asked.preset, **asked.numbers)
    typer.echo(f"{made}")


@app.command()
@trains
def instruct(run: RunFolder, base: BaseFolder = None, *, asked: Asked) -> None:
    """Train an InstructPix2Pix model on exact edits; leaves RUN/instruct for --model."""
    from freeprompt.train.instruct import train_instruct

    where, folder = prepare(asked.device, 1), _pipeline(base)
    made = train_instruct(folder, asked.start(run), where, asked.preset, **asked.numbers)
    typer.echo(f"{made}")


@app.command()
@trains
def lcm(
    run: RunFolder,
    teacher: Annotated[
        Path | None, typer.Option(help="Saved pipeline to distil; default: emoji-sd.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="LoRA to write; default: RUN/lcm.safetensors.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Cut the written LoRA to this rank.")
    ] = None,
    *,
    asked: Asked,
) -> None:
    """Distil a model into a LoRA that draws in one to eight steps; for --lora."""
    from freeprompt.train.lcm import export_lcm, train_lcm

    sizes, config, where = asked.sized("lcm")
    source = _pipeline(teacher)
    if train_lcm(sizes, config, asked.start(run), source, where) is None:
        typer.echo(_UNPREPARED)
        return
    file = run / "lcm.safetensors" if output is None else output
    size = export_lcm(sizes, run, source, file, rank)
    typer.echo(f"{file}: {size / 1e6:.1f} MB")


@app.command()
def export(
    run: RunFolder,
    vae: VAEFolder,
    output: Annotated[Path, typer.Option("--output", help="Folder to write.")],
    preset: PresetName = "cpu64",
) -> None:
    """Write the averaged weights of a `model` run as a folder for diffusers' from_pretrained."""
    from freeprompt.train.config import preset as find
    from freeprompt.train.model import export_model

    size = export_model(find(preset), run, vae, output)
    typer.echo(f"{output}: {size / 1e6:.1f} MB")


@app.command()
def sheet(
    model: Annotated[Path, typer.Argument(help="Saved pipeline.")],
    output: Annotated[Path, typer.Option("--output", help="PNG to write.")],
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 50,
    guidance: Annotated[float, typer.Option(help="Guidance scale.")] = 5.0,
    seed: Annotated[int, typer.Option(help="First seed of the noise.")] = 0,
    device: Device = "auto",
) -> None:
    """Draw the fixed prompts of the training's picture sheets."""
    from freeprompt.train.anatomy import load_pipeline
    from freeprompt.train.model import SHEET_PROMPTS, draw_prompts
    from freeprompt.train.sheet import write_sheet

    pipeline = load_pipeline(model, prepare(device, 1))
    images = draw_prompts(pipeline, SHEET_PROMPTS, steps, guidance, seed)
    write_sheet(output, images, 8, SHEET_PROMPTS)


@app.command(name="eval")
def evaluate(
    model: Annotated[Path, typer.Argument(help="Saved pipeline.")],
    output: Annotated[Path, typer.Option("--output", help="Folder of report, table and sheet.")],
    judge: Annotated[Path | None, typer.Option(help="Judge's weights; default: shipped.")] = None,
    prompts: Annotated[int, typer.Option(help="Images to generate.")] = 192,
    guidance: Annotated[float, typer.Option(help="Guidance scale.")] = 5.0,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 50,
    card: Annotated[
        Path | None, typer.Option(help="Model card whose table is replaced, with its picture.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Measure a model with the judge; writes report.json, table.md and sheet.png."""
    from freeprompt.train.evaluate import EvalConfig, card_parts, evaluate_model, update_card

    if card is not None:
        card_parts(card)  # it would be a pity to learn of it after the measuring
    config = EvalConfig(prompts=prompts, guidance=guidance, steps=steps)
    report = evaluate_model(model, output, config, prepare(device, 1), judge, typer.echo)
    if card is not None:
        update_card(card, output)
    typer.echo((output / "table.md").read_text(encoding="utf-8"))
    typer.echo(f"{report.prompts} prompts; report in {output}")
