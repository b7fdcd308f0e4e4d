"""The tab that shows benchmark reports."""

import html
from pathlib import Path
from typing import Any

import gradio as gr

from freeprompt.studio.parts import problem, seen
from freeprompt.studio.service import Service

LARGEST = 30 * 2**20  # bytes of a report that is put into the page


class ScoreboardTab:
    """The reports below one folder.

    Args:
        service: Where the results are.
    """

    def __init__(self, service: Service):
        self.folder = Path(service.results)
        found = self._found()
        gr.Markdown(
            "Reports that `freeprompt bench report` wrote. "
            + (f"{len(found)} found." if found else "None found yet: run `freeprompt bench run`.")
        )
        self.which = gr.Dropdown(found, value=None, label="Report", elem_id="report")
        again = gr.Button("Look again", size="sm")
        self.problem = problem("report-problem")
        self.page = gr.HTML(elem_id="report-page")
        again.click(
            lambda: gr.update(choices=self._found()), None, self.which, api_visibility="private"
        )
        self.which.change(
            self._shown, self.which, [self.page, self.problem], api_visibility="private"
        )

    def _found(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*.html"))

    def _shown(self, name: str | None) -> tuple[Any, Any]:
        """Return a report in a frame of its own, which may run no scripts and fetch nothing."""
        if name is None or name not in self._found():
            return "", seen("" if name is None else f"The report {name!r} is not there any more.")
        path = self.folder / name
        if path.stat().st_size > LARGEST:
            return "", seen(f"The report {name!r} is too large to show here. Open {path} itself.")
        inside = html.escape(path.read_text("utf-8"), quote=True)
        title = html.escape(name, quote=True)
        frame = f'<iframe title="{title}" sandbox srcdoc="{inside}" class="report"></iframe>'
        return frame, seen("")
