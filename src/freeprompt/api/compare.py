"""One source, one target prompt, every method: a labelled grid with what each one cost."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from freeprompt.api.checks import resolve, whole
from freeprompt.api.editor import Editor
from freeprompt.api.result import EditResult
from freeprompt.api.source import InvertedImage, start_noise
from freeprompt.core import Tape
from freeprompt.core.loop import Callback
from freeprompt.errors import ConfigError, FreepromptError
from freeprompt.images import grid, notice, save_png, to_images, write_json
from freeprompt.methods import METHODS, Task
from freeprompt.methods.base import generated_source
from freeprompt.models import UNetModel
from freeprompt.models.defaults import defaults_of
from freeprompt.picture import ImageInput, open_image


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One method's part in a comparison.

    Attributes:
        method: Its name.
        result: Its edit; None if it refused.
        refused: Why, or empty.
        sample_forwards: Cost of edit and inversion.
        seconds: Likewise.
    """

    method: str
    result: EditResult | None
    refused: str = ""
    sample_forwards: int = 0
    seconds: float = 0.0

    @property
    def caption(self) -> str:
        """Name and cost, or that it refused."""
        if self.result is None:
            return f"{self.method}: refused"
        own = METHODS[self.method].own_steps
        name = f"{self.method} ({own} steps)" if own else self.method
        return f"{name}\n{self.sample_forwards} sample-forwards, {self.seconds:.1f} s"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What every method made of one source.

    Attributes:
        target: Target prompt.
        label: What the source is.
        source: Its picture.
        entries: One a method, in the order asked for.
    """

    target: str
    label: str
    source: Image.Image
    entries: tuple[Entry, ...]

    def picture(self, columns: int = 4) -> Image.Image:
        """Return the grid: the source, then every method with its cost below it."""
        size = (256, 256)
        cells = [(self.label, self.source)]
        for entry in self.entries:
            shown = entry.result.images[0] if entry.result else notice(entry.refused, size)
            cells.append((entry.caption, shown))
        return grid(cells, columns=columns)

    def to_dict(self) -> dict[str, Any]:
        """Return costs, refusals and provenance as JSON types."""
        entries = [
            {
                "method": e.method,
                "refused": e.refused or None,
                "sample_forwards": e.sample_forwards,
                "seconds": round(e.seconds, 3),
                "provenance": e.result.provenance.to_dict() if e.result else None,
            }
            for e in self.entries
        ]
        return {"target": self.target, "source": self.label, "entries": entries}

    def save(self, path: str | Path, columns: int = 4) -> list[Path]:
        """Write the grid to a .png; or grid, every edit and a .json into a folder.

        Every edit carries its provenance.

        Raises:
            SaveError: if something cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() == ".png":
            save_png(self.picture(columns), path, {})
            return [path]
        files = [path / "comparison.png", path / "comparison.json"]
        save_png(self.picture(columns), files[0], {})
        write_json(files[1], self.to_dict())
        for entry in self.entries:
            if entry.result is not None:
                files.append(path / f"{entry.method}.png")
                text = entry.result.provenance.png_text()
                save_png(entry.result.images[0], files[-1], text)
        return files


