"""Build the sprite atlas of Emoji World from openly licensed npm packages.

    python tools/build_atlas.py                    # fetch the packages with npm, then build
    python tools/build_atlas.py --packages FOLDER  # build from packages that are already unpacked

FOLDER holds one folder per package, each with the `package` folder that unpacking gives. Writes
`sprites.webp` (RGBA), `paint.webp` (R = how much of a pixel takes the named colour, G = its shade)
and `index.json` into `src/freeprompt/world/atlas`. Needs `resvg_py` (`pip install
"freeprompt[sprites]"`); the library itself never does. The sprites are chosen in
`build_atlas_table.py`, beside this file.
"""

import argparse
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import resvg_py
from PIL import Image

from build_atlas_table import ANIMALS, FACING, LEFT_OUT, OBJECTS, PAINT, Hue

CELL = 128
COLUMNS = 16
ATLAS = Path(__file__).resolve().parents[1] / "src" / "freeprompt" / "world" / "atlas"
PACKAGES = {
    "3d": ("@lobehub/fluent-emoji-3d@1.1.0", "MIT"),
    "flat": ("fluentui-emoji@1.3.0", "MIT"),
    "twemoji": ("@twemoji/svg@15.0.0", "CC-BY-4.0"),
    "noto": ("@iconify-json/noto@1.2.9", "Apache-2.0"),
}
Floats = npt.NDArray[np.float32]


def fetch(target: Path) -> None:
    """Download every package with `npm pack` and unpack it into its own folder of `target`."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is not installed: unpack the packages by hand and use --packages.")
    for name, (package, _) in PACKAGES.items():
        folder = target / name
        folder.mkdir(parents=True)
        subprocess.run([npm, "pack", "--silent", package], cwd=folder, check=True)
        with tarfile.open(next(folder.glob("*.tgz"))) as archive:
            archive.extractall(folder, filter="data")


def package_root(packages: Path, package: str) -> Path:
    """Find the unpacked `package` below `packages` by the name in its package.json."""
    name = package.rsplit("@", 1)[0]
    for candidate in sorted(packages.glob("*/package")):
        if json.loads((candidate / "package.json").read_text())["name"] == name:
            return candidate
    raise SystemExit(f"{package} is not unpacked below {packages}.")


def drawn(svg: str) -> Image.Image:
    """Render an SVG text at 256 x 256 with alpha."""
    data = resvg_py.svg_to_bytes(svg_string=svg, width=256, height=256)
    return Image.open(io.BytesIO(bytes(data))).convert("RGBA")


class Sources:
    """The four sprite sets, each answering with the picture of one emoji."""

    def __init__(self, packages: Path) -> None:
        self.root = {name: package_root(packages, spec) for name, (spec, _) in PACKAGES.items()}
        self.icons: dict[str, Any] = json.loads((self.root["noto"] / "icons.json").read_text())
        self.chars: dict[str, str] = json.loads((self.root["noto"] / "chars.json").read_text())

    def picture(self, set_name: str, code: str, slug: str) -> Image.Image:
        """Return the emoji with code point `code` (Fluent file name `slug`) of one set."""
        root = self.root[set_name]
        if set_name == "3d":
            found = (root / "assets" / f"{code}{tail}.webp" for tail in ("", "-fe0f"))
            return Image.open(next(p for p in found if p.exists())).convert("RGBA")
        if set_name == "flat":
            return drawn((root / "icons" / "flat" / f"{slug}.svg").read_text())
        if set_name == "twemoji":
            return drawn((root / f"{code}.svg").read_text())
        return drawn(self._noto(code))

    def _noto(self, code: str) -> str:
        name = self.chars.get(code) or self.chars[f"{code}-fe0f"]
        icon = self.icons["icons"][name]
        width = icon.get("width", self.icons.get("width", 128))
        height = icon.get("height", self.icons.get("height", 128))
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        )


def fitted(picture: Image.Image, mirror: bool) -> Image.Image:
    """Crop to the visible part, scale the longer side to CELL, and mirror if asked."""
    box = picture.getchannel("A").point(lambda a: 255 * (a > 24)).getbbox()
    picture = picture.crop(box)
    if mirror:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    ratio = CELL / max(picture.size)
    size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
    return picture.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")


def ramp(values: Floats, low: float, high: float) -> Floats:
    """0 below `low`, 1 above `high`, straight between."""
    return np.clip((values - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def hsv(rgb: Floats) -> tuple[Floats, Floats, Floats]:
    """Hue in degrees, saturation and value of RGB in 0..1."""
    high, low = rgb.max(-1), rgb.min(-1)
    span = np.maximum(high - low, 1e-6)
    red, green, blue = np.moveaxis(rgb, -1, 0)
    hue = np.select(
        [high == red, high == green],
        [(green - blue) / span % 6, (blue - red) / span + 2],
        (red - green) / span + 4,
    )
    return (hue * 60).astype(np.float32), (high - low) / np.maximum(high, 1e-6), high


def dominant_hue(hue: Floats, weight: Floats) -> float:
    """The hue in degrees at which most saturated pixels lie."""
    counts, _ = np.histogram(hue, bins=36, range=(0, 360), weights=weight)
    smooth = counts + np.roll(counts, 1) + np.roll(counts, -1)
    return float(np.argmax(smooth)) * 10 + 5


def hue_weight(rgb: Floats, rule: Hue) -> Floats:
    """How much each pixel belongs to a range of hue, saturation and value, 0..1."""
    hue, saturation, value = hsv(rgb)
    middle, half = (rule.low + rule.high) / 2, (rule.high - rule.low) / 2
    away = np.abs((hue - middle + 180) % 360 - 180).astype(np.float32)
    weight = 1 - ramp(away, half, half + 12) if half < 180 else np.ones_like(hue)
    weight = weight * ramp(saturation, rule.sat[0] - 0.1, rule.sat[0] + 0.05)
    weight = weight * (1 - ramp(saturation, rule.sat[1], rule.sat[1] + 0.08))
    return weight * ramp(value, rule.value - 0.08, rule.value)


def paint_weight(rgb: Floats, rules: tuple[Hue, ...] | None) -> Floats:
    """How much each pixel takes the named colour, 0..1; without rules, what is most saturated."""
    if rules is None:
        hue, saturation, value = hsv(rgb)
        at = dominant_hue(hue, ramp(saturation, 0.2, 0.4) * value)
        rules = (Hue(at - 40, at + 40),)
    weight = np.zeros(rgb.shape[:2], np.float32)
    for rule in rules:
        found = hue_weight(rgb, rule)
        weight = weight * (1 - found) if rule.remove else np.maximum(weight, found)
    return weight


def shade_of(rgb: Floats, weight: Floats) -> Floats:
    """Luminance against what most painted pixels reach: 0.5 is the named colour itself."""
    luma = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    painted = luma[weight > 0.5]
    low, middle, high = np.percentile(painted, [4, 60, 96])
    gain = min(1.2, 0.42 / max(float(high - low), 1e-6))
    return np.clip(0.5 + (luma - middle) * gain, 0, 1).astype(np.float32)


def paint_layers(picture: Image.Image, rules: tuple[Hue, ...] | None) -> Image.Image:
    """The paint weight (R) and the shade (G) of an object's sprite, as an RGB picture."""
    array = np.asarray(picture, np.float32) / 255
    rgb, visible = array[..., :3], array[..., 3] > 0.02
    weight = paint_weight(rgb, rules) * visible
    shade = shade_of(rgb, weight) * (weight > 0)
    layers = np.stack([weight, shade, np.zeros_like(weight)], -1)
    return Image.fromarray((layers * 255 + 0.5).astype(np.uint8))


