"""What is edited: one source, one target prompt, and what is known to be true of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from PIL import Image

from freeprompt.errors import ConfigError, unknown
from freeprompt.metrics import Region
from freeprompt.picture import open_image
from freeprompt.world import Scene

Track = Literal["generated", "real"]
TRACKS: tuple[str, ...] = get_args(Track)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One edit to be made.

    Attributes:
        id: Name, unique in its data set; `track/cell/number` or what the data set calls it.
        cell: The kind of edit, by which tables are broken down.
        track: Whether the source is generated from its prompt or a real image.
        source: Source prompt; empty if nothing is known.
        target: Target prompt.
        seed: Of the start noise of a generated source.
        blend_words: Words that the data set names for local blends: of the source, of the target;
            or none.
    """

    id: str
    cell: str
    track: Track
    source: str
    target: str
    seed: int = 0
    blend_words: tuple[str, ...] = ()

    def picture(self, size: int) -> Image.Image | None:
        """The real image, or None if the source is generated.

        Args:
            size: The model's native side in pixels, for images that are rendered.
        """
        return None

    def background(self, size: tuple[int, int]) -> Region | None:
        """What the data set says must not change: bool, (height, width); None if it says nothing.

        Args:
            size: Width and height of the picture.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class FileItem(Item):
    """An item of a data set of image files.

    Attributes:
        path: The image, or None if the source is generated.
    """

    path: Path | None = None

    def picture(self, size: int) -> Image.Image | None:
        return None if self.path is None else open_image(self.path).image


@dataclass(frozen=True, kw_only=True)
class SceneItem(Item):
    """An item of EmojiEdit-Bench, whose truth is a scene.

    Attributes:
        scene: The source; of a generated one only the named attributes are meant.
        changes: Wanted attributes by name; empty for an edit that shall change nothing.
    """

    scene: Scene
    changes: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, row: dict[str, Any], track: Track) -> Self:
        """Read a row of a manifest for one of the two tracks."""
        scene, changes = Scene.from_dict(row["scene"]), row["changes"]
        return cls(
            id=f"{track}/{row['id']}",
            cell=row["id"].split("/")[0],
            track=track,
            source=scene.caption(),
            target=scene.edited(**changes).caption(),
            seed=row["seed"],
            scene=scene,
            changes=tuple(changes.items()),
        )

    @property
    def ideal(self) -> Scene:
        """The edit as it should be."""
        return self.scene.edited(**dict(self.changes))

    def picture(self, size: int) -> Image.Image | None:
        if self.track == "generated":
            return None
        return Image.fromarray(self.scene.render(size).image)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Items with a name.

    Attributes:
        name: How reports call it.
        items: In the order in which they are run.
        notes: What a reader of the figures should know of how it was read.
    """

    name: str
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()

    def only(
        self,
        *,
        tracks: Sequence[str] = TRACKS,
        cells: Sequence[str] = (),
        limit: int | None = None,
    ) -> "Dataset":
        """Take a part.

        Args:
            tracks: Tracks to keep.
            cells: Cells to keep; empty for all.
            limit: Items to keep of each cell of each track, the first ones.

        Raises:
            ConfigError: for a name that does not occur, or if nothing is left.
        """
        known = dict.fromkeys(item.cell for item in self.items)
        for noun, given, allowed in (("track", tracks, TRACKS), ("cell", cells, known)):
            for name in given:
                if name not in allowed:
                    raise unknown(ConfigError, noun, name, allowed)
        if limit is not None and limit < 1:
            raise ConfigError(f"The limit of items a cell must be at least 1; got {limit}.")
        chosen = [i for i in self.items if i.track in tracks and (not cells or i.cell in cells)]
        if not chosen:
            raise ConfigError(
                f"{self.name} has no items of the tracks {', '.join(tracks)}"
                f"{' and the cells ' + ', '.join(cells) if cells else ''}. It has "
                + ", ".join(sorted({f"{i.track}/{i.cell}" for i in self.items}))
                + "."
            )
        return Dataset(name=self.name, items=tuple(_first(chosen, limit)), notes=self.notes)


def _first(items: Iterable[Item], limit: int | None) -> Iterable[Item]:
    """Keep the first `limit` of each cell of each track, in order."""
    counts: dict[tuple[str, str], int] = {}
    for item in items:
        place = item.track, item.cell
        counts[place] = counts.get(place, 0) + 1
        if limit is None or counts[place] <= limit:
            yield item
