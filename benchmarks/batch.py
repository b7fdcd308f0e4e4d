"""What a batch costs beside the edits themselves: by engine, and in memory as manifests grow.

    python benchmarks/batch.py                  # emoji-sd, 24 real images, local, pool and ray
    python benchmarks/batch.py --tiny --steps 2 --images 60         # milliseconds around an edit
    python benchmarks/batch.py --memory         # 10,000 tiny edits in one process: the peak
    python benchmarks/batch.py --manifest --rows 1000000    # reading and sorting a manifest
    python benchmarks/batch.py --writer         # how fast the one that writes is
    python benchmarks/batch.py --engines local --targets 1 --together 1 2 4 8     # side by side

Overhead is the time of a run from its first result to its last that its workers do not spend in
edits (reading, inverting, editing, scoring): for one process wall-clock time less the seconds of
the records, over those seconds; for n workers n times the wall-clock time less the seconds. Loading
the model and starting a cluster happen once, are shown apart, and are no part of it. A plain loop
over `Editor.edit` is measured beside them, as what somebody would write without this.

Edits and overhead stand in one run side by side, so that busy neighbours slow both alike; the share
is what to look at, not the seconds.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common import Report, one_thread, parser
from freeprompt import journal
from freeprompt.batch import Defaults, Engine, Local, Pool, RayData, Reader, Run, Setup, run
from freeprompt.batch.jobs import Group, Job
from freeprompt.batch.sinks import Folders, Sink, Tars, verified
from freeprompt.batch.worker import Finished, Made, begun
from freeprompt.batch.worklist import Worklist
from freeprompt.models.tiny import tiny_sd


def written(folder: Path, images: int, targets: int, side: int) -> Path:
    """Write pictures of noise and a manifest that gives each so many targets."""
    rng = np.random.default_rng(0)
    path = folder / "manifest.jsonl"
    with path.open("w") as file:
        for i in range(images):
            pixels = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
            for t in range(targets):
                row = {"id": f"{i}-{t}", "image": f"{i}.png", "target": f"a car number {t}"}
                file.write(json.dumps(row) + "\n")
    return path


@dataclass
class Clock:
    """Reads the clock when a run begins and after every group."""

    began: float = field(default_factory=time.perf_counter)
    marks: list[tuple[int, float]] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def __call__(self, advance: Any) -> None:
        self.marks.append((advance.done, time.perf_counter()))
        self.cpu.append(time.process_time())

    @property
    def start(self) -> float:
        """Seconds until the first result, which are mostly loading."""
        return self.marks[1][1] - self.began

    def steady(self, workers: int) -> tuple[int, int, float]:
        """Edits at the first result and at the last while all workers are busy; the time between.

        In the end some workers have nothing left to do, which a long run does not notice.
        """
        first, last = self.marks[1], self.marks[-workers]
        return first[0], last[0], last[1] - first[1]


def spent(out: Path, first: int, last: int) -> float:
    """Return the seconds that workers spent in the edits that were recorded in between."""
    lines = (out / "journal" / "part-00000-of-00001.jsonl").read_text().splitlines()
    rows = [row for line in lines for row in json.loads(line)["rows"]]
    return float(sum(row["seconds"] for row in rows[first:last]))


def measured(
    manifest: Path,
    out: Path,
    engine: Engine,
    workers: int,
    args: Namespace,
    model: str,
    together: int,
) -> dict[str, Any]:
    """Return a row of the table: an engine's start, time an edit, and overhead."""
    batch = together * args.targets  # no more and no less than the images side by side need
    setup = Setup(model=model, device="cpu", threads=1, reconstruct=False, batch=batch)
    clock = Clock()
    asked = Run(
        manifest=str(manifest),
        out=out,
        setup=setup,
        defaults=Defaults(steps=args.steps, method="fpe" if model == "emoji-sd" else "sdedit"),
        engine=engine,
        together=together,
    )
    run(asked, clock)
    first, last, wall = clock.steady(workers)
    count, edits = last - first, spent(out, first, last)
    return {
        "engine": engine.name,
        "workers": workers,
        "images together": together,
        "start, s": f"{clock.start:.1f}",
        "edit, s": f"{edits / count:.3f}",
        "wall clock an edit, s": f"{wall / count:.3f}",
        "overhead, ms": f"{1000 * (workers * wall - edits) / count:.1f}",
        "overhead": f"{100 * (workers * wall - edits) / edits:.1f} %",
        "CPU an edit, s": f"{(clock.cpu[-1] - clock.cpu[1]) / count:.3f}" if workers == 1 else "",
    }