def entries() -> list[tuple[str, str, str, str]]:
    """(subject, set, code point, Fluent file name) of every sprite, in atlas order."""
    return [
        (name, set_name, code, slug)
        for name, code, slug in (*ANIMALS, *OBJECTS)
        for set_name in PACKAGES
        if (name, set_name) not in LEFT_OUT
    ]


def build(packages: Path, out: Path) -> None:
    """Write the two sheets and the index."""
    sources, rows = Sources(packages), entries()
    objects = {name for name, _, _ in OBJECTS}
    height = -(-len(rows) // COLUMNS) * CELL
    sheet = Image.new("RGBA", (COLUMNS * CELL, height))
    paint = Image.new("RGB", sheet.size)
    index = []
    for number, (name, set_name, code, slug) in enumerate(rows):
        corner = (number % COLUMNS * CELL, number // COLUMNS * CELL)
        facing = FACING.get((name, set_name), FACING.get((name, ""), "left"))
        sprite = fitted(sources.picture(set_name, code, slug), mirror=facing == "right")
        sheet.paste(sprite, corner)
        if name in objects:
            paint.paste(paint_layers(sprite, PAINT.get((name, set_name))), corner)
        index.append(
            {
                "name": name,
                "set": set_name,
                "licence": PACKAGES[set_name][1],
                "code": code,
                "box": [*corner, *sprite.size],
                "facing": "front" if facing == "front" else "left",
                "mirrored": facing == "right",
            }
        )
    out.mkdir(parents=True, exist_ok=True)
    sheet.save(out / "sprites.webp", lossless=True, quality=100, method=6)
    paint.save(out / "paint.webp", lossless=True, quality=100, method=6)
    text = ",\n".join(json.dumps(row) for row in index)
    (out / "index.json").write_text(f"[\n{text}\n]\n")


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description="Build the sprite atlas of Emoji World.")
    parser.add_argument("--packages", type=Path, help="folder of unpacked packages")
    parser.add_argument("--out", type=Path, default=ATLAS, help="where the atlas is written")
    given = parser.parse_args()
    if given.packages is not None:
        build(given.packages, given.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        fetch(Path(folder))
        build(Path(folder), given.out)


if __name__ == "__main__":
    main()
