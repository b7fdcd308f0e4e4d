"""The tab that looks inside: where words look, where a pixel looks, by layer and step."""

from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from freeprompt.analysis.maps import AttentionMaps
from freeprompt.core.loop import Callback
from freeprompt.images import resize
from freeprompt.studio.parts import BUTTONS, ONE_BY_ONE, seen, whole
from freeprompt.studio.runs import Order, Runner, Updates
from freeprompt.studio.service import Service

SIDE = 320
EVERY = "all layers"
MEAN = -1


def overlay(picture: Image.Image, heat: Any) -> Image.Image:
    """Lay a map over a picture: what is looked at keeps its colours, the rest goes dark.

    Args:
        picture: The picture.
        heat: (height, width) of any scale, non-negative.
    """
    large = resize(picture.convert("RGB"), (SIDE, SIDE))
    top = float(heat.max()) or 1.0
    grey = Image.fromarray((255 * np.clip(heat / top, 0, 1)).astype(np.uint8))
    mask = resize(grey, (SIDE, SIDE))
    return Image.composite(large, Image.blend(large, Image.new("RGB", large.size), 0.85), mask)


class AttentionTab:
    """Controls and pictures of the attention tab.

    Args:
        service: The model.
    """

    def __init__(self, service: Service):
        self.service, self.runner = service, Runner(service, "attention")
        sites = service.editor.model.sites
        layers = [f"{s.index}: {s.block}" for s in sites if s.kind == "cross"]
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self.prompt = gr.Textbox("a red car on the street", label="Prompt")
                self.target = gr.Textbox(
                    "a blue car on the street",
                    label="Target prompt",
                    info="Watch an FPE edit, source and target side by side; empty: one picture.",
                )
                with gr.Row():
                    self.steps = gr.Slider(
                        1, 100, value=20, step=1, label="Steps", elem_id="attention-steps"
                    )
                    self.seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                self.runner.buttons("Look")
                self.runner.bar("Nothing has been looked at yet.")
                self.word = gr.Dropdown([], label="Word", elem_id="attention-word")
                self.layer = gr.Dropdown(
                    [EVERY, *layers], value=EVERY, label="Layer (cross-attention)"
                )
                self.step = gr.Slider(
                    MEAN, 19, value=MEAN, step=1, label="Step", info="-1 is the mean of all steps."
                )
            with gr.Column(scale=3, min_width=320):
                with gr.Row():
                    self.words = [
                        gr.Image(
                            buttons=BUTTONS,
                            alt_text=name,
                            label=name,
                            interactive=False,
                            format="png",
                            elem_id=f"word-{name}",
                        )
                        for name in ("source", "target")
                    ]
                gr.Markdown("Click on a point of a picture above: where does it look?")
                with gr.Row():
                    self.looks = [
                        gr.Image(
                            buttons=BUTTONS,
                            alt_text=f"{name}: looks at",
                            label=f"{name}: looks at",
                            interactive=False,
                            format="png",
                            elem_id=f"looks-{name}",
                        )
                        for name in ("source", "target")
                    ]
                self.components = gr.Gallery(
                    buttons=BUTTONS,
                    label="Components of self-attention (source)",
                    format="png",
                    columns=6,
                    height="auto",
                )
                make_film = gr.Button("Make a film over the steps", size="sm")
                self.film = gr.Image(
                    buttons=BUTTONS,
                    alt_text="Film",
                    label="Film",
                    interactive=False,
                    format="gif",
                    visible=False,
                    elem_id="film",
                )
        self.maps = gr.State(None)
        self._wire(make_film)

    def _wire(self, make_film: Any) -> None:
        """Connect the controls; the pictures are redrawn one at a time, the last wish last."""
        self.runner.wire(
            self._order,
            [self.prompt, self.target, self.steps, self.seed],
            [
                self.maps,
                self.word,
                self.layer,
                self.step,
                self.components,
                *self.words,
                *self.looks,
                self.film,
            ],
        )
        pick = [self.maps, self.word, self.layer, self.step]
        for control in (self.word, self.layer, self.step):
            control.change(
                self._overlays, pick, self.words, concurrency_id="overlays", **ONE_BY_ONE
            )
        for shown in self.words:
            shown.select(self._point, self.maps, self.looks, concurrency_id="points", **ONE_BY_ONE)
        make_film.click(
            self._film,
            [self.maps, self.word],
            [self.film, self.runner.problem],
            concurrency_id="film",
            **ONE_BY_ONE,
        )

    def _order(self, prompt: str, target: str, steps: float, seed: float) -> Order:
        count, chosen = whole(steps, "Steps"), whole(seed, "Seed")

        def work(callback: Callback) -> AttentionMaps:
            return self.service.editor.attention(
                prompt,
                target=target.strip() or None,
                by_step=True,
                steps=count,
                seed=chosen,
                callback=callback,
            )

        return Order(work=work, shown=lambda maps: self._shown(maps, count))

    def _shown(self, maps: AttentionMaps, steps: int) -> tuple[str, Updates]:
        found, word = maps.components(6), maps.words[-1]
        components = zip(found.images, found.shares, strict=True)
        return "Done.", {
            self.maps: maps,
            self.word: gr.update(choices=list(maps.words), value=word),
            self.layer: EVERY,
            self.step: gr.update(maximum=steps - 1, value=MEAN),
            self.components: [
                (_signed(one), f"{i}: {share:.0%}")
                for i, (one, share) in enumerate(components, start=1)
            ],
            **dict(zip(self.words, self._overlays(maps, word, EVERY, MEAN), strict=True)),
            **dict.fromkeys(self.looks),
            self.film: gr.update(visible=False),
        }

    @staticmethod
    def _overlays(maps: AttentionMaps | None, word: str, layer: str, step: float) -> list[Any]:
        """Return the word's map over source and target."""
        if maps is None or not word:
            return [None, None]
        which: dict[str, Any] = {"step": None if step == MEAN else int(step)}
        if layer != EVERY:
            which["sites"] = f"cross:{layer.split(':')[0]}"
        found: list[Any] = [
            overlay(one.image, one.of(word, **which)) if word in one.words else one.image
            for one in maps.pictures
        ]
        return [*found, None][:2]

    @staticmethod
    def _point(maps: AttentionMaps | None, event: gr.SelectData) -> list[Any]:
        """Return where the clicked point looks, in source and target."""
        if maps is None:
            return [None, None]
        found: list[Any] = []
        for one in maps.pictures:
            x, y = (event.index[i] / SIDE * one.image.size[i] for i in (0, 1))
            found.append(overlay(one.image, one.looks_at(x, y)))
        return [*found, None][:2]

    def _film(self, maps: AttentionMaps | None, word: str) -> tuple[Any, Any]:
        """Return a film of a word's map over the steps."""
        if maps is None or not word:
            return gr.update(visible=False), seen("Press Look first; then there is a film to make.")
        from freeprompt.analysis.pictures import film

        self.service.tidy()
        path = Path(mkdtemp(dir=self.service.files)) / "film.gif"
        film(maps, path, words=[word])
        return gr.update(value=str(path), visible=True), seen("")


def _signed(values: Any) -> Image.Image:
    """Draw a component, whose sign means nothing, in greys, enlarged."""
    low, high = float(values.min()), float(values.max())
    grey = (255 * (values - low) / max(high - low, 1e-12)).astype(np.uint8)
    return Image.fromarray(grey).resize((160, 160), Image.Resampling.NEAREST)
