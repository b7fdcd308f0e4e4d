"""Where a picture comes from: everything needed to make it again, and what making it cost."""

import json
import platform
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch

from freeprompt.errors import ConfigError
from freeprompt.images import read_png_text

PNG_KEY = "freeprompt"
MEASURED = ("seconds", "peak_memory_bytes")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a picture depends on."""
    found = {"python": platform.python_version()}
    for package in ("freeprompt", "torch", "diffusers", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[package] = "unknown"
    return found


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The recipe of an edit and its measured cost.

    Attributes:
        model: Name that the model was loaded by.
        model_fingerprint: Hash over a sample of its weights.
        device: Torch device of the denoiser.
        dtype: Its dtype.
        targets: Target prompts, in order.
        source: Source prompt; None if none was given.
        negative: Prompt of the unconditional rows.
        image: File name of the real image as given; None for memory or for a generated source.
        image_sha256: Hash of the real image, or None.
        image_size: (width, height) of the real image, or None.
        notes: What was changed on the way in, and warnings worth keeping.
        size: (width, height) at which the model worked.
        native: Whether results are left at that size.
        method: Name of the method.
        parameters: All its parameters.
        inversion: Name of the inversion, or None.
        inversion_parameters: All its parameters.
        steps: Number of denoising steps.
        guidance: Guidance scale.
        seed: Seed of the start noise; None if the user gave the noise or a generator.
        edited_sites: Names of the sites that were edited.
        edited_steps: Number of steps in which something was edited.
        edited_pairs: Number of (step, site) pairs that were edited.
        sample_forwards: Samples that the denoiser evaluated for this edit, inversion included.
        flagged: For each target, whether the pipeline's safety checker blackened it.
        mask: File name of the mask as given; None for memory or for none.
        mask_sha256: Hash of the mask, or None.
        memory: How the model was fitted into memory, where that differs from the usual.
        defaults: Settings that the user left open, with the values that the model's defaults gave
            them, and `of`, whose defaults they are.
        control: For each control image its network (`kind`, `network`, `fingerprint`), `image`
            (file name or None), `sha256`, `weight` and `window`.
        brought: What was brought to the model, by kind: `lora` (file, sha256, weight), `embedding`
            (file, sha256, token), `config` and `variant` (name).
        versions: Of Python and packages.
        seconds: Wall-clock time of the edit, loading excluded.
        peak_memory_bytes: Peak device memory; on a CPU the highest memory of the whole process.
    """

    model: str
    model_fingerprint: str
    device: str
    dtype: str
    targets: tuple[str, ...]
    source: str | None
    negative: str
    image: str | None
    image_sha256: str | None
    image_size: tuple[int, int] | None
    notes: tuple[str, ...]
    size: tuple[int, int]
    native: bool
    method: str
    parameters: dict[str, Any]
    inversion: str | None
    inversion_parameters: dict[str, Any]
    steps: int
    guidance: float
    seed: int | None
    edited_sites: tuple[str, ...]
    edited_steps: int
    edited_pairs: int
    sample_forwards: int
    flagged: tuple[bool, ...]
    mask: str | None = None
    mask_sha256: str | None = None
    brought: dict[str, Any] = field(default_factory=dict)
    control: tuple[dict[str, Any], ...] = ()
    memory: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)
    seconds: float = 0.0
    peak_memory_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def recipe(self) -> dict[str, Any]:
        """Return what makes the picture: neither what was measured nor who chose a setting."""
        return {n: v for n, v in self.to_dict().items() if n not in (*MEASURED, "defaults")}

    def png_text(self) -> dict[str, str]:
        """Return the text chunk for a PNG; without measurements, so that bytes repeat."""
        return {PNG_KEY: json.dumps(self.recipe(), ensure_ascii=False, sort_keys=True)}

    @classmethod
    def from_png(cls, path: str | Path) -> "Provenance":
        """Read the provenance that a saved picture carries.

        Raises:
            ConfigError: if the file carries none, or one that cannot be read.
            ImageError: if the file is not a complete PNG.
        """
        text = read_png_text(path).get(PNG_KEY)
        if text is None:
            raise ConfigError(
                f"{str(path)!r} carries no freeprompt provenance. Give a PNG that freeprompt "
                "saved; pictures that other programs have written anew have lost it."
            )
        try:
            data = json.loads(text)
            if not isinstance(data, dict):
                raise TypeError(f"it is {data!r}, not a record")
            values: dict[str, Any] = {
                name: tuple(v) if isinstance(v, list) else v for name, v in data.items()
            }
            hints = get_type_hints(cls)
            for name, value in values.items():
                if name in hints and not _fits(value, hints[name]):
                    raise TypeError(f"{name} is {value!r}")
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"The provenance in {str(path)!r} cannot be read ({error}). It may come from "
                "another version of freeprompt."
            ) from error


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: of the device, or on a CPU of the process so far."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # not a Unix system
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value read from JSON has the type that a field declares."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in args)
    if origin is tuple:
        kinds = args[:1] * len(value) if isinstance(value, tuple) and ... in args else args
        return (
            isinstance(value, tuple)
            and len(value) == len(kinds)
            and all(_fits(v, kind) for v, kind in zip(value, kinds, strict=True))
        )
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return hint is Any or isinstance(value, origin or hint)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
