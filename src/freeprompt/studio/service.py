"""What the page stands on: one editor, its limits, and the folder for files to download."""

import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp

from freeprompt.api import Editor, EditResult
from freeprompt.core.loop import Callback
from freeprompt.picture import Picture, open_image
from freeprompt.studio.jobs import Desk, Job, Previews, Work
from freeprompt.studio.recipe import Recipe

KEPT_SECONDS = 3600  # that files stay to be downloaded


def named(upload: str) -> Picture:
    """Read an uploaded image under the name it had with its owner, not on this server.

    Raises:
        ImageError: if it cannot be read.
    """
    return replace(open_image(upload), name=Path(upload).name)


@dataclass
class Service:
    """One model and what may be asked of it.

    Attributes:
        editor: The model.
        model: What it was loaded by, for recipes.
        limit: Seconds that a job may take.
        results: Folder of benchmark and search results to browse.
        files: Folder for downloads, emptied as they grow old.
    """

    editor: Editor
    model: str
    limit: float = 600.0
    results: Path = Path("results")
    files: Path = field(default_factory=lambda: Path(mkdtemp(prefix="freeprompt-studio-")))

    def __post_init__(self) -> None:
        self._desk = Desk(self.limit)

    def start(self, work: Work, *, visitor: str = "", place: str = "") -> Job:
        """Put a job in line; see `jobs.Desk.start`. Visitors, who look on, are sent previews."""
        previews = Previews(self.editor.model) if visitor else None
        return self._desk.start(work, visitor=visitor, place=place, previews=previews)

    def halt(self, visitor: str, place: str | None = None) -> None:
        """Stop a visitor's jobs: those of one place on the page, or all."""
        self._desk.halt(visitor, place)

    def editing(self, recipe: Recipe) -> Work:
        """Return the work of an edit, which measures the inversion of a real image too."""

        def work(callback: Callback) -> EditResult:
            given = recipe.arguments()
            given |= {name: named(given[name]) for name in ("image", "mask") if name in given}
            result = self.editor.edit(list(recipe.targets), callback=callback, **given)
            if result.reconstructable and result.inverted is not None:
                result.inverted.reconstruct(callback)
            return result

        return work

    def keep(self, result: EditResult) -> list[str]:
        """Write a result's pictures to be downloaded; return the files, edits first."""
        self.tidy()
        folder = Path(mkdtemp(dir=self.files))
        return [str(path) for path in result.save(folder)]

    def tidy(self) -> None:
        """Delete files that have been there for an hour."""
        old = time.time() - KEPT_SECONDS
        for folder in self.files.iterdir():
            if folder.stat().st_mtime < old:
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Delete all files."""
        shutil.rmtree(self.files, ignore_errors=True)
