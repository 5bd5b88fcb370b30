"""Draw the import graph of the package, of the working tree or of any git revision.

The picture shows rooms: subpackages of ``bundle``, and modules that lie directly in it. A room stands
one floor above the highest room that it imports. Imports within functions count as well. An arrow is
left out where a chain of other arrows leads to the same room.

python scripts/dev/draw_structure.py docs/studies/structure_now.png
python scripts/dev/draw_structure.py docs/studies/structure_0.10.png --revision b397f30
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import networkx as nx
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parents[2]
READ = """
import grimp, json, sys
graph = grimp.build_graph("bundle", cache_dir=None)
print(json.dumps({m: sorted(graph.find_modules_directly_imported_by(m)) for m in graph.modules}))
"""
"""Program that prints the imports of all modules. Runs in the folder of the revision."""
WIDTH_IN, FLOOR_IN = 13.0, 0.95
BOX_HEIGHT, GAP = 0.5, 0.12
INCHES_A_LETTER = 0.092
DPI = 100


def read_rooms(tree: Path) -> tuple[dict[str, int], nx.DiGraph]:
    """Read the rooms of a package and their imports.

    Args:
        tree: Folder that holds the package.

    Returns:
        Number of lines of each room; graph with an edge from each room to those that it imports.
    """
    read = subprocess.run(
        [sys.executable, "-c", READ], cwd=tree, check=True, capture_output=True, text=True
    )
    imports: Mapping[str, Sequence[str]] = json.loads(read.stdout)
    files = {
        module: tree / module.replace(".", "/") / "__init__.py"
        if (tree / module.replace(".", "/")).is_dir()
        else (tree / module.replace(".", "/")).with_suffix(".py")
        for module in imports
    }
    rooms: dict[str, int] = {}
    graph = nx.DiGraph()
    for module, path in files.items():
        if path.is_file():
            room = name_room(module, path)
            rooms[room] = rooms.get(room, 0) + len(path.read_text(encoding="utf-8").splitlines())
    # Leave out packages whose __init__.py is a docstring only, such as bundle/io.
    rooms = {room: lines for room, lines in rooms.items() if lines > 7}
    graph.add_nodes_from(rooms)
    for module, others in imports.items():
        for other in others:
            ends = name_room(module, files[module]), name_room(other, files[other])
            if ends[0] != ends[1] and set(ends) <= set(rooms):
                graph.add_edge(*ends)
    return rooms, graph


def name_room(module: str, path: Path) -> str:
    """Name the room of a module: its package without ``bundle.``, or a module of ``bundle``."""
    parts = module.split(".")[1:]
    if path.name != "__init__.py" and len(parts) > 1:
        parts = parts[:-1]
    name = ".".join(parts)
    return {"": "the public API", "apps": "apps.site_guard"}.get(name, name)


def find_floors(graph: nx.DiGraph) -> dict[str, int]:
    """Compute the floor of each room, counted from 1.

    Raises:
        ValueError: Imports form a cycle.
    """
    if not nx.is_directed_acyclic_graph(graph):
        circle = " -> ".join(above for above, _ in nx.find_cycle(graph))
        raise ValueError(f"rooms import each other in a circle, so they have no floors: {circle}")
    floors: dict[str, int] = {}
    for room in reversed(list(nx.topological_sort(graph))):
        floors[room] = 1 + max((floors[below] for below in graph.successors(room)), default=0)
    return floors


def draw(target: Path, title: str, rooms: Mapping[str, int], graph: nx.DiGraph) -> None:
    """Draw the graph as a PNG. Floor 1 is at the bottom; arrows lead from a room to what it imports."""
    floors = find_floors(graph)
    highest = max(floors.values())
    figure = Figure(figsize=(WIDTH_IN, FLOOR_IN * highest + 0.7), dpi=DPI)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, WIDTH_IN)
    axes.set_ylim(0, FLOOR_IN * highest + 0.7)
    axes.axis("off")
    boxes: dict[str, tuple[float, float, float]] = {}
    for floor in range(1, highest + 1):
        y = FLOOR_IN * (floor - 0.5)
        axes.axhspan(y - 0.36, y + 0.36, color="#f3f4f6" if floor % 2 else "#fafafa", zorder=0)
        axes.text(0.1, y, str(floor), color="grey", va="center", fontsize=11)
        here = [room for room in rooms if floors[room] == floor]
        # Place each room above what it imports, so that arrows are short.
        here.sort(key=lambda room: (_middle(graph, boxes, room), room))
        widths = [_width(room) for room in here]
        spare = WIDTH_IN - 0.6 - sum(widths)
        x, gap = 0.4, max(GAP, spare / (len(here) + 1))
        x += gap if spare > 0 else 0
        for room, width in zip(here, widths, strict=True):
            boxes[room] = (x, y, width)
            x += width + gap
    heaviest = max(rooms.values())
    for room, (x, y, width) in boxes.items():
        shade = 0.92 - 0.45 * (rooms[room] / heaviest) ** 0.5
        axes.add_patch(
            FancyBboxPatch(
                (x, y - BOX_HEIGHT / 2), width, BOX_HEIGHT, boxstyle="round,pad=0,rounding_size=0.08",
                facecolor=(shade * 0.9, shade, 1.0), edgecolor="#334155", linewidth=0.9, zorder=3,
            )
        )  # fmt: skip
        axes.text(x + width / 2, y + 0.07, room, ha="center", va="center", fontsize=10, zorder=4)
        lines = f"{rooms[room]:,}"
        axes.text(x + width / 2, y - 0.13, lines, ha="center", va="center", fontsize=8, zorder=4)
    for above, below in nx.transitive_reduction(graph).edges:
        (x1, y1, w1), (x2, y2, w2) = boxes[above], boxes[below]
        ends = (x1 + w1 / 2, y1 - BOX_HEIGHT / 2), (x2 + w2 / 2, y2 + BOX_HEIGHT / 2)
        axes.add_patch(
            FancyArrowPatch(
                *ends, arrowstyle="-|>", mutation_scale=11, shrinkA=0, shrinkB=0, zorder=5,
                color="#475569", linewidth=1.0, alpha=0.7,
            )
        )  # fmt: skip
    heading = f"{title}: {len(rooms)} rooms on {highest} floors, {graph.number_of_edges()} imports"
    axes.text(0.4, FLOOR_IN * highest + 0.35, heading, fontsize=14, va="center")
    FigureCanvasAgg(figure).print_png(str(target))
    print(heading)


def _width(room: str) -> float:
    return max(INCHES_A_LETTER * len(room) + 0.16, 0.6)


def _middle(graph: nx.DiGraph, boxes: Mapping[str, tuple[float, float, float]], room: str) -> float:
    below = [boxes[each] for each in graph.successors(room) if each in boxes]
    return sum(x + width / 2 for x, _, width in below) / len(below) if below else WIDTH_IN / 2


def main() -> None:
    """Read the command line and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("picture", type=Path, help="PNG file to write")
    parser.add_argument("--revision", help="git revision (default: the working tree)")
    parser.add_argument("--title", help="title of the picture (default: the version)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree = ROOT
        if options.revision is not None:
            tree = Path(folder)
            packed = subprocess.run(
                ["git", "archive", options.revision, "bundle", "configs/metadata.json"],
                cwd=ROOT, check=True, capture_output=True,
            )  # fmt: skip
            with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
                archive.extractall(tree, filter="data")
        version = json.loads((tree / "configs/metadata.json").read_text())["version"]
        draw(options.picture, options.title or f"Version {version}", *read_rooms(tree))


if __name__ == "__main__":
    main()
