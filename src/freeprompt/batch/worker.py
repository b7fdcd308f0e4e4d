"""One group of edits made with one model; whatever happens to an edit becomes its record."""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from PIL import Image

from freeprompt.api import Editor, EditResult, InvertedImage, load
from freeprompt.api.provenance import versions
from freeprompt.api.together import ended_together
from freeprompt.batch.jobs import Group, Job
from freeprompt.batch.memory import found_batch_size
from freeprompt.batch.places import Root
from freeprompt.bench.fields import Panel, load_panel
from freeprompt.errors import FreepromptWarning, ModelError
from freeprompt.images import png_bytes, resize
from freeprompt.models.fingerprint import fingerprint
from freeprompt.models.memory import ran_out

Record = dict[str, Any]
ALWAYS = ("psnr", "ssim", "mse")  # metrics that need no network


@dataclass(frozen=True, kw_only=True)
class Setup:
    """All that a worker needs to make edits; it can be sent to another process or machine.

    Attributes:
        model: Catalogue name, folder or Hub id.
        device: As `freeprompt.load` takes it.
        dtype: Likewise.
        reading: How the model's files are read and fitted into memory, as `freeprompt.load` takes
            it.
        root: Folder or address that the pictures lie in.
        batch: Targets of an image that are made at a time; 0 finds it from memory.
        threads: Threads of torch; 0 leaves them alone.
        reconstruct: Whether each inversion is measured by denoising it on its own.
        metrics: Names of the scores wanted, see `freeprompt.bench.fields`.
        networks: Weights of metrics that need some, as a plan's table [metrics].
    """

    model: str
    device: str = "auto"
    dtype: str = "auto"
    reading: Mapping[str, Any] = field(default_factory=dict)
    root: str = "."
    batch: int = 0
    threads: int = 0
    reconstruct: bool = True
    metrics: tuple[str, ...] = ()
    networks: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """One edit, done or failed: its record, and the bytes of its picture."""

    record: Record
    png: bytes | None = None


@dataclass(frozen=True)
class Finished:
    """What came of a group: its edits, and what they were made with."""

    made: tuple[Made, ...]
    about: Mapping[str, Any] = field(default_factory=dict)


