"""Draw the two pictures of docs/architecture.md: how a frame passes, and the rooms of the package.

The rooms come from the contract of import-linter in pyproject.toml. The pictures are SVG, which needs
no script and no network to be shown.

python scripts/dev/draw_architecture.py
"""

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[2]
FRAME = ROOT / "docs" / "architecture_frame.svg"
ROOMS = ROOT / "docs" / "architecture_rooms.svg"

BOX_HEIGHT = 46
BOXES = [
    (60, 50, 80, "#ffffff", "frame", "RGB"),
    (235, 50, 130, "#dbeafe", "encode", "ResNet-50"),
    (420, 160, 130, "#dbeafe", "read", "attention"),
    (645, 50, 130, "#dbeafe", "segment", "decoder"),
    (835, 50, 130, "#ffffff", "masks", "and confidence"),
    (420, 270, 130, "#fef3c7", "memory", "keys and values"),
    (645, 270, 130, "#dbeafe", "memorize", "ResNet-18"),
    (835, 270, 130, "#ffffff", "given masks", "from the user"),
]
"""Centre x and y, width, colour, and the two lines of each box."""
ARROWS = [
    ([(100, 50), (170, 50)], "", 0, 0),
    ([(300, 50), (580, 50)], "query feature (256 channels), strides 8 and 4", 440, 40),
    ([(275, 73), (275, 160), (355, 160)], "key (64 channels)", 335, 122),
    ([(235, 73), (235, 270), (355, 270)], "key", 295, 263),
    ([(195, 73), (195, 317), (645, 317), (645, 293)], "stride 16", 420, 333),
    ([(485, 160), (645, 160), (645, 73)], "value of each object (256)", 565, 153),
    ([(710, 50), (770, 50)], "", 0, 0),
    ([(835, 73), (835, 190), (645, 190), (645, 247)], "every fifth, and the last", 775, 183),
    ([(770, 270), (710, 270)], "", 0, 0),
    ([(580, 270), (485, 270)], "value", 532, 263),
    ([(420, 247), (420, 183)], "all remembered frames", 490, 220),
]
"""Corners, label, and where the label is centred."""

GROUPS = {
    "bundle.cli": ("ways in", "#ede9fe"),
    "bundle.project": ("many videos", "#dcfce7"),
    "bundle.segmenter": ("the method", "#dbeafe"),
    "bundle.datasets": ("data", "#fef3c7"),
    "bundle.visualization": ("helpers", "#f1f5f9"),
}
"""First room of each group, from the top; name and colour of the group."""


def draw_frame() -> str:
    """Draw how a frame passes through the network and the memory, as SVG."""
    parts = [_box(*box) for box in BOXES]
    for corners, label, x, y in ARROWS:
        parts += [_arrow(corners), _text(x, y, label, size=12, colour="#475569")]
    return _picture(920, 350, "How a frame passes through the network and the memory", parts)


def draw_rooms() -> str:
    """Draw the rooms of the package, one floor for each layer of the contract, as SVG."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    [layers] = [each["layers"] for each in contracts if each["type"] == "layers"]
    return _picture(
        540, 16 + 28 * len(layers) + 8, "The rooms of the package", list(_floors(layers))
    )


def _floors(layers: list[str]) -> Iterator[str]:
    name = colour = ""
    for floor, layer in enumerate(layers):
        y = 16 + 28 * floor
        if layer.split()[0] in GROUPS:
            name, colour = GROUPS[layer.split()[0]]
            yield _text(445, y + 17, name, anchor="start", colour="#475569")
        rooms = [room.removeprefix("bundle.") for room in layer.split(" | ")]
        width = (370 - 10 * (len(rooms) - 1)) / len(rooms)
        for place, room in enumerate(rooms):
            x = 60 + (width + 10) * place
            yield _rectangle(x, y, width, 24, colour)
            yield _text(x + width / 2, y + 17, room)
    middle = 16 + 14 * len(layers)
    yield _arrow([(40, 20), (40, 8 + 28 * len(layers))])
    yield (
        f'<g transform="rotate(-90 24 {middle})">'
        f"{_text(24, middle, 'imports', colour='#475569')}</g>"
    )


def _picture(width: int, height: int, title: str, parts: list[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="Helvetica, Arial, sans-serif" role="img">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="#475569"/></marker></defs>',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _box(x: float, y: float, width: float, colour: str, name: str, detail: str) -> str:
    return "\n".join(
        [
            _rectangle(x - width / 2, y - BOX_HEIGHT / 2, width, BOX_HEIGHT, colour),
            _text(x, y - 3, name, size=15),
            _text(x, y + 15, detail, size=12, colour="#475569"),
        ]
    )


def _rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" '
        f'fill="{colour}" stroke="#334155"/>'
    )


def _text(
    x: float, y: float, text: str, size: int = 14, colour: str = "#0f172a", anchor: str = "middle"
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="{colour}">{escape(text)}</text>'
    )


def _arrow(corners: Sequence[tuple[float, float]]) -> str:
    points = " ".join(f"{x:g},{y:g}" for x, y in corners)
    return (
        f'<polyline points="{points}" fill="none" stroke="#475569" stroke-width="1.4" '
        'marker-end="url(#tip)"/>'
    )


if __name__ == "__main__":
    FRAME.write_text(draw_frame(), encoding="utf-8")
    ROOMS.write_text(draw_rooms(), encoding="utf-8")
