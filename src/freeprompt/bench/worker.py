"""One edit: made, measured, scored; whatever happens becomes a row."""

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from freeprompt.api import Editor, EditResult, load
from freeprompt.api.defaults import own_layers
from freeprompt.api.provenance import versions
from freeprompt.bench.contenders import PICTURES, Contender
from freeprompt.bench.fields import Panel, load_panel
from freeprompt.bench.items import Item, SceneItem
from freeprompt.bench.store import Row
from freeprompt.bench.truth import Thresholds, truth_scores
from freeprompt.errors import FreepromptWarning, ImageError
from freeprompt.images import fit, resize, save_png
from freeprompt.inversion import INVERSIONS
from freeprompt.judge import Judge
from freeprompt.methods import FPE, METHODS
from freeprompt.models.defaults import defaults_of
from freeprompt.models.fingerprint import fingerprint
from freeprompt.picture import open_image


@dataclass(frozen=True, kw_only=True)
class Setup:
    """All that a process needs to make edits; it can be sent to another one.

    Attributes:
        model: Catalogue name, folder or Hub id.
        device: As `freeprompt.load` takes it.
        dtype: Likewise.
        metrics: The table [metrics] of a plan.
        thresholds: When an edit counts as right.
        pictures: Folder for the pictures, or None to keep none.
        threads: Threads of torch; 0 leaves them alone.
    """

    model: str
    device: str = "auto"
    dtype: str = "auto"
    metrics: dict[str, Any] = field(default_factory=dict)
    thresholds: Thresholds = field(default_factory=Thresholds)
    pictures: Path | None = None
    threads: int = 0


@dataclass(frozen=True, kw_only=True)
class Made:
    """An edit and what making it cost; pictures of one size."""

    source: Image.Image
    edited: Image.Image
    result: EditResult | None


class Worker:
    """Makes and scores edits with one model.

    Args:
        setup: What to load. Loading happens here, so errors of it do too.
    """

    def __init__(self, setup: Setup):
        if setup.threads:
            torch.set_num_threads(setup.threads)
        self.setup = setup
        self.editor: Editor = load(setup.model, device=setup.device, dtype=setup.dtype)
        self.panel: Panel = load_panel(setup.metrics, str(self.editor.model.device))

    @cached_property
    def judge(self) -> Judge:
        """The judge, loaded when a scene is first scored."""
        return Judge.load(device=self.editor.model.device)

    def about(self) -> dict[str, Any]:
        """Say what edits are made with."""
        model = self.editor.model
        return {
            "model": self.setup.model,
            "fingerprint": fingerprint(self.editor.pipe),
            "device": str(model.device),
            "dtype": str(model.dtype).removeprefix("torch."),
            "versions": versions(),
            "skipped": dict(self.panel.skipped),
        }

    def row(self, item: Item, contender: Contender, key: str) -> Row:
        """Make one edit and score it.

        Args:
            item: What to edit.
            contender: How.
            key: Name of the row.

        Returns:
            The row. If anything fails, `error` says what, and there are no scores.
        """
        row: Row = {
            "key": key,
            "item": item.id,
            "track": item.track,
            "cell": item.cell,
            "label": contender.label,
            "source": item.source,
            "target": item.target,
            "contender": contender.to_dict(),
            "scores": {},
            "failed": [],
            "error": None,
        }
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FreepromptWarning)  # a no-op item is meant
                return {**row, **self._scored(item, contender, key)}
        except Exception as error:  # one bad edit must not end a run of a night
            return {**row, "error": f"{type(error).__name__}: {error}"}

    def _scored(self, item: Item, contender: Contender, key: str) -> Row:
        made = self._made(item, contender)
        scores = self.panel.scores(item, made.source, made.edited)
        extra: Row = {}
        if isinstance(item, SceneItem):
            limits = self.setup.thresholds
            truth = truth_scores(
                item, made.source, made.edited, self.judge, limits, self.panel.lpips
            )
            extra = {"failed": truth.pop("failed"), "read": truth.pop("read")}
            scores |= truth
        return {
            **extra,
            "scores": {**scores, **(_cost(made.result) if contender.method != PICTURES else {})},
            "provenance": made.result.provenance.to_dict() if made.result else None,
            "pictures": self._kept(made, key),
        }

    def _made(self, item: Item, contender: Contender) -> Made:
        match contender.method:
            case "copy":
                source = self._source(item, contender)
                return Made(source=source, edited=source, result=None)
            case "ideal":
                source = self._source(item, contender)
                assert isinstance(item, SceneItem)
                ideal = Image.fromarray(item.ideal.render(source.width).image)
                return Made(source=source, edited=ideal, result=None)
            case "plain":  # a method that shares nothing
                return self._edited(item, contender, FPE(share=0))
            case "pictures":
                source = self._source(item, contender)
                edited = found_picture(item, **contender.parameters)
                return Made(source=source, edited=resize(edited, source.size), result=None)
            case name:
                given = contender.hinted(item)
                layers = own_layers(defaults_of(self.editor.model), name, given)
                return self._edited(item, contender, METHODS[name].build({**layers, **given}))

    def _source(self, item: Item, contender: Contender) -> Image.Image:
        """The source as a model of this size sees it."""
        model = self.editor.model
        picture = item.picture(model.native_size)
        if picture is None:
            return self._edited(item, contender, FPE(share=0)).source
        size = fit(
            picture.size,
            area=model.native_size**2,
            multiple=model.granularity,
            shortest=model.shortest_side,
        )
        return resize(picture, size)

    def _edited(self, item: Item, contender: Contender, method: Any) -> Made:
        editor, picture = self.editor, item.picture(self.editor.model.native_size)
        options: dict[str, Any] = {
            "steps": contender.denoising_steps,
            "guidance": contender.guidance,
        }
        if contender.inversion is not None:
            chosen = INVERSIONS[contender.inversion]
            options["inversion"] = chosen.build(contender.inversion_parameters)
        if picture is None:
            result = editor.edit(
                item.target, source=item.source, method=method, seed=item.seed, **options
            )
            return Made(source=result.source, edited=result.images[0], result=result)
        if contender.hints == "mask":
            options["mask"] = painted(item, picture.size)
        source = item.source if contender.told else None
        result = editor.edit(
            item.target, image=picture, source=source, method=method, native=True, **options
        )
        edited = result.images[0]
        return Made(source=resize(picture, edited.size), edited=edited, result=result)

    def _kept(self, made: Made, key: str) -> dict[str, str]:
        """Save the pictures; the same source of several edits is saved once."""
        if self.setup.pictures is None:
            return {}
        names = {}
        for what, picture in (("source", made.source), ("edited", made.edited)):
            digest = sha256(picture.tobytes()).hexdigest()[:20]
            names[what] = f"{key if what == 'edited' else 'source-' + digest}.png"
            path = self.setup.pictures / names[what]
            if not path.exists():
                save_png(picture, path, {})
        return names


