"""Files too large to be put together in memory first, written whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from freeprompt.errors import SaveError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the draft to write, so that `path` is at every moment either the old or the new file.

    Raises:
        SaveError: if it cannot be written; there is no draft left then.
    """
    draft = path.with_name(f"partial{path.suffix}")
    try:
        yield draft
        draft.replace(path)
    except (OSError, RuntimeError) as error:  # torch's own writer knows no other error
        raise SaveError(
            f"{str(path)!r} could not be written ({error}). Make room on its disk."
        ) from error
    finally:
        draft.unlink(missing_ok=True)
