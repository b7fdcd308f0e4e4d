"""The result of an edit: pictures, their provenance, and writing both."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from freeprompt.api.provenance import Provenance
from freeprompt.api.source import InvertedImage
from freeprompt.errors import ConfigError
from freeprompt.images import save_png, side_by_side, write_json

OTHER_FORMATS = {".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}


@dataclass(frozen=True, kw_only=True)
class EditResult:
    """Edited pictures and everything needed to make them again.

    Attributes:
        images: One picture a target, in the order of the targets.
        provenance: Recipe and cost.
        inverted: The real image and its inversion, ready for further edits; None for a generated
            source.
        generated: The generated source; None for a real image.
    """

    images: list[Image.Image]
    provenance: Provenance
    inverted: InvertedImage | None = None
    generated: Image.Image | None = None

    @property
    def source(self) -> Image.Image:
        """The generated source, or the *reconstruction* of the real image.

        A reconstruction is computed when first asked for, at one sample-forward a step beyond
        what the provenance reports for the edit. It is never the input passed off as one.
        """
        if self.inverted is None:
            assert self.generated is not None
            return self.generated
        image = self.inverted.reconstruction
        return image if self.provenance.native else self.inverted.restore_size(image)

    @property
    def reconstruction_psnr(self) -> float | None:
        """PSNR in dB of the reconstruction against the VAE's round trip; None without inversion.

        Above 30 dB the inversion kept what matters; below 20 dB expect edits to lose the source.
        """
        if self.inverted is None or not self.inverted.inverted:
            return None
        return self.inverted.psnr

    @property
    def reconstructable(self) -> bool:
        """Whether there is an inversion whose reconstruction can be computed."""
        return self.inverted is not None and self.inverted.inverted

    def side_by_side(self) -> Image.Image:
        """Return a labelled row: the source (with its reconstruction if computed), the edits."""
        columns = [(f"edit: {t}", i) for t, i in zip(self.targets, self.images, strict=True)]
        if self.inverted is None:
            return side_by_side([(f"source: {self.provenance.source}", self.source), *columns])
        if self.inverted.reconstructed:
            label = f"reconstruction, {self.inverted.psnr:.1f} dB"
            columns.insert(0, (label, self.source))
        return side_by_side([("source: a real image", self.inverted.picture.image), *columns])

    @property
    def targets(self) -> tuple[str, ...]:
        """The target prompts."""
        return self.provenance.targets

    def to_dict(self) -> dict[str, Any]:
        """Return provenance and, where computed, the reconstruction error, as JSON types."""
        data = self.provenance.to_dict()
        if self.inverted is not None and self.inverted.reconstructed:
            data["reconstruction_psnr_db"] = self.inverted.psnr
        return data

    def save(self, path: str | Path) -> list[Path]:
        """Write the pictures with their provenance inside, and a JSON sidecar.

        Args:
            path: A folder (made if missing), which gets one PNG a target, named after it, the
                source, a labelled side-by-side and `result.json`; or, for a single target, a file
                that ends in `.png`, which gets a `.json` beside it.

        Returns:
            The files written, edits first. Each is whole or not there at all.

        Raises:
            ConfigError: for a `.png` path and several targets, for another picture format, or if
                the input image would be replaced.
            SaveError: if something cannot be written.
        """
        path = Path(path)
        check_kind(path)
        text = self.provenance.png_text()
        if path.suffix.lower() == ".png":
            return self._save_single(path, text)
        names = file_names(self.targets)
        pictures = dict(zip(names, self.images, strict=True))
        if self.inverted is None:
            pictures["source.png"] = self.source
        elif self.inverted.reconstructed:
            pictures["reconstruction.png"] = self.source
        written = [path / name for name in (*pictures, "side-by-side.png", "result.json")]
        self._spare_the_input(written)
        for name, picture in pictures.items():
            save_png(picture, path / name, text)
        save_png(self.side_by_side(), path / "side-by-side.png", {})
        write_json(path / "result.json", {**self.to_dict(), "files": names})
        return written

    def _spare_the_input(self, files: list[Path]) -> None:
        """Refuse to write over the image that was edited."""
        name = self.provenance.image
        try:
            same = [f for f in files if name and f.exists() and f.samefile(name)]
        except OSError:  # the image has gone since
            return
        if same:
            raise ConfigError(
                f"Saving to {str(same[0])!r} would replace the input image itself. Choose another "
                "folder or name."
            )

    def _save_single(self, path: Path, text: dict[str, str]) -> list[Path]:
        if len(self.images) != 1:
            raise ConfigError(
                f"{len(self.images)} targets do not fit into the one file {str(path)!r}. "
                "Give a folder."
            )
        sidecar = path.with_suffix(".json")
        self._spare_the_input([path, sidecar])
        save_png(self.images[0], path, text)
        write_json(sidecar, self.to_dict())
        return [path, sidecar]


def check_kind(path: Path) -> None:
    """Refuse names of picture formats that cannot be written.

    Raises:
        ConfigError: for .jpg and the like.
    """
    if path.suffix.lower() in OTHER_FORMATS and not path.is_dir():
        raise ConfigError(
            f"{str(path)!r} names a format that cannot carry a picture unchanged. Give a .png "
            "name, or a folder."
        )


def file_names(targets: tuple[str, ...]) -> list[str]:
    """Return a distinct file name for each prompt, such as `a-red-car.png`."""
    names: list[str] = []
    for target in targets:
        stem = re.sub(r"[^\w]+", "-", target.lower()).strip("-")[:60] or "edit"
        taken = [*names, "source.png", "reconstruction.png", "side-by-side.png"]
        count, name = 1, f"{stem}.png"
        while name in taken:
            count += 1
            name = f"{stem}-{count}.png"
        names.append(name)
    return names
