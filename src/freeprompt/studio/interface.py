"""The functions behind the page as an HTTP API and, if asked for, as MCP tools."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from freeprompt.core.params import check_names
from freeprompt.errors import FreepromptError
from freeprompt.inversion import INVERSIONS
from freeprompt.methods import METHODS
from freeprompt.studio.jobs import Done, Failed
from freeprompt.studio.recipe import Recipe
from freeprompt.studio.service import Service


def add_interface(service: Service) -> None:
    """Offer `edit`, `methods` and `parameters` to programs.

    Args:
        service: The model and its limits.
    """

    def edit(
        target: str,
        source: str = "",
        image: str = "",
        method: str = "fpe",
        steps: int = 50,
        guidance: float = 7.5,
        seed: int = 0,
        negative: str = "",
        inversion: str = "",
        parameters: dict[str, Any] | None = None,
    ) -> tuple[str, dict[str, Any]]:
        """Edit a picture by text alone: from a source prompt, or from an image that was uploaded.

        Args:
            target: What the picture shall show, such as "a blue car on the street".
            source: What it shows now. Needed without an image, to draw the source.
            image: Path of an uploaded image; empty to draw the source from its prompt.
            method: Name of the method; `methods` lists them.
            steps: Number of denoising steps, 1 to 999.
            guidance: Guidance scale, 0 or above.
            seed: Seed of the noise.
            negative: What to keep away from.
            inversion: How an image becomes noise; empty for the method's own.
            parameters: The method's own parameters by name; `parameters` lists them.

        Returns:
            The edited picture as a PNG file with its recipe inside, and its provenance.
        """
        if image and not Path(image).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
            raise gr.Error(
                "image must be a file that was uploaded here, not a path of this machine."
            )
        try:  # other arguments of an edit are none of theirs: they could name files of this machine
            owner = METHODS[method]
            check_names(parameters or {}, [owner, INVERSIONS[inversion or owner.inversion]])
        except FreepromptError as error:
            raise gr.Error(str(error)) from error
        recipe = Recipe(
            model=service.model,
            targets=[target],
            source=source or None,
            image=image or None,
            method=method,
            inversion=inversion or None,
            steps=steps,
            guidance=guidance,
            negative=negative,
            seed=seed,
            parameters=parameters or {},
        )
        for item in service.start(service.editing(recipe)):
            if isinstance(item, Failed):
                raise gr.Error(item.sentence)
            if isinstance(item, Done):
                return service.keep(item.value)[0], item.value.provenance.to_dict()
        raise gr.Error("The job ended without a result.")

    def methods() -> dict[str, str]:
        """List the editing methods, each with what it does."""
        return {name: (METHODS[name].__doc__ or "").partition("\n")[0] for name in METHODS}

    def parameters(name: str) -> dict[str, dict[str, Any]]:
        """List the parameters of a method or an inversion, with default, range and meaning.

        Args:
            name: Name of a method or an inversion, such as "fpe" or "ddim".
        """
        try:
            owner = INVERSIONS[name] if name in INVERSIONS else METHODS[name]
        except FreepromptError as error:
            raise gr.Error(str(error)) from error
        described: dict[str, dict[str, Any]] = owner.described()
        return described

    gr.api(edit, api_name="edit", concurrency_limit=None)  # the desk keeps the line
    gr.api(methods, api_name="methods")
    gr.api(parameters, api_name="parameters")
