"""TEdBench, the benchmark of Imagic: photos and target prompts, nothing else."""

from pathlib import Path

from freeprompt.bench.datasets.files import read_json, records
from freeprompt.bench.items import Dataset, FileItem


def load_tedbench(path: Path) -> Dataset:
    """Read TEdBench.

    Args:
        path: Folder with `input_list.json` and `originals`.

    Raises:
        ConfigError: naming file and row.
    """
    file = path / "input_list.json"
    items = tuple(
        FileItem(
            id=row.name,
            cell="tedbench",
            track="real",
            source="",
            target=row.text("target_text"),
            path=row.image([path / "originals", path], row.text("img_name")),
        )
        for row in records(file, read_json(file))
    )
    notes = ("there are no source prompts: methods that need one end in an error",)
    return Dataset(name="TEdBench", items=items, notes=notes)
