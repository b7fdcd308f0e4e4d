"""An edit as a command line and as Python, to copy."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An edit as the page asks for it; also the arguments of `Editor.edit`.

    Attributes:
        model: What the model was loaded by.
        targets: Target prompts.
        source: Source prompt; None for none.
        image: Path of an uploaded image; None for a generated source.
        mask: Path of a mask, or None.
        method: Name of the method.
        inversion: Name of the inversion; None for the method's own.
        steps: Denoising steps.
        guidance: Guidance scale.
        negative: Negative prompt.
        seed: Seed.
        parameters: Parameters that differ from their defaults.
    """

    model: str
    targets: Sequence[str]
    source: str | None = None
    image: str | None = None
    mask: str | None = None
    method: str = "fpe"
    inversion: str | None = None
    steps: int = 50
    guidance: float = 7.5
    negative: str = ""
    seed: int = 0
    parameters: dict[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `Editor.edit`."""
        given = {
            "source": self.source,
            "image": self.image,
            "mask": self.mask,
            "inversion": self.inversion,
        }
        return {
            **{name: value for name, value in given.items() if value is not None},
            "method": self.method,
            "steps": self.steps,
            "guidance": self.guidance,
            "negative": self.negative,
            "seed": self.seed,
            **self.parameters,
        }

    def command(self) -> str:
        """Return the command line that makes the same pictures."""
        words = ["freeprompt", "edit", *self.targets]
        named = {
            "source": self.source,
            "image": _name(self.image),
            "mask": _name(self.mask),
            "model": self.model,
            "method": self.method,
            "inversion": self.inversion,
            "steps": self.steps,
            "guidance": f"{self.guidance:g}",
            "negative": self.negative or None,
            "seed": self.seed,
        }
        for name, value in named.items():
            words += [] if value is None else [f"--{name}", str(value)]
        for name, value in self.parameters.items():
            words += ["--set", f"{name}={value}"]
        return shlex.join([*words, "-o", "out"])

    def python(self) -> str:
        """Return Python that makes the same pictures."""
        arguments = self.arguments()
        for name in ("image", "mask"):
            if name in arguments:
                arguments[name] = _name(arguments[name])
        lines = [f"    {name}={value!r}," for name, value in arguments.items()]
        targets = list(self.targets) if len(self.targets) > 1 else self.targets[0]
        return "\n".join(
            [
                "import freeprompt as fp",
                "",
                f"editor = fp.load({self.model!r})",
                "result = editor.edit(",
                f"    {targets!r},",
                *lines,
                ")",
                'result.save("out")',
            ]
        )


def _name(path: str | None) -> str | None:
    """Return the name a file had on the user's side; uploads lie in folders of the server."""
    return None if path is None else Path(path).name
