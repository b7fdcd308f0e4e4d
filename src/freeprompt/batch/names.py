"""Names of rows as names of files."""

from hashlib import sha256
from urllib.parse import quote

from freeprompt.errors import ConfigError

LONGEST = 200  # bytes; file systems take 255, and an ending must fit


def check_name(name: str) -> None:
    """Refuse names that cannot be those of files.

    Raises:
        ConfigError: saying what is allowed.
    """
    if not name.strip():
        raise ConfigError(f"must say something; got {name!r}")
    try:
        length = len(file_name(name))
    except UnicodeEncodeError:
        raise ConfigError(f"must be text that UTF-8 can hold; got {name!r}") from None
    if length > LONGEST:
        raise ConfigError(
            f"is too long: {length} bytes as the name of a file, of {LONGEST}; got {name!r}"
        )


def file_name(name: str) -> str:
    """Return a row's name as a part of a file name: letters, digits, `-` and `_` stay.

    All else becomes %XX: no two names share a file, none leads out of its folder, and none has a
    dot, at which readers of WebDataset tars cut.
    """
    return quote(name, safe="").replace(".", "%2E").replace("~", "%7E")


def folder_name(name: str) -> str:
    """Return the one of 256 folders that a row's picture lies in."""
    return sha256(name.encode()).hexdigest()[:2]
