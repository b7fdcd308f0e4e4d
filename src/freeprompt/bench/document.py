"""A report as a list of blocks, written as one HTML page or as Markdown."""

import base64
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from freeprompt.errors import SaveError
from freeprompt.images import save_png


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 to 3."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Points:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Commands, to the letter."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table; `strong` names rows that are set in bold."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Drawing:
    """An SVG with a file name and a caption."""

    name: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Photo:
    """A picture with a file name and a caption."""

    name: str
    image: Image.Image
    caption: str


Block = Heading | Text | Points | Code | Table | Drawing | Photo

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1b1b; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e3e3e3; text-align: right;
  white-space: nowrap; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
tr.strong td { font-weight: 600; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; }
figure { margin: 1rem 0; } img, svg { max-width: 100%; height: auto; }
figcaption { color: #555; font-size: 13px; }
"""


def write_html(blocks: Sequence[Block], path: Path) -> None:
    """Write one page that needs no other file.

    Raises:
        SaveError: if it cannot be written.
    """
    title = next((b.text for b in blocks if isinstance(b, Heading)), "Report")
    body = "\n".join(_html(block) for block in blocks)
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )
    _write(path, page)


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Text(text):
            return f"<p>{escape(text)}</p>"
        case Points(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Code(text):
            return f"<pre>{escape(text)}</pre>"
        case Table():
            return _html_table(block)
        case Drawing(_, svg, caption):
            return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
        case Photo(_, image, caption):
            data = base64.b64encode(_png(image)).decode()
            picture = f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
            return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = "\n".join(
        f"<tr{' class=strong' if number in table.strong else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for number, row in enumerate(table.rows)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>"


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return data.getvalue()


def write_markdown(blocks: Sequence[Block], path: Path) -> None:
    """Write Markdown, with drawings and pictures in a folder of the same name beside it.

    Raises:
        SaveError: if something cannot be written.
    """
    folder = path.with_suffix("")
    for block in blocks:
        match block:
            case Drawing(name, svg, _):
                _write(folder / f"{name}.svg", svg + "\n")
            case Photo(name, image, _):
                save_png(image, folder / f"{name}.png", {})
    _write(path, "\n\n".join(_markdown(block, folder.name) for block in blocks) + "\n")


def _markdown(block: Block, folder: str) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_line(text)}"
        case Text(text):
            return _line(text)
        case Points(items):
            return "\n".join(f"* {_line(item)}" for item in items)
        case Code(text):
            return f"```sh\n{text}\n```"
        case Table():
            return "\n".join(_markdown_table(block))
        case Drawing(name, _, caption):
            return f"![{_line(caption)}]({folder}/{name}.svg)\n\n*{_line(caption)}*"
        case Photo(name, _, caption):
            return f"![{_line(caption)}]({folder}/{name}.png)\n\n*{_line(caption)}*"


def _line(text: str) -> str:
    """Return a text as one line without tags: labels and messages of others may hold anything."""
    return " ".join(text.split()).replace("<", "&lt;")


def _markdown_table(table: Table) -> Iterator[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_line(cell).replace("|", "\\|") for cell in cells) + " |"

    yield line(table.head)
    yield line(["---", *["---:"] * (len(table.head) - 1)])
    for number, row in enumerate(table.rows):
        strong = number in table.strong
        yield line([f"**{cell}**" if strong and cell else cell for cell in row])


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise SaveError(
            f"'{path}' could not be written ({error.strerror}). Choose another place."
        ) from error
    finally:
        draft.unlink(missing_ok=True)
