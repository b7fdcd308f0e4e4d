"""Running many interventions on the same pairs, keeping every score."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from freeprompt.analysis.collect import claim, start_noise
from freeprompt.analysis.interventions import PLAIN, Cell
from freeprompt.analysis.scoring import Scorer, Scores, View
from freeprompt.analysis.tasks import Case
from freeprompt.core import Trajectory
from freeprompt.images import save_png, to_images
from freeprompt.methods import Task
from freeprompt.methods.base import generated_source
from freeprompt.models import UNetModel
from freeprompt.models.fingerprint import fingerprint


@dataclass(frozen=True, kw_only=True)
class Row:
    """The scores of one pair under one cell."""

    cell: str
    case: str
    target: int
    attribute: str
    seed: int
    scores: Scores


@dataclass(frozen=True, kw_only=True)
class Work:
    """How much there is to do: printed before anything is started."""

    cells: int
    pairs: int
    forwards: int

    def __str__(self) -> str:
        return (
            f"{self.cells} interventions x {self.pairs} pairs, about {self.forwards} "
            "sample-forwards still to compute"
        )


class Laboratory:
    """Runs interventions on generated sources, keeps every score, and does nothing twice.

    A source is generated once and its latents kept; a cell then costs two rows a target and one
    row of the source while it is read. Scores are appended to `scores.jsonl` as they are made, so
    a run that is stopped goes on where it was.

    Args:
        model: The model.
        cases: Sources and their targets.
        scorer: Turns pictures into numbers.
        folder: Where scores, sources and example pictures are kept.
        steps: Number of denoising steps.
        guidance: Guidance scale.
        examples: The first so many cases keep their pictures.
    """

    def __init__(
        self,
        model: UNetModel,
        cases: Sequence[Case],
        *,
        scorer: Scorer,
        folder: Path,
        steps: int = 50,
        guidance: float = 7.5,
        examples: int = 4,
    ):
        self.model, self.cases, self.scorer, self.folder = model, tuple(cases), scorer, folder
        self.steps, self.guidance = steps, guidance
        self._shown = {case.name for case in self.cases[:examples]}
        self.settings = {
            "model": model.name,
            "fingerprint": fingerprint(model.pipe),
            "steps": steps,
            "guidance": guidance,
            "scorer": scorer.name,
        }
        claim(folder / "study.json", self.settings)
        self._rows = {(row.cell, row.case, row.target): row for row in _read_rows(self._log)}

    @property
    def _log(self) -> Path:
        return self.folder / "scores.jsonl"

    def plan(self, cells: Sequence[Cell], cases: Sequence[Case] | None = None) -> Work:
        """Return how much of the work is still to do."""
        cases = self.cases if cases is None else cases
        forwards = 0
        for case in cases:
            missing = self._missing(_distinct(cells), case)
            if missing and not self._source_file(case).exists():
                forwards += self.steps * 2 * (1 + len(case.targets))
            count, guided = len(case.targets), self.guidance > 1
            forwards += sum(cell.forwards(count, self.steps, guided) for cell in missing)
        pairs = sum(len(case.targets) for case in cases)
        return Work(cells=len(_distinct(cells)), pairs=pairs, forwards=forwards)

    @torch.no_grad()
    def run(
        self,
        cells: Sequence[Cell],
        cases: Sequence[Case] | None = None,
        callback: Callable[[int, int], None] | None = None,
    ) -> "Results":
        """Carry out what is missing and return the scores of all.

        Args:
            cells: What to try; equal cells are computed once.
            cases: A part of the cases; all by default.
            callback: Called with the number of (cell, case) done and of all, after each.
        """
        cases = self.cases if cases is None else tuple(cases)
        distinct, done = _distinct(cells), 0
        for case in cases:
            missing = {cell.key for cell in self._missing(distinct, case)}
            source = self._source(case) if missing else None
            for cell in distinct:
                if source is not None and cell.key in missing:
                    self._one(cell, case, source)
                done += 1
                if callback is not None:
                    callback(done, len(distinct) * len(cases))
        return Results(self, tuple(cells), cases)

    def rows(self, cell: Cell, cases: Iterable[Case]) -> list[Row]:
        """Return a cell's scores on some cases, pair by pair in order."""
        keys = [(cell.key, case.name, i) for case in cases for i in range(len(case.targets))]
        return [self._rows[key] for key in keys]

    def example(self, case: Case, cell: Cell | None, target: int = 0) -> Image.Image | None:
        """Return a kept picture: of a cell, or of the source if `cell` is None."""
        path = self._picture(case, cell, target)
        if not path.exists():
            return None
        with Image.open(path) as image:
            return image.copy()

    def _missing(self, cells: Sequence[Cell], case: Case) -> list[Cell]:
        wanted = range(len(case.targets))
        return [c for c in cells if any((c.key, case.name, i) not in self._rows for i in wanted)]

    def _one(self, cell: Cell, case: Case, source: "_Source") -> None:
        task = self._task(case, source.trajectory, cell.other_noise)
        edited = source.plain if cell.key == PLAIN.key else self._pictures(cell, task)
        view = View(case=case, source=source.picture, plain=source.plain, edited=edited)
        rows = [
            Row(
                cell=cell.key,
                case=case.name,
                target=i,
                attribute=case.attribute,
                seed=case.seed,
                scores=scores,
            )
            for i, scores in enumerate(self.scorer(view))
        ]
        self._keep_pictures(cell, case, source.picture, edited)
        self._append(rows)

    def _pictures(self, cell: Cell, task: Task) -> list[Image.Image]:
        return to_images(self.model.decode(cell.method(self.model, task).targets))

    def _task(self, case: Case, trajectory: Trajectory | None, other: bool = False) -> Task:
        start = start_noise(self.model, case.seed)
        if other:  # a stream of noise that no source uses
            start = start_noise(self.model, 2**31 + case.seed)
        return Task(
            targets=case.targets,
            source=case.source,
            start=start,
            steps=self.steps,
            guidance=self.guidance,
            trajectory=trajectory,
            seed=case.seed,
        )

    def _source(self, case: Case) -> "_Source":
        path = self._source_file(case)
        if path.exists():
            tensors = load_file(path)
        else:
            trajectory = generated_source(self.model, self._task(case, None))
            plain = PLAIN.method(self.model, self._task(case, trajectory)).targets
            tensors = {"trajectory": trajectory.latents.cpu(), "plain": plain.cpu()}
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".tmp")
            save_file({k: v.contiguous() for k, v in tensors.items()}, draft)
            draft.replace(path)
        latents, plain = (
            tensors[name].to(self.model.device, self.model.dtype)
            for name in ("trajectory", "plain")
        )
        pictures = to_images(self.model.decode(torch.cat([latents[:1], plain])))
        return _Source(
            trajectory=Trajectory(latents=latents, prompt=case.source),
            picture=pictures[0],
            plain=pictures[1:],
        )

    def _source_file(self, case: Case) -> Path:
        return self.folder / "sources" / f"{case.name}-{len(case.targets)}.safetensors"

    def _picture(self, case: Case, cell: Cell | None, target: int) -> Path:
        folder = self.folder / "pictures" / case.name
        if cell is None:
            return folder / "source.png"
        return folder / f"{hashlib.sha256(cell.key.encode()).hexdigest()[:12]}-{target}.png"

    def _keep_pictures(
        self, cell: Cell, case: Case, source: Image.Image, edited: Sequence[Image.Image]
    ) -> None:
        if case.name not in self._shown:
            return
        save_png(source, self._picture(case, None, 0), {})
        for i, picture in enumerate(edited):
            save_png(picture, self._picture(case, cell, i), {})

    def _append(self, rows: Sequence[Row]) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(asdict(row)) + "\n")
        self._rows |= {(row.cell, row.case, row.target): row for row in rows}


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A generated source, the plain generations of its targets, and its latents."""

    trajectory: Trajectory
    picture: Image.Image
    plain: list[Image.Image]


class Results:
    """What a laboratory found: scores by cell.

    Args:
        lab: Where they were made.
        cells: The cells, in order.
        cases: The cases.
    """

    def __init__(self, lab: Laboratory, cells: tuple[Cell, ...], cases: tuple[Case, ...]):
        self.lab, self.cells, self.cases = lab, cells, cases

    def rows(self, cell: Cell) -> list[Row]:
        """Return a cell's scores pair by pair, in the same order for every cell."""
        return self.lab.rows(cell, self.cases)


def _distinct(cells: Sequence[Cell]) -> list[Cell]:
    return list({cell.key: cell for cell in reversed(cells)}.values())[::-1]


def _read_rows(path: Path) -> Iterator[Row]:
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    whole, broken, tail = text.rpartition("\n")
    if tail:  # a run was killed while it wrote its last line
        path.write_text(whole + broken, encoding="utf-8")
    yield from (Row(**json.loads(line)) for line in whole.splitlines())