def loop(manifest: Path, args: Namespace) -> dict[str, Any]:
    """Return a row of the table for a plain loop over the editor."""
    import freeprompt as fp

    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    editor = fp.load("emoji-sd", device="cpu")
    begin, edits = time.perf_counter(), 0.0
    cpu = time.process_time()
    for i in range(0, len(rows), args.targets):
        image = manifest.parent / rows[i]["image"]
        targets = [row["target"] for row in rows[i : i + args.targets]]
        edits += editor.edit(targets, image=image, steps=args.steps).provenance.seconds
    cpu = time.process_time() - cpu
    wall = time.perf_counter() - begin
    return {
        "engine": "a plain loop",
        "workers": 1,
        "images together": 1,
        "start, s": "",
        "edit, s": f"{edits / len(rows):.3f}",
        "wall clock an edit, s": f"{wall / len(rows):.3f}",
        "overhead, ms": f"{1000 * (wall - edits) / len(rows):.1f}",
        "overhead": f"{100 * (wall - edits) / edits:.1f} %",
        "CPU an edit, s": f"{cpu / len(rows):.3f}",
    }


def overhead(args: Namespace, report: Report) -> None:
    """Measure every engine on the same manifest."""
    engines: list[tuple[Engine, int]] = [
        (Local(), 1),
        (Pool(processes=2), 2),
        (RayData(actors=2), 2),
    ]
    table = []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        manifest = written(base, args.images, args.targets, 16 if args.tiny else 64)
        model = tiny(base) if args.tiny else "emoji-sd"
        for engine, workers in engines:
            if args.engines and engine.name not in args.engines:
                continue
            for together in args.together:
                out = base / f"{engine.name}-{together}"
                table.append(measured(manifest, out, engine, workers, args, model, together))
        if not args.engines or "loop" in args.engines:
            table.append(loop(manifest, args))
    name = "a tiny model" if args.tiny else "emoji-sd"
    title = f"Overhead, {name}, {args.images} images x {args.targets} targets, {args.steps} steps"
    report.add(title, table)


def tiny(folder: Path) -> str:
    """Write a model whose edits are so small that what is around them shows; return its name."""
    pipe = tiny_sd(sample_size=8, channels=(8,) * 4, vae_channels=(8, 8))
    pipe.save_pretrained(folder / "model")
    return str(folder / "model")


class Still:
    """An engine that makes nothing: every edit is the same few bytes."""

    name = "still"

    @contextmanager
    def working(self, setup: Setup, groups: int) -> Iterator["Still"]:
        """Get ready, which is no work."""
        yield self

    def finished(self, groups: Iterable[Group]) -> Iterator[Finished]:
        """Yield a record and a picture of 2 KiB for every job."""
        cost = {"seconds": 0.0, "sample_forwards": 0, "error": None}
        for group in groups:
            yield Finished(
                tuple(Made({**begun(job), **cost}, bytes(2048)) for job in group.jobs),
                {"fingerprint": "none", "batch": 1},
            )


