"""Results in the order of the manifest: JSON lines, and Parquet where pyarrow is installed."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from freeprompt.batch.store import RESULTS
from freeprompt.errors import SaveError

Record = dict[str, Any]
PARQUET = "results.parquet"
ROWS = 4096  # of a row group
NUMBERS = {
    "row": "int64",
    "steps": "int32",
    "seed": "int64",
    "batch": "int32",
    "bytes": "int64",
    "offset": "int64",
    "guidance": "float64",
    "seconds": "float64",
    "sample_forwards": "float64",
    "reconstruction_psnr_db": "float64",
}
WORDS = (
    "id", "key", "image", "image_sha256", "source", "target", "mask", "method", "inversion",
    "negative", "file", "sha256", "error",
)  # fmt: skip
FLAGS = ("native", "flagged")
NESTED = ("parameters", "inversion_parameters", "size", "notes", "scores")


def write_results(folder: Path, records: Iterable[Record], part: str = "all") -> list[Path]:
    """Write results.jsonl, and from it results.parquet; each whole or not at all.

    Args:
        folder: Of the run.
        records: In the order of the manifest.
        part: Who writes: two shards may end at one time, and each needs drafts of its own.

    Returns:
        The files written.

    Raises:
        SaveError: if they cannot be written.
    """
    lines = (json.dumps(_shown(r), ensure_ascii=False).encode("utf-8", "replace") for r in records)
    files = [_whole(folder / RESULTS, lines, part)]
    with suppress(ImportError):
        files.append(_parquet(folder, part))
    return files


def _shown(record: Record) -> Record:
    """Leave out what only a resumed run needs."""
    return {name: value for name, value in record.items() if name != "end"}


def _whole(path: Path, lines: Iterable[bytes], part: str) -> Path:
    draft = path.with_name(f".{path.name}.{part}.tmp")
    try:
        with draft.open("wb") as file:
            for line in lines:
                file.write(line + b"\n")
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise SaveError(
            f"'{path}' could not be written ({error.strerror}). The journal has it all: make room "
            "on the disk and give the same command again."
        ) from error
    return path


def _parquet(folder: Path, part: str) -> Path:
    """Write the table from the lines, a row group at a time: it may be larger than memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    carried = sorted({name for record in _read(folder) for name in record if name[:1] == "_"})
    columns = [*WORDS, *NUMBERS, *FLAGS, *NESTED, *carried]
    schema = pa.schema([(name, _kind(pa, name)) for name in columns])
    path = folder / PARQUET
    draft = path.with_name(f".{path.name}.{part}.tmp")
    try:
        with pq.ParquetWriter(draft, schema) as writer:
            records = _read(folder)
            while some := [_flat(r, columns) for r in islice(records, ROWS)]:
                writer.write_table(pa.Table.from_pylist(some, schema))
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise SaveError(
            f"'{path}' could not be written ({error}). Make room on the disk."
        ) from error
    return path


def _read(folder: Path) -> Iterator[Record]:
    with (folder / RESULTS).open("rb") as file:
        yield from map(json.loads, file)


def _kind(pa: Any, name: str) -> Any:
    if name in NUMBERS:
        return getattr(pa, NUMBERS[name])()
    return pa.bool_() if name in FLAGS else pa.string()


def _flat(record: Record, columns: list[str]) -> Record:
    """Return a row of the table: nested values and the user's own as JSON text."""
    flat = {name: record.get(name) for name in columns}
    for name in (*NESTED, *(n for n in columns if n[:1] == "_")):
        if not isinstance(flat[name], str) and flat[name] is not None:
            flat[name] = json.dumps(flat[name], ensure_ascii=False)
    flat |= {n: float(v) for n in NUMBERS if NUMBERS[n] == "float64" and (v := flat[n]) is not None}
    return flat
