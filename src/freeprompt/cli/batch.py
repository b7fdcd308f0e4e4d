"""`freeprompt batch`: every edit of a manifest, resumable; and how far that is."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freeprompt.cli import show
from freeprompt.cli.counting import progress
from freeprompt.cli.loading import chosen, loads_model
from freeprompt.errors import ConfigError, unknown

if TYPE_CHECKING:
    from freeprompt.batch import Advance, Engine, Run, Status

ENGINES = ("local", "pool", "ray", "shard")
METRICS = ("psnr", "ssim", "mse", "lpips", "clip", "clip_direction", "structure")
NEEDS = {"clip": "clip", "clip_direction": "clip", "structure": "dino"}  # folder or Hub id
WEIGHTS = ("clip", "dino", "lpips_folder")


class _RunUnlessNamed(typer.core.TyperGroup):
    """A group whose command `run` need not be named: `batch MANIFEST` is `batch run MANIFEST`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = bool(args) and (args[0] in self.commands or args[0] in ("-h", "--help"))
        return super().parse_args(ctx, args if named or not args else ["run", *args])


app = typer.Typer(
    cls=_RunUnlessNamed,
    help="Edit by the million: `batch MANIFEST -o OUT`; `status OUT` says how far it is.",
    no_args_is_help=True,
)

Out = Annotated[Path, typer.Argument(help="Folder that `batch` has written.")]


def run(
    manifest: Annotated[
        str, typer.Argument(help="JSONL, CSV or Parquet; a file, or an address such as s3://...")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the results.")],
    engine: Annotated[
        str, typer.Option(help="local, pool (processes), ray, shard (one of many, see --of).")
    ] = "local",
    processes: Annotated[
        int, typer.Option(help="Of pool and shard: processes, each with a model of its own.")
    ] = 1,
    index: Annotated[
        int | None, typer.Option(help="Which shard, from 0.  [default: Slurm's array task]")
    ] = None,
    of: Annotated[
        int | None, typer.Option(help="How many shards.  [default: Slurm's array]")
    ] = None,
    actors: Annotated[
        int | None, typer.Option(help="Of ray: actors, each with a model.  [default: 2]")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Of ray: an existing cluster, or auto.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option("--gpus-per-actor", help="[default: 1 if there are any]")
    ] = None,
    model: Annotated[str, typer.Option(help="Catalogue name, folder or Hub id.")] = "emoji-sd",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16, bfloat16.")] = "auto",
    batch_size: Annotated[
        int, typer.Option(min=0, help="Targets in a batch; 0 finds it from memory.")
    ] = 0,
    together: Annotated[
        int | None,
        typer.Option(min=1, help="Images whose targets may share batches.  [default: 4]"),
    ] = None,
    root: Annotated[
        str | None, typer.Option(help="Where pictures lie.  [default: where the manifest does]")
    ] = None,
    format: Annotated[
        str, typer.Option(help="folders (PNG files) or wds (WebDataset tars).")
    ] = "folders",
    method: Annotated[str, typer.Option(help="Where a row names none.")] = "fpe",
    inversion: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    source: Annotated[str | None, typer.Option(help="Source prompt, likewise.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Likewise.  [default: the model's, mostly 50]")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Likewise.  [default: the model's, mostly 7.5]")
    ] = None,
    negative: Annotated[str, typer.Option(help="Likewise.")] = "",
    native: Annotated[
        bool, typer.Option("--native", help="Keep the size that the model worked at.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A parameter for the rows whose method has it; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the run; mixed with the id of each row.")] = 0,
    seeds: Annotated[
        str, typer.Option(help="hashed mixes seed and id; given takes seeds as they are.")
    ] = "hashed",
    reconstruct: Annotated[
        bool, typer.Option(help="Measure each inversion by denoising it on its own.")
    ] = True,
    metric: Annotated[
        list[str] | None,
        typer.Option(help=f"Score of every edit: {', '.join(METRICS)}; repeatable."),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="Of metrics: clip=FOLDER, dino=FOLDER, lpips_folder=FOLDER."),
    ] = None,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Make edits that ended in an error again.")
    ] = False,
    resume: Annotated[
        bool, typer.Option(help="Go on where an earlier run was; --no-resume wants a new folder.")
    ] = True,
    verify: Annotated[
        str, typer.Option(help="Check finished pictures before going on: hash, size, none.")
    ] = "hash",
) -> None:
    """Make every edit of MANIFEST that is not in OUT yet."""
    from freeprompt.batch import Defaults, Run, Setup, Stopped, Store
    from freeprompt.batch import run as run_batch
    from freeprompt.bench.runner import command_line
    from freeprompt.cli.edit import parse_settings

    if not resume and Store(out).begun:
        raise ConfigError(f"'{out}' holds a run already. Leave --no-resume out, or name another.")
    shard = _shard(engine, index, of)
    asked = Run(
        manifest=manifest,
        out=out,
        root=root,
        engine=_engine(engine, processes, actors, address, gpus),
        index=shard[0],
        of=shard[1],
        format=format,
        together=together or 0,
        retry=retry_errors,
        verify=verify,
        command=command_line(),
        setup=Setup(
            model=model,
            device=device,
            dtype=dtype,
            reading=chosen(),
            batch=batch_size,
            reconstruct=reconstruct,
            metrics=_metrics(metric or []),
            networks=_networks(metric or [], weights or []),
        ),
        defaults=Defaults(
            method=method,
            inversion=inversion,
            parameters=dict(parse_settings(settings or [])),
            source=source,
            steps=steps,
            guidance=guidance,
            negative=negative,
            native=native,
            seed=seed,
            seeds=seeds,
        ),
    )
    try:
        with progress("edits") as report:
            done = run_batch(asked, report)
    except Stopped as stopped:
        print(f"\nfreeprompt: stopped by {stopped}. {_resume(asked)}", file=sys.stderr)
        raise typer.Exit(stopped.exit_code) from None
    _told(asked, done)