def memory(args: Namespace, report: Report) -> None:
    """Measure the peak of a process that makes tiny edits, by their number."""
    command = [sys.executable, __file__, "--one", str(args.rows), *(["--still"] * args.still)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    row = {
        "edits": args.rows,
        "after a tenth of them, MiB": f"{found['base']:.1f}",
        "after all, MiB": f"{found['made']:.1f}",
        "growth, MiB": f"{found['made'] - found['base']:.1f}",
        "with the results written, MiB": f"{found['peak']:.1f}",
    }
    what = "no model: the run around the edits" if args.still else "a tiny model, one step"
    report.add(f"Peak memory of one process, {what}", [row])


def one(count: int, still: bool) -> None:
    """Make so many tiny edits and print what memory they took."""
    began = time.perf_counter()
    marks: list[float] = []

    def report(advance: Any) -> None:
        if advance.done >= (count / 10, count)[len(marks) % 2] and len(marks) < 2:
            marks.append(peak())

    with tempfile.TemporaryDirectory() as folder:
        manifest = written(Path(folder), count // 50, 50, 16)
        model = tiny(Path(folder))
        asked = Run(
            manifest=str(manifest),
            out=Path(folder) / "out",
            setup=Setup(model=model, device="cpu", threads=1, reconstruct=False, batch=50),
            engine=Still() if still else Local(),
            defaults=Defaults(steps=1, method="sdedit", guidance=1.0),
        )
        assert run(asked, report).errors == 0
    figures = {
        "base": marks[0],
        "made": marks[1],
        "peak": peak(),
        "seconds": time.perf_counter() - began,
    }
    print(json.dumps(figures))


def peak() -> float:
    """Return the largest size of this process so far in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def manifest(args: Namespace, report: Report) -> None:
    """Measure reading a large manifest, checking it and sorting it into groups."""
    before = peak()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.jsonl"
        with path.open("w") as file:
            for i in range(args.rows):
                row = {"id": f"r{i}", "image": f"{i // 4}.png", "target": "a cat", "steps": 50}
                file.write(json.dumps(row) + "\n")
        times = [time.process_time()]
        with suppress(StopIteration):
            for _ in Reader(str(path), Defaults()).jobs():
                pass
        times.append(time.process_time())
        with Worklist(Reader(str(path), Defaults()).jobs(), "m") as work:
            times.append(time.process_time())
            groups = sum(1 for _ in work.groups())
        times.append(time.process_time())
    took = [f"{later - sooner:.1f}" for sooner, later in pairwise(times)]
    names = ("checking", "checking and sorting", "listing the groups")
    row = dict(zip(names, took, strict=True)) | {"growth, MiB": f"{peak() - before:.0f}"}
    report.add(f"A manifest of {args.rows} rows, {groups} images, CPU seconds", [row])


def writer(args: Namespace, report: Report) -> None:
    """Measure writing pictures and their records, and verifying them, without making any."""
    table = []
    rng = np.random.default_rng(0)
    for size, count in ((10 * 2**10, 2000), (400 * 2**10, 500)):
        png = rng.bytes(size)
        for form in ("folders", "wds"):
            with tempfile.TemporaryDirectory() as folder:
                table.append(written_and_verified(Path(folder), form, png, count))
    report.add("Writing and verifying", table)


def written_and_verified(folder: Path, form: str, png: bytes, count: int) -> dict[str, Any]:
    """Write so many pictures with their records; return CPU times."""
    sink: Sink = Tars(folder, "part", {}) if form == "wds" else Folders(folder, "part")
    record = {**begun(Job(id="x", row=1, image="x.png", target="a red cat")), "error": None}
    times, records = [time.process_time()], []
    with journal.writing(folder / "part.jsonl") as lines:
        for i in range(count):
            mine = {**record, "id": f"row-{i}"}
            records.append({**mine, **sink.put(mine, png)})
            lines.append({"rows": [records[-1]]}, sync=False)
    sink.close()
    times.append(time.process_time())
    assert all(verified(folder, record, "hash") for record in records)
    times.append(time.process_time())
    write, check = (1000 * (b - a) / count for a, b in pairwise(times))
    return {
        "format": form,
        "a picture, KiB": len(png) // 1024,
        "writing, ms CPU": f"{write:.2f}",
        "verifying, ms CPU": f"{check:.2f}",
    }


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--images", type=int, default=24)
    made.add_argument("--steps", type=int, default=50)
    made.add_argument("--targets", type=int, default=2, help="of an image")
    made.add_argument("--together", type=int, nargs="*", default=[1], help="images side by side")
    made.add_argument("--rows", type=int, default=10_000)
    made.add_argument("--engines", nargs="*", default=[], help="local, pool, ray, loop")
    made.add_argument("--memory", action="store_true")
    made.add_argument("--manifest", action="store_true")
    made.add_argument("--tiny", action="store_true", help="edits of a tiny model")
    made.add_argument("--still", action="store_true", help="of --memory: without a model")
    made.add_argument("--writer", action="store_true")
    made.add_argument("--one", type=int, help="used by --memory")
    args = made.parse_args()
    least = 3 * max(args.together)
    if args.images < least:
        made.error(f"--images must be at least {least}: three groups, one of them not counted")
    one_thread()
    if args.one:
        one(args.one, args.still)
        return
    report = Report()
    if args.memory:
        memory(args, report)
    elif args.writer:
        writer(args, report)
    elif args.manifest:
        manifest(args, report)
    else:
        overhead(args, report)
    report.write(args.json)


if __name__ == "__main__":
    main()
