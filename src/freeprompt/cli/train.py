"""`freeprompt train`: make emoji-sd and its judge from nothing but the renderer."""

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from freeprompt.train.loop import Run

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
PresetName = Annotated[str, typer.Option("--preset", help="Sizes: tiny, cpu64 or gpu128.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")]
Minutes = Annotated[float | None, typer.Option(help="Stop after this time.")]
Steps = Annotated[int | None, typer.Option(help="Length of the whole run.")]
Batch = Annotated[int | None, typer.Option(help="Scenes per step.")]
Rate = Annotated[float | None, typer.Option(help="Peak learning rate.")]
Seed = Annotated[int | None, typer.Option(help="0 .. 99999; another run, other scenes.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


def _run(folder: Path, resume: bool, minutes: float | None) -> "Run":
    """Describe a run that ends, with a checkpoint, at the first Ctrl-C or SIGTERM."""
    from freeprompt.train.loop import Run

    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    return Run(folder=folder, resume=resume, minutes=minutes, stop=asked.is_set, report=typer.echo)


def _prepare(device: str, threads: int) -> Any:
    """Choose the device; a core for each share of a batch, see `Trainer.gradients`."""
    import torch

    from freeprompt.train.loop import resolve_device

    if threads > 1:
        torch.set_num_threads(1)
    return resolve_device(device)


@app.command()
def vae(
    run: RunFolder,
    preset: PresetName = "cpu64",
    resume: Resume = False,
    init: Annotated[
        Path | None, typer.Option(help="Finished autoencoder; trains on its decoder alone.")
    ] = None,
    minutes: Minutes = None,
    steps: Steps = None,
    batch: Batch = None,
    rate: Rate = None,
    seed: Seed = None,
    device: Device = "auto",
) -> None:
    """Train the autoencoder; leaves RUN/vae for `model`."""
    from freeprompt.train.config import preset as find
    from freeprompt.train.config import with_options
    from freeprompt.train.vae import train_vae

    sizes = find(preset)
    config = with_options(sizes.vae_train, steps=steps, batch=batch, rate=rate, seed=seed)
    where = _prepare(device, config.threads)
    train_vae(sizes, config, _run(run, resume, minutes), where, init)


@app.command()
def model(
    run: RunFolder,
    vae: VAEFolder,
    preset: PresetName = "cpu64",
    resume: Resume = False,
    init: Annotated[Path | None, typer.Option(help="Saved pipeline to start from.")] = None,
    minutes: Minutes = None,
    steps: Steps = None,
    batch: Batch = None,
    rate: Rate = None,
    cache: Annotated[int | None, typer.Option(help="Scenes whose latents are kept.")] = None,
    seed: Seed = None,
    device: Device = "auto",
) -> None:
    """Train the denoiser and the text encoder; makes the cache of latents first."""
    from dataclasses import replace

    from freeprompt.train.config import preset as find
    from freeprompt.train.config import with_options
    from freeprompt.train.model import train_model

    sizes = find(preset)
    if cache is not None:
        sizes = replace(sizes, cache=cache)
    config = with_options(sizes.model_train, steps=steps, batch=batch, rate=rate, seed=seed)
    where = _prepare(device, config.threads)
    train_model(sizes, config, _run(run, resume, minutes), vae, where, init)


@app.command()
def judge(
    run: RunFolder,
    preset: PresetName = "cpu64",
    resume: Resume = False,
    minutes: Minutes = None,
    steps: Steps = None,
    batch: Batch = None,
    rate: Rate = None,
    seed: Seed = None,
    device: Device = "auto",
) -> None:
    """Train the judge; leaves RUN/judge.safetensors."""
    from freeprompt.train.config import preset as find
    from freeprompt.train.config import with_options
    from freeprompt.train.judge import train_judge

    sizes = find(preset)
    config = with_options(sizes.judge_train, steps=steps, batch=batch, rate=rate, seed=seed)
    where = _prepare(device, config.threads)
    train_judge(sizes, config, _run(run, resume, minutes), where)


def _embedded() -> Path:
    """Return the folder of the model that ships."""
    from freeprompt.models.catalog import CATALOG

    return Path(str(CATALOG["emoji-sd"].source))


def _conditioned(
    kind: str, run: "Run", base: Path | None, preset: str, device: Any, options: dict[str, Any]
) -> None:
    """Train what sees a second picture, on the embedded model unless another is named."""
    from freeprompt.train.hints import train_hints
    from freeprompt.train.instruct import train_instruct

    folder = _embedded() if base is None else base
    if kind == "instruct":
        made = train_instruct(folder, run, device, preset, **options)
    else:
        made = train_hints(kind, folder, run, device, preset, **options)  # type: ignore[arg-type]
    typer.echo(f"{made}")


@app.command()
def controlnet(
    run: RunFolder,
    base: BaseFolder = None,
    preset: PresetName = "cpu64",
    resume: Resume = False,
    minutes: Minutes = None,
    steps: Steps = None,
    batch: Batch = None,
    rate: Rate = None,
    seed: Seed = None,
    device: Device = "auto",
) -> None:
    """Train a ControlNet on object masks; leaves RUN/controlnet for --controlnet."""
    options = {"steps": steps, "batch": batch, "rate": rate, "seed": seed}
    where = _prepare(device, 1)
    _conditioned("controlnet", _run(run, resume, minutes), base, preset, where, options)


@app.command()
def adapter(
    run: RunFolder,
    base: BaseFolder = None,
    preset: PresetName = "cpu64",
    resume: Resume = False,
    minutes: Minutes = None,
    steps: Steps = None,
    batch: Batch = None,
    rate: Rate = None,
    seed: Seed = None,
    device: Device = "auto",
) -> None:
    """Train a T2I-Adapter on object masks; leaves RUN/adapter for --adapter."""
    options = {"steps": steps, "batch": batch, "rate": rate, "seed": seed}
    where = _prepare(device, 1)
    _conditioned("adapter", _run(run, resume, minutes), base, preset, where, options)


@app.command()
def instruct(
    run: RunFolder,
    base: BaseFolder = None,
    preset: PresetName = "cpu64",
    resume: Resume = False,
    minutes: Minutes = None,
    steps: Steps = None,
    batch: Batch = None,
    rate: Rate = None,
    seed: Seed = None,
    device: Device = "auto",
) -> None:
    """Train an InstructPix2Pix model on exact edits; leaves RUN/instruct for --model."""
    options = {"steps": steps, "batch": batch, "rate": rate, "seed": seed}
    where = _prepare(device, 1)
    _conditioned("instruct", _run(run, resume, minutes), base, preset, where, options)


@app.command()
def lcm(
    run: RunFolder,
    teacher: Annotated[
        Path | None, typer.Option(help="Saved pipeline to distil; default: emoji-sd.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="LoRA to write; default: RUN/lcm.safetensors.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Cut the written LoRA to this rank.")] = None,
    preset: PresetName = "cpu64",
    resume: Resume = False,
    minutes: Minutes = None,
    steps: Steps = None,
    batch: Batch = None,
    rate: Rate = None,
    seed: Seed = None,
    device: Device = "auto",
) -> None:
    """Distil a model into a LoRA that draws in one to eight steps; for --lora."""
    from freeprompt.train.config import preset as find
    from freeprompt.train.config import with_options
    from freeprompt.train.lcm import export_lcm, train_lcm

    sizes, source = find(preset), teacher or _embedded()
    config = with_options(sizes.lcm_train, steps=steps, batch=batch, rate=rate, seed=seed)
    where = _prepare(device, config.threads)
    train_lcm(sizes, config, _run(run, resume, minutes), source, where)
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
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 50,
    guidance: Annotated[float, typer.Option(help="Guidance scale.")] = 5.0,
    seed: Annotated[int, typer.Option(help="First seed of the noise.")] = 0,
    device: Device = "auto",
) -> None:
    """Draw the fixed prompts of the training's picture sheets."""
    from freeprompt.train.evaluate import load_pipeline
    from freeprompt.train.model import SHEET_PROMPTS, draw_prompts
    from freeprompt.train.sheet import write_sheet

    pipeline = load_pipeline(model, _prepare(device, 1))
    images = draw_prompts(pipeline, SHEET_PROMPTS, steps, guidance, seed)
    write_sheet(output, images, 8, SHEET_PROMPTS)


@app.command(name="eval")
def evaluate(
    model: Annotated[Path, typer.Argument(help="Saved pipeline.")],
    output: Annotated[Path, typer.Option("--output", help="Folder of report, table and sheet.")],
    judge: Annotated[Path | None, typer.Option(help="Judge's weights; default: shipped.")] = None,
    prompts: Annotated[int, typer.Option(help="Images to generate.")] = 192,
    guidance: Annotated[float, typer.Option(help="Guidance scale.")] = 5.0,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 50,
    card: Annotated[
        Path | None, typer.Option(help="Model card whose table is replaced, with its picture.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Measure a model with the judge; writes report.json, table.md and sheet.png."""
    from freeprompt.train.evaluate import EvalConfig, evaluate_model, update_card

    config = EvalConfig(prompts=prompts, guidance=guidance, steps=steps)
    report = evaluate_model(model, output, config, _prepare(device, 1), judge, typer.echo)
    if card is not None:
        update_card(card, output)
    typer.echo((output / "table.md").read_text(encoding="utf-8"))
    typer.echo(f"{report.prompts} prompts; report in {output}")
