"""Which sprites Emoji World uses, which way they face, and which of their pixels take a colour."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hue:
    """A range of colours: hue in degrees (`low` may be negative), saturation and least value 0..1.

    With `remove`, the range is taken out of what the rules before it selected.
    """

    low: float
    high: float
    sat: tuple[float, float] = (0.28, 1.0)
    value: float = 0.2
    remove: bool = False


ANY = Hue(0, 360, sat=(-1.0, 1.0), value=0.0)
PALE = Hue(0, 360, sat=(-1.0, 0.14), value=0.78)


def _rows(text: str) -> tuple[tuple[str, str, str], ...]:
    """Split "name code slug; ..." into triples; "_" in a name stands for a blank."""
    rows = (entry.split() for entry in text.replace("\n", " ").split(";"))
    return tuple((name.replace("_", " "), code, slug) for name, code, slug in rows)


ANIMALS = _rows("""
dog 1f415 dog; giraffe 1f992 giraffe; horse 1f40e horse; lion 1f981 lion; rabbit 1f407 rabbit;
sheep 1f411 ewe; cat 1f408 cat; monkey 1f412 monkey; leopard 1f406 leopard; tiger 1f405 tiger;
cow 1f404 cow; pig 1f416 pig; elephant 1f418 elephant; camel 1f42a camel; duck 1f986 duck;
turtle 1f422 turtle; deer 1f98c deer; goat 1f410 goat; rooster 1f413 rooster; mouse 1f401 mouse;
zebra 1f993 zebra; kangaroo 1f998 kangaroo; penguin 1f427 penguin; flamingo 1f9a9 flamingo
""")

OBJECTS = _rows("""
car 1f697 automobile; bus 1f68c bus; truck 1f69a delivery-truck; bicycle 1f6b2 bicycle;
scooter 1f6f5 motor-scooter; tractor 1f69c tractor; house 1f3e0 house; umbrella 2602 umbrella;
balloon 1f388 balloon; shirt 1f455 t-shirt; dress 1f457 dress; hat 1f3a9 top-hat;
boot 1f462 womans-boot; backpack 1f392 backpack; guitar 1f3b8 guitar; bell 1f514 bell;
teapot 1fad6 teapot; bucket 1faa3 bucket; chair 1fa91 chair; flower 1f337 tulip;
book 1f4d5 closed-book; key 1f511 key; heart 2764 red-heart; star 2b50 star
""")

# A face where the other sets have a whole animal, a body without legs, a grey bus, and things
# whose coloured part is too small or too uneven for the colour to be named.
LEFT_OUT = {
    ("sheep", "twemoji"),
    ("deer", "twemoji"),
    ("zebra", "twemoji"),
    ("bus", "twemoji"),
    ("bicycle", "noto"),
    ("tractor", "noto"),
    ("house", "noto"),
}

# "right" is mirrored, so that in the atlas whatever has a side faces left; "" stands for all sets.
FACING = {
    ("lion", ""): "front",
    ("penguin", "3d"): "front",
    ("penguin", "flat"): "front",
    ("penguin", "twemoji"): "right",
    ("house", ""): "front",
    ("umbrella", ""): "front",
    ("balloon", ""): "front",
    ("shirt", ""): "front",
    ("dress", ""): "front",
    ("hat", ""): "front",
    ("backpack", ""): "front",
    ("guitar", ""): "front",
    ("bell", ""): "front",
    ("bucket", ""): "front",
    ("chair", ""): "front",
    ("flower", ""): "front",
    ("book", ""): "front",
    ("key", ""): "front",
    ("heart", ""): "front",
    ("star", ""): "front",
}

PAINT: dict[tuple[str, str], tuple[Hue, ...]] = {
    ("car", "3d"): (Hue(318, 380),),
    ("bus", "3d"): (Hue(5, 60), PALE),
    ("bus", "flat"): (Hue(20, 60), PALE),
    ("bus", "noto"): (Hue(15, 65, sat=(0.12, 1.0), value=0.7), PALE),
    ("truck", "3d"): (Hue(-15, 60),),
    ("truck", "flat"): (Hue(-15, 60),),
    ("truck", "twemoji"): (Hue(-15, 60), PALE),
    ("truck", "noto"): (Hue(-15, 60),),
    ("house", "3d"): (Hue(-15, 45, sat=(0.2, 1.0), value=0.5),),
    ("house", "flat"): (Hue(-15, 45, sat=(0.2, 1.0), value=0.7),),
    ("house", "twemoji"): (Hue(30, 60, sat=(0.15, 1.0), value=0.7),),
    ("flower", "twemoji"): (Hue(330, 380, sat=(0.15, 1.0)),),
    ("hat", "3d"): (ANY, Hue(320, 380, sat=(0.45, 1.0), value=0.4, remove=True)),
    ("hat", "flat"): (ANY, Hue(320, 380, sat=(0.45, 1.0), value=0.4, remove=True)),
    ("hat", "twemoji"): (ANY, Hue(240, 290, sat=(0.3, 1.0), value=0.4, remove=True)),
    ("hat", "noto"): (ANY, Hue(20, 60, sat=(0.4, 1.0), value=0.4, remove=True)),
    ("tractor", "twemoji"): (Hue(75, 140),),
    ("shirt", "noto"): (Hue(160, 220, sat=(0.12, 1.0)),),
    ("backpack", "twemoji"): (Hue(335, 385),),
    ("backpack", "noto"): (Hue(-15, 25),),
}