def painted(item: Item, size: tuple[int, int]) -> Image.Image | None:
    """Paint what the data set says is edited: white there, black elsewhere; None if it is silent.

    Args:
        item: The item.
        size: Width and height in pixels.
    """
    background = item.background(size)
    return None if background is None else Image.fromarray(~background).convert("L")


def found_picture(item: Item, folder: str, strip: bool) -> Image.Image:
    """Find the edit of an item that was made elsewhere.

    Args:
        item: The item.
        folder: Where the edits are, named like the item's image or `ID.png`.
        strip: Whether each is a row of pictures whose last, square one is the edit.

    Raises:
        ImageError: if there is none, or it is not what `strip` says: read wrongly, a plain picture
            would be scored without complaint.
    """
    own = getattr(item, "path", None)
    names = [f"{item.id}.png"]
    if own is not None:
        stems = [Path(*own.parts[-depth:]) for depth in (2, 1) if len(own.parts) >= depth]
        names += [str(stem.with_suffix(end)) for stem in stems for end in (own.suffix, ".png")]
    there = [path for path in (Path(folder) / name for name in names) if path.is_file()]
    if not there:
        raise ImageError(f"'{folder}' has no picture of item {item.id}, such as {names[-1]}.")
    picture = open_image(there[0]).image
    width, height = picture.size
    if strip != (width >= 2 * height):
        raise ImageError(
            f"'{there[0]}' is {width} × {height}, "
            + ("no strip of squares. Set strip = false." if strip else "a strip. Set strip = true.")
        )
    return picture.crop((width - height, 0, width, height)) if strip else picture


def _cost(result: EditResult | None) -> dict[str, Any]:
    """Return what the edit cost; nothing where nothing was edited."""
    if result is None:
        return {"sample_forwards": 0, "seconds": 0.0}
    p = result.provenance
    cost: dict[str, Any] = {"sample_forwards": p.sample_forwards, "seconds": p.seconds}
    if p.device.startswith("cuda"):  # elsewhere it is that of the whole process so far
        cost["peak_mib"] = p.peak_memory_bytes / 2**20
    return cost


_WORKER: Worker | Exception | None = None


def start(setup: Setup) -> None:
    """Load everything in a new process; what goes wrong is kept for whoever asks."""
    global _WORKER
    try:
        _WORKER = Worker(setup)
    except Exception as error:
        _WORKER = error


def worker() -> Worker:
    """This process's worker.

    Raises:
        Exception: what went wrong when it was started.
    """
    if isinstance(_WORKER, Exception):
        raise _WORKER
    assert _WORKER is not None
    return _WORKER


def about() -> dict[str, Any]:
    """Ask this process's worker what it makes edits with."""
    return worker().about()


def row(item: Item, contender: Contender, key: str) -> Row:
    """Have this process's worker make one edit."""
    return worker().row(item, contender, key)
