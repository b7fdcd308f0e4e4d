"""Where manifests and pictures lie: on a disk, or behind an address such as `s3://bucket/folder`."""

import posixpath
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

from freeprompt.errors import ConfigError, ImageError, MissingDependency
from freeprompt.picture import Picture, open_image


def is_address(name: str) -> bool:
    """Whether a name is an address with a protocol, such as `s3://bucket/picture.png`."""
    protocol, found, _ = name.partition("://")
    return bool(found) and protocol.replace("+", "").isalnum()


def open_binary(name: str) -> IO[bytes]:
    """Open a file or an address for reading.

    Raises:
        MissingDependency: if the address needs a package that is not installed.
        OSError: if it cannot be read.
    """
    if not is_address(name):
        return Path(name).open("rb")
    try:
        import fsspec

        return cast("IO[bytes]", fsspec.open(name, "rb").open())
    except ImportError as error:
        raise MissingDependency(
            f"'{name}' cannot be opened ({error}). Install what its protocol needs: "
            'pip install "freeprompt[batch]", and s3fs for s3://, gcsfs for gs://.'
        ) from error
    except OSError:
        raise
    except Exception as error:  # what the packages of other protocols raise
        raise OSError(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Root:
    """The folder or address that the pictures of a manifest lie in; none may lie outside.

    Attributes:
        base: Folder, or address without a slash at its end.
    """

    base: str

    @classmethod
    def of(cls, manifest: str) -> "Root":
        """Return the place of a manifest itself."""
        if is_address(manifest):
            return cls(manifest.rpartition("/")[0])
        return cls(str(Path(manifest).absolute().parent))

    @classmethod
    def at(cls, folder: str) -> "Root":
        """Return a folder or an address as a root; no text is the current folder."""
        if is_address(folder):
            return cls(folder.removesuffix("/"))
        return cls(str(Path(folder).absolute()))

    def place(self, name: str) -> str:
        """Return the full name of a picture.

        Args:
            name: Relative to the root; an address is taken as it is.

        Raises:
            ConfigError: if it leaves the root.
        """
        if "\0" in name or not name.strip():
            raise ConfigError(f"must name a file; got {name!r}")
        if is_address(name):
            if ".." in name.split("/"):
                raise ConfigError(f"must not climb with '..'; got {name!r}")
            return name
        inside = posixpath.normpath(name.replace("\\", "/"))
        here = self._relative(inside)
        if here is None or here == ".." or here.startswith("../"):
            raise ConfigError(
                f"must lie below '{self.base}'; got {name!r}, which leads out of it. Move the "
                "manifest up, or name a folder that holds all pictures with --root"
            )
        return f"{self.base}/{here}"

    def _relative(self, name: str) -> str | None:
        """Return a normalised name relative to the root; None for an absolute one elsewhere."""
        if not (name.startswith("/") or name[1:3] == ":/"):
            return name
        base = self.base.replace("\\", "/").rstrip("/") + "/"
        return name.removeprefix(base) if name.startswith(base) else None

    def read(self, name: str) -> Picture:
        """Read a picture; it is known by the name that the manifest gives it.

        Raises:
            ImageError: if it cannot be read.
        """
        place = self.place(name)
        if not is_address(place):
            return replace(open_image(place), name=name)
        try:
            with open_binary(place) as file:
                content: Any = file.read()
        except OSError as error:
            raise ImageError(
                f"'{place}' could not be read ({error}). Check the address and your rights to it."
            ) from error
        return replace(open_image(content), name=name)