class Worker:
    """Makes groups of edits with one model.

    Args:
        setup: What to load. Loading happens here, so errors of it do too.
    """

    def __init__(self, setup: Setup):
        if setup.threads:
            torch.set_num_threads(setup.threads)
        self.setup = setup
        self.root = Root(setup.root)
        reading = dict(setup.reading)
        self.editor: Editor = load(setup.model, device=setup.device, dtype=setup.dtype, **reading)
        options = {"lpips": "", **setup.networks}
        self.panel: Panel | None = None
        if setup.metrics:
            self.panel = load_panel(options, str(self.editor.model.device))
            for why in self.panel.skipped.values():  # a night without what was asked for is lost
                raise ModelError(f"A metric that is asked for cannot be measured. {why}")
        self.batch = setup.batch or found_batch_size(self.editor)
        memory = self.editor.model.memory
        if not memory.at_once:  # what is free just now must not decide who shares a batch
            self.editor.model.memory = replace(memory, at_once=self.batch)
        self.about = {
            "model": setup.model,
            "fingerprint": fingerprint(self.editor.pipe),
            "device": self.editor.model.device.type,
            "dtype": str(self.editor.model.dtype).removeprefix("torch."),
            "versions": versions(),
            "batch": self.batch,
        }

    def finished(self, group: Group) -> Finished:
        """Make those edits of a group that are wanted.

        Its images are made side by side, as many as the batch size allows. What a batch cannot do
        is tried one by one, so that one bad prompt spoils no other; what does not fit into memory,
        the editor makes in smaller parts.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FreepromptWarning)  # they stand in the record's notes
            made = [made for pack in self._packs(group) for made in self._pack(pack)]
        return Finished(tuple(m for m in made if m.record["id"] in group.wanted), self.about)

    def _packs(self, group: Group) -> Iterator[list[Group]]:
        """Yield the images that share batches, as the group has them and not as they are wanted."""
        pack, size = list[Group](), 0
        for family in group.families():
            own = min(len(family.jobs), self.batch)
            alone = any(job.pair.method.trains for job in family.jobs)
            if pack and (alone or size + own > self.batch):
                yield pack
                pack, size = [], 0
            pack.append(family)
            size = self.batch if alone else size + own
        yield pack

    def _pack(self, pack: Sequence[Group]) -> list[Made]:
        if not any(family.wanted for family in pack):
            return []
        if len(pack) == 1:
            return _family(self, pack[0], self.editor)
        began = time.perf_counter()
        ended = ended_together(self.editor, [partial(_family, self, family) for family in pack])
        made = [made for one in ended for made in one.get()]
        _share_time(made, time.perf_counter() - began)
        for one in made:
            one.record["beside"] = len(pack) - 1
        return made


def _family(worker: Worker, family: Group, editor: Editor) -> list[Made]:
    """Make the edits of one image.

    All of them if others are beside it, as who is in a batch must not depend on what was finished
    before; else those batches in which one is wanted.
    """
    beside = editor.model.lane is not None
    try:
        shared = _Shared(worker, family, editor)
        batches = [
            batch
            for batch in family.batches(worker.batch)
            if beside or any(job.id in family.wanted for job in batch)
        ]
        return [made for batch in batches for made in _batch(shared, batch)]
    except Exception as error:  # an unreadable image must not end a run of a night
        if beside and ran_out(error):
            raise  # then it is made alone
        return [_failed(job, error) for job in family.jobs]


def _batch(shared: "_Shared", batch: Sequence[Job]) -> Iterator[Made]:
    try:
        yield from shared.edited(batch)
    except Exception as error:
        if shared.beside and ran_out(error):
            raise
        if len(batch) == 1:
            yield _failed(batch[0], error)
            return
        for job in batch:
            yield from _batch(shared, [job])


def _share_time(made: Sequence[Made], seconds: float) -> None:
    """Divide the time of edits that were made side by side: each waited for all of them.

    By their work, or evenly where no edit evaluates anything, such as `sdedit` of strength 0.
    """
    done = [one.record for one in made if one.record["error"] is None]
    work = sum(record["sample_forwards"] for record in done)
    for record in done:
        share = record["sample_forwards"] / work if work else 1 / len(done)
        record["seconds"] = round(seconds * share, 4)


class _Shared:
    """The source that a group of edits has in common."""

    def __init__(self, worker: Worker, group: Group, editor: Editor):
        self.worker, self.editor, self.count = worker, editor, len(group.jobs)
        self.inverted: InvertedImage | None = None
        self.forwards, self.seconds = 0, 0.0
        first = group.jobs[0]
        if first.image is not None:
            self._invert(first)

    @property
    def beside(self) -> bool:
        """Whether other images are made at the same time."""
        return self.editor.model.lane is not None

    def _invert(self, job: Job) -> None:
        """Invert the image, and denoise the inversion on its own if that is to be measured."""
        model, began = self.editor.model, time.perf_counter()
        before = model.sample_forwards
        assert job.image is not None
        self.inverted = self.editor.invert(
            self.worker.root.read(job.image), source=job.source or "", **_settings(job)
        )
        if self.worker.setup.reconstruct and self.inverted.inverted:
            self.inverted.reconstruction  # noqa: B018  computed when first asked for
        self.forwards = model.sample_forwards - before
        self.seconds = time.perf_counter() - began

    def edited(self, batch: Sequence[Job]) -> list[Made]:
        """Make one batch: jobs that differ in their targets alone."""
        job, editor = batch[0], self.editor
        mask = None if job.mask is None else self.worker.root.read(job.mask)
        result = editor.edit(
            [job.target for job in batch],
            source=job.source,
            image=self.inverted,
            mask=mask,
            native=job.native,
            **_settings(job),
        )
        return [self._made(job, result, place) for place, job in enumerate(batch)]

    def _made(self, job: Job, result: EditResult, place: int) -> Made:
        """Return the record of one edit; the work of all is divided among them.

        The recipe inside the picture names the whole batch, because that makes it again.
        """
        p, picture = result.provenance, result.images[place]
        made = len(result.images)
        measured = self.inverted is not None and self.inverted.reconstructed
        record = {
            **begun(job),
            "image_sha256": p.image_sha256,
            "steps": p.steps,
            "guidance": p.guidance,
            "inversion": p.inversion,
            "parameters": p.parameters,
            "inversion_parameters": p.inversion_parameters,
            "size": list(p.size),
            "batch": made,
            "beside": 0,
            "notes": list(p.notes),
            "flagged": p.flagged[place],
            "reconstruction_psnr_db": self._psnr() if measured else None,
            "sample_forwards": round(p.sample_forwards / made + self.forwards / self.count, 3),
            "seconds": round(p.seconds / made + self.seconds / self.count, 4),
            "scores": self._scores(job, result, picture),
            "error": None,
        }
        return Made(record, png_bytes(picture, p.png_text()))

    def _psnr(self) -> float:
        assert self.inverted is not None
        return round(self.inverted.psnr, 3)

    def _scores(self, job: Job, result: EditResult, picture: Image.Image) -> dict[str, Any]:
        if self.worker.panel is None:
            return {}
        source = self.inverted.picture.image if self.inverted is not None else result.source
        item = _Asked(source=job.source or "", target=job.target)
        found = self.worker.panel.scores(item, resize(source, picture.size), picture)  # type: ignore[arg-type]
        return {name: found[name] for name in self.worker.setup.metrics if name in found}


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What the metrics must know of an edit."""

    source: str
    target: str

    def background(self, size: tuple[int, int]) -> None:
        """Return nothing: it is not known what should have stayed."""
        return


def _settings(job: Job) -> dict[str, Any]:
    return {
        "method": job.method,
        "inversion": job.inversion,
        "steps": job.steps,
        "guidance": job.guidance,
        "negative": job.negative,
        "seed": job.seed,
        **job.parameters,
    }


def begun(job: Job) -> Record:
    """Return what is known of an edit before it is made."""
    return {
        "id": job.id,
        "row": job.row,
        "key": job.key,
        "image": job.image,
        "source": job.source,
        "target": job.target,
        "mask": job.mask,
        "method": job.method,
        "inversion": job.inversion,
        "parameters": dict(job.parameters),
        "steps": job.steps,
        "guidance": job.guidance,
        "negative": job.negative,
        "native": job.native,
        "seed": job.seed,
        **job.carried,
    }


def _failed(job: Job, error: BaseException) -> Made:
    return Made(failed(job, f"{type(error).__name__}: {error}"))


def failed(job: Job, why: str) -> Record:
    """Return the record of an edit that could not be made."""
    return {**begun(job), "error": why}
