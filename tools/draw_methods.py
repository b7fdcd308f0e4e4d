"""Draw the pictures of `docs/methods` again, by the commands that stand in its pages.

A page that shows `../images/methods/NAME.png` has, right below, the command that made it in a
fenced block. The command writes a folder, whose side-by-side (or grid) becomes the picture.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "methods"
SHOWN = re.compile(
    r"!\[[^\]]*\]\(\.\./images/methods/([\w-]+)\.png\)\n+```sh\n(.*?)\n```", re.DOTALL
)


def commands() -> dict[str, list[str]]:
    """Return the command of every picture, as words."""
    return {
        name: shlex.split(command.replace("\\\n", " "))
        for page in sorted(PAGES.glob("*.md"))
        for name, command in SHOWN.findall(page.read_text())
    }


def draw(name: str, words: list[str]) -> None:
    """Run one command and keep the picture that shows it all."""
    program = Path(sys.executable).with_name(words[0])
    with TemporaryDirectory() as folder:
        out = words.index("-o")
        subprocess.run([program, *words[1:out], "-o", folder], cwd=ROOT, check=True)
        made = [Path(folder, one) for one in ("side-by-side.png", "comparison.png")]
        shutil.copy(next(p for p in made if p.exists()), ROOT / f"docs/images/methods/{name}.png")


def main() -> None:
    """Draw all pictures, or those named."""
    known = commands()
    for name in sys.argv[1:] or known:
        if name not in known:
            sys.exit(f"No page shows a picture {name!r}. Shown are: {', '.join(known)}.")
        draw(name, known[name])


if __name__ == "__main__":
    main()
