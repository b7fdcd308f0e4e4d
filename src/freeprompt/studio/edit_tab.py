"""The tab that edits."""

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr

from freeprompt.api import EditResult
from freeprompt.api.compare import fitting_methods
from freeprompt.errors import FreepromptError
from freeprompt.inversion import INVERSIONS
from freeprompt.methods import METHODS
from freeprompt.models.defaults import defaults_of
from freeprompt.picture import open_image
from freeprompt.studio.controls import panel
from freeprompt.studio.jobs import Step
from freeprompt.studio.parts import BUTTONS, PRIVATE, SHOWN, large, number, problem, seen, whole
from freeprompt.studio.recipe import Recipe
from freeprompt.studio.runs import Order, Runner, Updates
from freeprompt.studio.service import Service

OWN = "the method's own"
EXAMPLES = (
    ("a red car on the street", "a blue car on the street", "fpe"),
    ("a dog standing in the park", "a rabbit standing in the park", "fpe"),
    ("a horse standing on the beach", "a horse standing in the snow", "sdedit"),
)


class EditTab:
    """Controls and results of the edit tab.

    Args:
        service: The model.
    """

    def __init__(self, service: Service):
        self.service, self.runner = service, Runner(service, "edit")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self._wishes()
            with gr.Column(scale=3, min_width=320):
                self._results()
        self._wire()

    def _wishes(self) -> None:
        usual = defaults_of(self.service.editor.model)
        self.source = gr.Textbox(
            EXAMPLES[0][0],
            label="Source prompt",
            info="Of the picture to start from; with an image of your own what it shows, if known.",
            elem_id="source",
        )
        with gr.Accordion("Start from an image of your own", open=False):
            self.image = gr.File(
                label="Image", file_types=["image"], type="filepath", height=110, elem_id="image"
            )
            self.look = gr.Image(
                buttons=BUTTONS,
                alt_text="Your image",
                label="Your image",
                interactive=False,
                visible=False,
                height=200,
                format="png",
            )
            self.mask = gr.File(
                label="Mask: white where it may change (fpe-protect, diffedit)",
                file_types=["image"],
                type="filepath",
                height=110,
                elem_id="mask",
            )
        self.image_problem = problem("image-problem")
        self.targets = gr.Textbox(
            EXAMPLES[0][1],
            label="Target prompts",
            info="One a line; all share the source.",
            lines=2,
            elem_id="targets",
        )
        self.target_problem = problem("target-problem")
        fitting = list(fitting_methods(self.service.editor.model))
        first = "fpe" if "fpe" in fitting else fitting[0]
        self.method = gr.Dropdown(fitting, value=first, label="Method", elem_id="method")
        with gr.Row():
            self.steps = gr.Slider(
                1, 200, value=usual.steps, step=1, label="Steps", elem_id="steps"
            )
            self.guidance = gr.Slider(
                0, 20, value=usual.guidance, step=0.1, label="Guidance", elem_id="guidance"
            )
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed")
        with gr.Accordion("Parameters of the method", open=False):
            self.parameters = panel(METHODS, first, usual)
        with gr.Accordion("Inversion of an image", open=False):
            self.inversion = gr.Dropdown([OWN, *INVERSIONS], value=OWN, label="Inversion")
            self.inverting = panel(INVERSIONS, OWN)
            self.negative = gr.Textbox("", label="Negative prompt", lines=1)
        self.runner.buttons("Edit")
        gr.Examples(
            [list(row) for row in EXAMPLES],
            [self.source, self.targets, self.method],
            label="Examples, which work at once",
            cache_examples=False,
        )

    def _results(self) -> None:
        self.runner.bar("Nothing has been edited yet.")
        self.preview = gr.Image(
            buttons=BUTTONS,
            alt_text="As it forms",
            label="As it forms",
            interactive=False,
            visible=False,
            height=SHOWN,
            format="png",
            elem_id="preview",
        )
        self.slider = gr.ImageSlider(
            label="Source and first edit",
            format="png",
            interactive=False,
            max_height=SHOWN + 40,
            elem_id="before-after",
        )
        self.gallery = gr.Gallery(
            buttons=BUTTONS,
            label="Source and edits",
            format="png",
            columns=3,
            height="auto",
            elem_id="gallery",
        )
        self.facts = gr.Markdown(elem_id="facts")
        self.files = gr.File(
            label="Download: PNGs with their recipe inside",
            file_count="multiple",
            interactive=False,
            elem_id="files",
        )
        with gr.Accordion("The same edit elsewhere", open=False):
            self.command = self._code("Command line", "shell", "command")
            self.python = self._code("Python", "python", "python")
        with gr.Accordion("Provenance", open=False):
            self.provenance = self._code("Provenance", "json", "provenance")

    @staticmethod
    def _code(label: str, language: Any, name: str) -> Any:
        return gr.Code(
            label=label,
            language=language,
            interactive=False,
            wrap_lines=True,
            lines=1,
            elem_id=name,
        )

    def _wire(self) -> None:
        self.method.change(
            self.parameters.shown, self.method, list(self.parameters.groups.values()), **PRIVATE
        )
        self.inversion.change(
            self.inverting.shown, self.inversion, list(self.inverting.groups.values()), **PRIVATE
        )
        self.image.change(self._opened, self.image, [self.look, self.image_problem], **PRIVATE)
        self.inputs = [
            self.source,
            self.image,
            self.mask,
            self.targets,
            self.method,
            self.steps,
            self.guidance,
            self.seed,
            self.inversion,
            self.negative,
            *self.parameters.components,
            *self.inverting.components,
        ]
        self.runner.wire(
            self._order,
            self.inputs,
            [
                self.preview,
                self.slider,
                self.gallery,
                self.facts,
                self.files,
                self.command,
                self.python,
                self.provenance,
            ],
            problems=[self.image_problem, self.target_problem],
        )

    @staticmethod
    def _opened(path: str | None) -> tuple[Any, Any]:
        """Show an uploaded image, or say why it is none."""
        if path is None:
            return gr.update(visible=False), seen("")
        try:
            return gr.update(value=open_image(path).image, visible=True), seen("")
        except FreepromptError as error:
            return gr.update(visible=False), seen(str(error))

    def recipe(self, values: Sequence[Any]) -> Recipe:
        """Return what the controls ask for."""
        fixed, rest = values[:10], list(values[10:])
        source, image, mask, targets, method, steps, guidance, seed, inversion, negative = fixed
        cut = len(self.parameters.components)
        via = None if inversion == OWN else inversion
        parameters = self.parameters.given(method, rest[:cut])
        if via is not None:
            parameters |= self.inverting.given(via, rest[cut:])
        return Recipe(
            model=self.service.model,
            targets=[line.strip() for line in (targets or "").splitlines() if line.strip()],
            source=(source or "").strip() or None,
            image=image,
            mask=mask,
            method=method,
            inversion=via,
            steps=whole(steps, "Steps"),
            guidance=number(guidance, "Guidance"),
            negative=(negative or "").strip(),
            seed=whole(seed, "Seed"),
            parameters=parameters,
        )

    def _order(self, *values: Any) -> Order:
        recipe = self.recipe(values)
        return Order(
            work=self.service.editing(recipe),
            shown=lambda result: self._shown(result, recipe),
            stepped=self._stepped,
            after={self.preview: gr.update(visible=False)},
            beside=self._beside,
        )

    def _stepped(self, step: Step) -> Updates:
        if step.preview is None:
            return {}
        return {self.preview: gr.update(value=large(step.preview), visible=True)}

    def _beside(self, sentence: str) -> Any:
        """Return the place nearest to the control that a sentence speaks of, if not below all."""
        said = sentence.lower()
        if "target prompt" in said:
            return self.target_problem
        if "image" in said.split(".")[0] or "mask" in said.split(".")[0]:
            return self.image_problem
        return None

    def _shown(self, result: EditResult, recipe: Recipe) -> tuple[str, Updates]:
        before = result.inverted.picture.image if result.inverted else result.source
        pictures = [(large(before), "source")]
        if result.inverted is not None and result.inverted.reconstructed:
            label = f"reconstruction, {result.inverted.psnr:.1f} dB"
            pictures.append((large(result.source), label))
        edits = zip(result.images, result.targets, strict=True)
        pictures += [(large(image), target) for image, target in edits]
        p = result.provenance
        return f"Done in {p.seconds:.1f} s.", {
            self.slider: (large(before), large(result.images[0])),
            self.gallery: pictures,
            self.facts: _facts(result),
            self.files: [f for f in self.service.keep(result) if f.endswith(".png")],
            self.command: recipe.command(),
            self.python: recipe.python(),
            self.provenance: json.dumps(p.to_dict(), indent=2, ensure_ascii=False),
        }


def _facts(result: EditResult) -> str:
    """Say in a few lines what the edit did and what it cost."""
    p = result.provenance
    lines = [
        f"**{p.method}** on {p.model}, {p.size[0]} x {p.size[1]} pixels: {p.sample_forwards} "
        f"sample-forwards, {p.seconds:.1f} s."
    ]
    if p.edited_pairs:
        lines.append(
            f"Attention was edited in {len(p.edited_sites)} layers x {p.edited_steps} steps."
        )
    if result.inverted is not None and result.inverted.reconstructed:
        lines.append(
            f"The inversion alone leads back to the image with {result.inverted.psnr:.1f} dB "
            "against the autoencoder's round trip; below 20 dB an edit loses the source."
        )
    return "\n\n".join([*lines, *(f"Note: {note}" for note in p.notes)])