def _told(asked: "Run", done: "Advance") -> None:
    """Say how it ended; errors of rows are a failure."""
    made = done.done - done.errors
    typer.echo(f"{made} of {done.total} edits are in {asked.out}")
    if done.errors:
        print(
            f"freeprompt: {done.errors} edits failed. `freeprompt batch status {asked.out}` says "
            "why, and --retry-errors makes them again.",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def _resume(asked: "Run") -> str:
    return f"Nothing that was finished is lost. Go on with:\n  {asked.command}"


def status(
    out: Out,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Say how far a run is, what failed and why, how fast it goes, and how long it will take."""
    from freeprompt.batch import look

    found = look(out)
    if as_json:
        show.print_json({**vars(found), "left": found.left, "seconds_left": found.seconds_left})
        return
    typer.echo("\n".join(_described(found)))


def _described(found: "Status") -> list[str]:
    lines = [f"{found.done} done, {found.failed} failed, {found.left} left of {found.total}"]
    lines += [f"  {count} x {why}" for why, count in found.reasons.items()]
    if found.done:
        lines.append(
            f"{found.seconds / found.done:.2f} s and "
            f"{found.sample_forwards / found.done:.0f} sample-forwards an edit, "
            f"{found.bytes / found.done / 1024:.0f} KiB a picture"
        )
    if found.seconds_left is not None and found.left:
        lines.append(f"{found.rate:.2f} edits/s of late: {_span(found.seconds_left)} to go")
    return lines


def _span(seconds: float) -> str:
    """Return a time as people say it."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _engine(
    name: str, processes: int, actors: int | None, address: str | None, gpus: float | None
) -> "Engine":
    from freeprompt.batch import Local, Pool, RayData

    if name not in ENGINES:
        raise unknown(ConfigError, "engine", name, ENGINES)
    if processes < 1 or (actors is not None and actors < 1):
        raise ConfigError("--processes and --actors are numbers from 1 on.")
    if name == "ray":
        if processes > 1:
            raise ConfigError("--processes belongs to --engine pool and shard; ray has --actors.")
        return RayData(actors=2 if actors is None else actors, address=address, gpus=gpus)
    if (actors, address, gpus) != (None, None, None):
        raise ConfigError("--actors, --address and --gpus-per-actor belong to --engine ray.")
    if name == "local" and processes > 1:
        raise ConfigError("--engine local is this process alone. Use --engine pool.")
    return Pool(processes=processes) if name == "pool" or processes > 1 else Local()


def _shard(engine: str, index: int | None, of: int | None) -> tuple[int, int]:
    """Return which shard this is and of how many: as told, or as Slurm says."""
    if engine != "shard":
        if index is not None or of is not None:
            raise ConfigError("--index and --of belong to --engine shard.")
        return 0, 1
    of = _number(of, "SLURM_ARRAY_TASK_COUNT")
    if index is None:
        index = _number(None, "SLURM_ARRAY_TASK_ID") - _first_task(of)
    return index, of


def _first_task(of: int) -> int:
    """Return where Slurm's array begins, after making sure that its tasks are the shards.

    A part of an array that is handed in again, or one with gaps, would make other shards.
    """
    first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0"))
    last = int(os.environ.get("SLURM_ARRAY_TASK_MAX", first + of - 1))
    if last - first + 1 != of:
        raise ConfigError(
            f"Slurm's array goes from {first} to {last}, and that is not {of} shards without a "
            "gap. Give --index and --of as they were."
        )
    return first


def _number(given: int | None, variable: str) -> int:
    if given is not None:
        return given
    try:
        return int(os.environ[variable])
    except (KeyError, ValueError):
        raise ConfigError(
            f"--engine shard needs --index and --of, or to run in a Slurm array; {variable} is "
            "not set."
        ) from None


def _metrics(names: list[str]) -> tuple[str, ...]:
    for name in names:
        if name not in METRICS:
            raise unknown(ConfigError, "metric", name, METRICS)
    return tuple(dict.fromkeys(names))


def _networks(names: list[str], weights: list[str]) -> dict[str, Any]:
    """Return the weights of metrics; each has a metric that reads it, and the other way round."""
    from freeprompt.cli.edit import parse_settings

    given = parse_settings(weights, "--weights", "clip=FOLDER")
    read = {NEEDS.get(name, "lpips_folder" if name == "lpips" else "") for name in names}
    for name in given:
        if name not in WEIGHTS:
            raise unknown(ConfigError, "network", name, WEIGHTS)
        if name not in read:
            raise ConfigError(f"--weights {name} is read by no --metric that is asked for.")
    for name in names:
        if name in NEEDS and NEEDS[name] not in given:
            raise ConfigError(f"{name} needs weights: --weights {NEEDS[name]}=FOLDER_OR_HUB_ID.")
    return {**given, **({"lpips": "squeeze"} if "lpips" in names else {})}


app.command("run")(loads_model(run))
app.command("status")(status)
