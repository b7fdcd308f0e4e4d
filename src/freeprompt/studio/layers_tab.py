"""The tab in which the layers and the window of Free-Prompt-Editing are chosen by hand."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from freeprompt.api import EditResult
from freeprompt.api.defaults import own_layers
from freeprompt.core import Site, Sites
from freeprompt.errors import ConfigError, FreepromptError
from freeprompt.methods import FPE
from freeprompt.models.defaults import defaults_of
from freeprompt.studio import searches
from freeprompt.studio.parts import LATEST, ONE_BY_ONE, PRIVATE, large, number, seen, whole
from freeprompt.studio.recipe import Recipe
from freeprompt.studio.runs import Order, Runner, Updates
from freeprompt.studio.service import Service

PRESETS = {"None": "none", "Below top": "self:below-top", "Paper": "self:paper", "All": "self:all"}
NONE_YET = (
    "<p>No search of this model is in the results folder yet: "
    "<code>freeprompt search</code> makes one.</p>"
)


class LayersTab:
    """Controls and the redrawn edit of the layers tab.

    Args:
        service: The model.
    """

    def __init__(self, service: Service):
        self.service, self.runner = service, Runner(service, "layers")
        self.results = Path(service.results)
        self.sites = [s for s in service.editor.model.sites if s.kind == "self"]
        side = service.editor.model.native_size // service.editor.model.granularity
        self.labels = {s.index: _label(s, side) for s in self.sites}
        self.presets = self._presets()
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self._wishes()
            with gr.Column(scale=3, min_width=320):
                self._results()
        self._wire()

    def _wishes(self) -> None:
        model = self.service.editor.model
        usual = FPE().to_dict() | own_layers(defaults_of(model), "fpe", {})
        self.source = gr.Textbox("a red car on the street", label="Source prompt")
        self.target = gr.Textbox("a blue bus on the street", label="Target prompt")
        with gr.Row():
            self.buttons = {name: gr.Button(name, size="sm") for name in self.presets}
        self.strip = gr.CheckboxGroup(
            list(self.labels.values()),
            value=self._selected(usual["sites"]),
            label="Layers that take the source's self-attention, as they run",
            elem_id="layer-strip",
        )
        with gr.Row():
            self.start = self._edge("start", "Window: from", usual["start"])
            self.stop = self._edge("stop", "Window: to", usual["share"])
        with gr.Row():
            self.steps = gr.Slider(1, 100, value=20, step=1, label="Steps", elem_id="layers-steps")
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0)
        self.runner.buttons("Redraw")

    def _edge(self, name: str, label: str, value: float) -> Any:
        return gr.Slider(
            0,
            1,
            value=value,
            step=0.02,
            label=label,
            info="Share of the steps, from the noisiest on.",
            elem_id=f"window-{name}",
        )

    def _results(self) -> None:
        self.runner.bar("Change a layer or the window to redraw.")
        self.slider = gr.ImageSlider(
            label="Source and edit", format="png", interactive=False, elem_id="layers-pair"
        )
        self.command = gr.Code(
            label="Command line",
            language="shell",
            interactive=False,
            wrap_lines=True,
            lines=1,
            elem_id="layers-command",
        )
        self.which = gr.Dropdown([], label="What a layer search found", elem_id="search")
        self.curve = gr.HTML(NONE_YET, elem_id="search-curve")
        self.take = gr.Dropdown(
            [], label="Take one from its front", elem_id="search-front", visible=False
        )

    def _wire(self) -> None:
        presets = [
            button.click(
                lambda chosen=self.presets[name]: chosen,
                None,
                self.strip,
                concurrency_id="strip",
                **ONE_BY_ONE,
            )
            for name, button in self.buttons.items()
        ]
        window = [self.start, self.stop]
        taken = self.take.input(
            self._taken,
            [self.which, self.take],
            [self.strip, *window],
            concurrency_id="strip",
            **ONE_BY_ONE,
        )
        self.runner.wire(
            self._order,
            [self.source, self.target, self.strip, *window, self.steps, self.seed],
            [self.slider, self.command],
            triggers=[self.strip.input, *(edge.release for edge in window)],
            follows=[*presets, taken],
        )
        gr.on(None, self._searches, None, self.which, **PRIVATE)  # whenever the page is opened
        self.which.change(self._front, self.which, self.take, **LATEST)
        gr.on(
            [each.change for each in (self.which, self.strip, *window)],
            self._curve,
            [self.which, self.strip, *window],
            self.curve,
            **LATEST,
        )

    def _selected(self, expression: str) -> list[str]:
        model = self.service.editor.model
        return [self.labels[s.index] for s in Sites(expression).select(model.sites, model.name)]

    def _presets(self) -> dict[str, list[str]]:
        """Return the layers of every preset that this model has."""
        found = {}
        for name, expression in PRESETS.items():
            with suppress(FreepromptError):
                found[name] = self._selected(expression)
        return found

    def expression(self, strip: Sequence[str]) -> str:
        """Return the site expression of the layers that are switched on."""
        chosen = [str(index) for index, label in self.labels.items() if label in strip]
        return "self:" + ",".join(chosen) if chosen else "none"

    def _order(
        self,
        source: str,
        target: str,
        strip: list[str],
        start: float | None,
        stop: float | None,
        steps: float | None,
        seed: float | None,
    ) -> Order:
        recipe = Recipe(
            model=self.service.model,
            targets=[target],
            source=source,
            steps=whole(steps, "Steps"),
            seed=whole(seed, "Seed"),
            parameters={"sites": self.expression(strip), **_window(start, stop)},
        )
        return Order(
            work=self.service.editing(recipe), shown=lambda result: self._shown(result, recipe)
        )

    def _shown(self, result: EditResult, recipe: Recipe) -> tuple[str, Updates]:
        return f"Done in {result.provenance.seconds:.1f} s.", {
            self.slider: (large(result.source), large(result.images[0])),
            self.command: recipe.command(),
            self.runner.problem: seen(" ".join(result.provenance.notes)),
        }

    def _searches(self) -> Any:
        """Return the searches that there are now, the last one chosen."""
        found = searches.found(self.results, self.service.editor.model.name)
        return gr.update(choices=found, value=found[-1] if found else None, visible=bool(found))

    def _search(self, which: str | None) -> searches.Search | None:
        if which is None or which not in searches.found(
            self.results, self.service.editor.model.name
        ):
            return None
        with suppress(OSError, ValueError, FreepromptError):
            return searches.read(self.results / which, self.service.editor.model.sites)
        return None

    def _front(self, which: str | None) -> Any:
        search = self._search(which)
        names = [tried.label for tried in search.front] if search else []
        return gr.update(choices=names, value=None, visible=bool(names))

    def _taken(self, which: str | None, label: str | None) -> list[Any]:
        """Return the layers and the window of a candidate."""
        search = self._search(which)
        for tried in search.front if search else []:
            if tried.label == label:
                strip = [self.labels[index] for index in sorted(tried.choice.layers)]
                return [strip, tried.choice.start, tried.choice.stop]
        return [gr.update()] * 3

    def _curve(
        self, which: str | None, strip: list[str], start: float | None, stop: float | None
    ) -> str:
        search = self._search(which)
        if search is None:
            return NONE_YET
        layers = frozenset(index for index, label in self.labels.items() if label in strip)
        choice = searches.Choice(layers=layers, start=start or 0.0, stop=stop or 0.0)
        return searches.curve(search, choice)


def _window(start: float | None, stop: float | None) -> dict[str, float]:
    """Return FPE's parameters of a window.

    Raises:
        ConfigError: if it ends before it begins.
    """
    first, last = round(number(start, "Window: from"), 2), round(number(stop, "Window: to"), 2)
    if first > last:
        raise ConfigError(
            f"The window begins at {first:g} of the steps and ends at {last:g}, before that. "
            "Set 'to' to at least 'from'."
        )
    return {"share": last, **({"start": first} if first else {})}


def _label(site: Site, side: int) -> str:
    height, width = site.grid(side, side)
    return f"{site.index}: {site.block} {height}x{width}"
