"""Draw EmojiEdit-Bench again and write its manifest: python tools/draw_emojiedit.py

Only for a new version of the benchmark: figures of different manifests must not be compared.
"""

import json
from typing import Any

from freeprompt.bench.draw import manifest
from freeprompt.bench.emojiedit import shipped_manifest


def text_of(data: dict[str, Any]) -> str:
    """Lay a manifest out with one line for each item."""
    head = {key: value for key, value in data.items() if key != "splits"}
    splits = ",\n".join(
        f'"{name}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]"
        for name, rows in data["splits"].items()
    )
    return json.dumps(head, indent=2)[:-2] + f',\n  "splits": {{\n{splits}\n}}\n}}\n'


if __name__ == "__main__":
    shipped_manifest().write_text(text_of(manifest()), encoding="utf-8")
