"""Recorded tensors of source rows, by step, site and name."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from freeprompt.errors import ConfigError, MissingSource


@dataclass(frozen=True, order=True)
class TapeKey:
    """Which tensor: step, site name, tensor name, half."""

    step: int
    site: str
    name: str
    conditional: bool = True

    def __str__(self) -> str:
        return f"{self.step}/{self.site}/{self.name}/{'cond' if self.conditional else 'uncond'}"

    @classmethod
    def parse(cls, text: str) -> "TapeKey":
        """Read what `str` wrote."""
        step, site, name, half = text.split("/")
        return cls(int(step), site, name, half == "cond")


@dataclass
class Tape:
    """Tensors that `Record` saved and `Share` plays back.

    Args:
        device: Where recorded tensors are kept; None leaves them where they are.
        dtype: What they are stored as; None keeps their own. float16 halves the memory.
    """

    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    tensors: dict[TapeKey, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(x.numel() * x.element_size() for x in self.tensors.values())

    def write(self, key: TapeKey, value: Tensor) -> None:
        """Store one row's tensor of any shape."""
        self.tensors[key] = value.detach().to(device=self.device, dtype=self.dtype, copy=True)

    def read(self, key: TapeKey, like: Tensor) -> Tensor:
        """Return a stored tensor on the device and in the dtype of `like`.

        Falls back to the other half when this half was not recorded.

        Raises:
            MissingSource: if neither half was recorded; the message names the nearest record.
        """
        other = TapeKey(key.step, key.site, key.name, not key.conditional)
        found = self.tensors.get(key, self.tensors.get(other))
        if found is None:
            raise MissingSource(f"The tape has no {key}. {self._nearest(key)}")
        return found.to(device=like.device, dtype=like.dtype)

    def save(self, path: str | Path) -> None:
        """Write the tape as safetensors."""
        save_file({str(key): x.contiguous() for key, x in self.tensors.items()}, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> "Tape":
        """Read a tape that `save` wrote.

        Raises:
            ConfigError: if the file is missing or is not a saved tape.
        """
        try:
            return cls(tensors={TapeKey.parse(key): x for key, x in load_file(Path(path)).items()})
        except Exception as error:
            raise ConfigError(f"{str(path)!r} is not a saved tape: {error}") from error

    def _nearest(self, key: TapeKey) -> str:
        if not self.tensors:
            return "It is empty: run the source with a Record control first."

        def distance(k: TapeKey) -> tuple[bool, bool, int]:
            return k.site != key.site, k.name != key.name, abs(k.step - key.step)

        nearest = min(self.tensors, key=distance)
        return f"The nearest record is {nearest}; record with the same steps and sites."