def chosen_methods(methods: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names that `all` or a list stands for.

    Raises:
        UnknownMethod: for a name that does not exist.
        ConfigError: if there is none.
    """
    names = tuple(METHODS) if methods == "all" else methods
    if isinstance(names, str):
        names = tuple(name.strip() for name in names.split(",") if name.strip())
    for name in names:
        METHODS[name]  # raises for a name that does not exist
    if not names:
        raise ConfigError("There is no method to compare. Give names, or 'all'.")
    return tuple(dict.fromkeys(names))


def compare(
    editor: Editor,
    target: str,
    *,
    source: str | None = None,
    image: ImageInput | None = None,
    methods: str | Sequence[str] = "all",
    steps: int | None = None,
    guidance: float | None = None,
    negative: str = "",
    seed: int = 0,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    begin: Callable[[str], Callback | None] = lambda method: None,
) -> Comparison:
    """Edit one source towards one target with several methods.

    A method that cannot do this edit is shown with its reason; the others go on. Methods made for
    a number of steps of their own run with that, on the picture of the same source.

    Args:
        editor: The model.
        target: Target prompt.
        source: Prompt of the source; for a real image what it shows, which some methods need.
        image: A real image.
        methods: Names, or `all`.
        steps: Number of denoising steps; None for the model's default.
        guidance: Guidance scale; None for the model's default.
        negative: Prompt of the unconditional rows.
        seed: Of the start noise.
        settings: Parameters by method.
        begin: Called with each method's name; returns its progress callback.

    Raises:
        ConfigError: if there is no source, no method, or settings for a method not compared.
    """
    names, given = chosen_methods(methods), dict(settings or {})
    if methods == "all":
        names = fitting_methods(editor.model)
    stray = sorted(given.keys() - set(names))
    if stray:
        raise ConfigError(
            f"There are settings for {stray[0]!r}, which is not compared. Compared are: "
            f"{', '.join(names)}."
        )
    for name in names:
        resolve(name, None, given.get(name, {}))
    if source is None and image is None:
        raise ConfigError("There is nothing to edit. Give source= (a prompt) or image=.")
    usual = defaults_of(editor.model)
    number = usual.steps if steps is None else whole("The number of steps", steps)
    scale = usual.guidance if guidance is None else guidance
    rules = {"guidance": scale, "negative": negative, "seed": seed}
    bench = _Bench(editor, target, source, image, number, rules)
    entries = tuple(bench.run(name, given.get(name, {}), begin(name)) for name in names)
    label = "source: a real image" if image is not None else f"source: {source}"
    return Comparison(target=target, label=label, source=bench.picture(), entries=entries)


def fitting_methods(model: UNetModel) -> tuple[str, ...]:
    """Return the methods that are for this kind of model: to a prompt, or by instruction."""
    instructs = model.takes == "picture"
    return tuple(name for name, method in METHODS.items() if method.instructs == instructs)


@dataclass
class _Bench:
    """The source of a comparison, and the inversions of it that methods share."""

    editor: Editor
    target: str
    source: str | None
    image: ImageInput | None
    steps: int
    rules: Mapping[str, Any]
    generated: Image.Image | None = None
    inversions: dict[Any, tuple[InvertedImage, int, float]] = field(default_factory=dict)

    def run(self, name: str, settings: Mapping[str, Any], callback: Callback | None) -> Entry:
        """Edit with one method; a refusal is an entry too."""
        try:
            return self._edited(name, settings, callback)
        except FreepromptError as error:
            return Entry(method=name, result=None, refused=str(error))

    def _edited(self, name: str, settings: Mapping[str, Any], callback: Callback | None) -> Entry:
        how, via = resolve(name, None, settings)
        steps = how.own_steps or self.steps
        plan = {**self.rules, "method": name, "steps": steps, "source": self.source}
        image: ImageInput | InvertedImage | None = self.image
        forwards, seconds = 0, 0.0
        if self.image is None and steps != self.steps:
            image = self.picture()
        if image is not None and how.inverts:
            # what a method records meanwhile is its own
            key = (via, steps, name if how.while_inverting(Tape(), steps) else None)
            if key not in self.inversions:
                self.inversions[key] = self._inverted(plan, settings, callback)
            image, forwards, seconds = self.inversions[key]
        result = self.editor.edit(self.target, image=image, callback=callback, **plan, **settings)
        if self.image is None and self.generated is None and result.generated is not None:
            self.generated = result.generated
        p = result.provenance
        return Entry(
            method=name,
            result=result,
            sample_forwards=forwards + p.sample_forwards,
            seconds=seconds + p.seconds,
        )

    def _inverted(
        self,
        plan: Mapping[str, Any],
        settings: Mapping[str, Any],
        callback: Callback | None,
    ) -> tuple[InvertedImage, int, float]:
        before, began = self.editor.model.sample_forwards, time.perf_counter()
        plan = {**plan, "source": plan["source"] or ""}
        image = self.picture() if self.image is None else self.image
        inverted = self.editor.invert(image, callback=callback, **plan, **settings)
        forwards = self.editor.model.sample_forwards - before
        return inverted, forwards, time.perf_counter() - began

    def picture(self) -> Image.Image:
        """Return the source's picture; a generated one is made once, plainly."""
        if self.image is not None:
            return open_image(self.image).image
        if self.generated is None:
            assert self.source is not None
            self.generated = self._generated(self.source)
        return self.generated

    @torch.no_grad()
    def _generated(self, prompt: str) -> Image.Image:
        model = self.editor.model
        size = (model.native_size, model.native_size)
        start = start_noise(model, size, self.rules["seed"], None, None)
        task = Task(
            targets=(self.target,), source=prompt, start=start, steps=self.steps, **self.rules
        )
        return to_images(model.decode(generated_source(model, task).clean))[0]
