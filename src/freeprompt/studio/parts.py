"""Small parts that several tabs use."""

import html
from typing import Any

import gradio as gr
from PIL import Image

from freeprompt.errors import ConfigError
from freeprompt.images import resize

PRIVATE: dict[str, Any] = {"api_visibility": "private"}  # of events that are only the page's
# of quick events: none is dropped while another is answered, and they keep their order
ONE_BY_ONE: dict[str, Any] = {**PRIVATE, "trigger_mode": "multiple", "concurrency_limit": 1}
# of what follows a control that may still be moving: the last state is what counts
LATEST: dict[str, Any] = {**PRIVATE, "trigger_mode": "always_last", "show_progress": "hidden"}
BUTTONS = ["download", "fullscreen"]  # without "share", which would send pictures elsewhere
SHOWN = 384  # pixels to which small models' pictures are enlarged on the page


def problem(name: str) -> Any:
    """Return a place for a sentence about what went wrong; empty and hidden at first."""
    return gr.Markdown(visible=False, elem_id=name, elem_classes=["problem"])


def seen(sentence: str) -> Any:
    """Return the update that shows a sentence, or hides its place if there is none."""
    return gr.update(value=sentence, visible=bool(sentence))


def number(value: float | None, name: str) -> float:
    """Return a control's number.

    Raises:
        ConfigError: if the control was left empty.
    """
    if value is None:
        raise ConfigError(f"{name} is empty. Give a number.")
    return float(value)


def whole(value: float | None, name: str) -> int:
    """Return a control's whole number; raises as `number` does."""
    return int(number(value, name))


def bar(text: str, share: float) -> str:
    """Return a progress bar with its text, as HTML that a screen reader can follow."""
    percent = round(100 * share)
    return (
        f'<div class="status" role="status" aria-live="polite"><p>{html.escape(text)}</p>'
        f'<div class="bar" role="progressbar" aria-label="progress" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}">'
        f'<div style="width:{percent}%"></div></div></div>'
    )


def large(image: Image.Image) -> Image.Image:
    """Enlarge a small model's picture for the page, smoothly; files keep their own size."""
    factor = SHOWN / max(image.size)
    if factor <= 1:
        return image
    return resize(image, (round(image.width * factor), round(image.height * factor)))
