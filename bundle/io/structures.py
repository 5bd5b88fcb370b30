"""Read and write a list of structures: the name, colour and code of each object id.

It is read from JSON, a colour table of 3D Slicer or a DICOM segmentation, and written as JSON.
Codes, such as those of SNOMED CT, are kept and written into DICOM segmentations.
"""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.misc import is_dicom

from bundle.io.reading.decode import explained

VERSION = 1
MAX_ID = 255
"""Masks have eight bits."""
COLOURS = (
    "#3ecf8e", "#ff6f91", "#4da3ff", "#ffc145", "#c58bff", "#2ed3d3", "#ff8a4c", "#b5d94c",
)  # fmt: skip
"""Colours for structures that have none, used by turns."""
CODES = ("category", "code", "modifier", "region")
SLICER_COLUMNS = dict(zip(CODES, ("Category", "Type", "TypeModifier", "Region"), strict=True))
SLICER_SUFFIXES = (".ctbl", ".txt", ".csv")


@dataclass(frozen=True)
class Code:
    """One entry of a terminology, as DICOM writes it.

    Attributes:
        value: Such as ``87878005``.
        scheme: ``SCT`` for SNOMED CT.
        meaning: In words, such as ``Left ventricle``.
    """

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Structure:
    """What one object id means.

    Attributes:
        id: Value of its pixels in masks, 1 to 255.
        name: Unique in its list.
        colour: ``#rrggbb``.
        category: Such as ``Anatomical Structure``; DICOM calls it the segmented property category.
        code: What it is, such as ``Left ventricle``; DICOM's segmented property type.
        modifier: Modifier of the code, such as ``Left``.
        region: Where it lies, such as ``Colon`` for a polyp; DICOM's anatomic region.
    """

    id: int
    name: str
    colour: str
    category: Code | None = None
    code: Code | None = None
    modifier: Code | None = None
    region: Code | None = None


Structures: TypeAlias = Mapping[int, Structure]
"""By id."""


def make_structures(structures: Iterable[Structure], source: str = "the list") -> Structures:
    """Check a list of structures.

    Args:
        structures: In any order.
        source: Name of the list, for messages.

    Returns:
        Structures by id, in rising order.

    Raises:
        ValueError: The list is empty; an id is used twice or not from 1 to 255; a name is empty or used
            twice, ignoring case; or a colour is not ``#rrggbb``.

    Example:
        >>> make_structures([Structure(2, "left atrium", "#ff6f91")])[2].name
        'left atrium'
    """
    found: dict[int, Structure] = {}
    names: dict[str, int] = {}
    for each in structures:
        if not 1 <= each.id <= MAX_ID:
            raise ValueError(
                f"{source} gives {each.name!r} the id {each.id}: expected 1 to {MAX_ID}"
            )
        if each.id in found:
            raise ValueError(
                f"{source} gives the id {each.id} to {found[each.id].name!r} and to {each.name!r}: "
                "give each structure its own"
            )
        if not each.name.strip():
            raise ValueError(f"{source} has no name for the id {each.id}: add one")
        key = each.name.strip().casefold()
        if key in names:
            raise ValueError(
                f"{source} has the name {each.name!r} twice, for the ids {names[key]} and {each.id}: "
                "rename one"
            )
        if not re.fullmatch("#[0-9a-fA-F]{6}", each.colour):
            raise ValueError(
                f"{source} gives {each.name!r} the colour {each.colour!r}: expected #rrggbb"
            )
        found[each.id], names[key] = each, each.id
    if not found:
        raise ValueError(f"{source} holds no structure: add one with an id and a name")
    return dict(sorted(found.items()))


def default_colour(object_id: int) -> str:
    """Return the colour for a structure that has none."""
    return COLOURS[(object_id - 1) % len(COLOURS)]


def read_structures(path: str | Path) -> Structures:
    """Read a list of structures.

    Args:
        path: JSON, as ``structures_to_json`` gives it or as a mapping of ids to names; a colour
            table of 3D Slicer (``.ctbl``, ``.txt``, ``.csv``); or a DICOM segmentation, whose
            segment numbers become the ids.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is of another kind, or as in ``make_structures``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such list of structures: {path}: check the path")
    if is_dicom(path):
        found = _read_segments(path)
    elif path.suffix.lower() in SLICER_SUFFIXES:
        found = _read_colour_table(path)
    elif path.suffix.lower() == ".json":
        return structures_from_json(_load(path), str(path))
    else:
        raise ValueError(
            f"{path} is not a list of structures: expected .json, a colour table of 3D Slicer "
            f"({', '.join(SLICER_SUFFIXES)}), or a DICOM segmentation"
        )
    return make_structures(found, str(path))


def structures_to_json(structures: Structures) -> dict[str, Any]:
    """Convert structures to what a JSON list holds. Missing codes are left out.

    Example:
        >>> structures_to_json(make_structures([Structure(1, "polyp", "#3ecf8e")]))
        {'version': 1, 'structures': [{'id': 1, 'name': 'polyp', 'colour': '#3ecf8e'}]}
    """
    listed = [
        {key: value for key, value in asdict(each).items() if value is not None}
        for each in structures.values()
    ]
    return {"version": VERSION, "structures": listed}


def structures_from_json(content: Any, source: str = "the list") -> Structures:
    """Read structures from what ``structures_to_json`` returns, or from a mapping of ids to names.

    Raises:
        ValueError: The content is neither, has another version, or as in ``make_structures``.

    Example:
        >>> structures_from_json({"1": "left ventricle"})[1].colour
        '#3ecf8e'
    """
    wanted = (
        'expected {"version": 1, "structures": [{"id": 1, "name": "polyp", "colour": "#3ecf8e"}]} or '
        '{"1": "polyp"}'
    )
    if isinstance(content, dict) and content and all(str(key).isdecimal() for key in content):
        content = {"structures": [{"id": int(i), "name": name} for i, name in content.items()]}
    if not isinstance(content, dict) or not isinstance(content.get("structures"), list):
        raise ValueError(f"{source} lists no structures: {wanted}")
    if content.get("version", VERSION) != VERSION:
        raise ValueError(
            f"{source} is a list of version {content['version']}, this program reads {VERSION}: "
            "update it"
        )
    found = []
    for each in content["structures"]:
        try:
            codes = {name: Code(**each[name]) for name in CODES if each.get(name) is not None}
            object_id, name = each["id"], each["name"]
            if not isinstance(object_id, int) or not isinstance(name, str):
                raise TypeError("id must be a whole number and name a text")
            colour = each.get("colour", default_colour(object_id))
            found.append(Structure(object_id, name, str(colour), **codes))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{source} has the entry {each!r} ({error}): {wanted}") from error
    return make_structures(found, source)


def to_cielab(colour: str) -> list[int]:
    """Convert a colour to CIELab as DICOM writes it: L*, a* and b*, 16 bits each.

    The white point is D65, that of screens, as in DCMTK and 3D Slicer, so that grey stays grey.

    Example:
        >>> to_cielab("#000000")
        [0, 32896, 32896]
    """
    from skimage.color import rgb2lab  # here, since few formats need it

    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    lightness, a, b = rgb2lab(rgb)
    return [round(lightness / 100 * 65535), round((a + 128) * 257), round((b + 128) * 257)]


def from_cielab(values: Sequence[int]) -> str:
    """Convert CIELab to ``#rrggbb``, the inverse of ``to_cielab``. Impossible colours are clipped.

    Example:
        >>> from_cielab(to_cielab("#3ecf8e"))
        '#3ecf8e'
    """
    lightness, a, b = values
    lab = np.array([lightness / 65535 * 100, a / 257 - 128, b / 257 - 128])
    from skimage.color import lab2rgb

    rgb = np.clip(lab2rgb(lab), 0, 1)
    return "#" + "".join(f"{round(255 * value):02x}" for value in rgb)


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): mend it") from error


def _read_colour_table(path: Path) -> list[Structure]:
    """Read a table of 3D Slicer: CSV with a header, or lines ``1 left_ventricle 255 0 0 255``."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8 ({error}): save it as UTF-8") from error
    lines = text.splitlines()
    if lines and "LabelValue" in lines[0].split(","):
        return [each for row in csv.DictReader(lines) for each in _slicer_row(path, row)]
    if lines and lines[0].startswith("# Color procedural file"):
        raise ValueError(
            f"{path} is a continuous colour scale of 3D Slicer: expected a table of labels"
        )
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = line.split()
        if len(cells) < 5 or not all(cell.isdecimal() for cell in [cells[0], *cells[2:5]]):
            raise ValueError(
                f"{path}, line {number} is {line!r}: expected a label, a name without spaces and "
                "red, green, blue and opacity from 0 to 255, as 3D Slicer writes them"
            )
        name = cells[1].replace("_", " ")
        if int(cells[0]) > 0 and name != "(none)":  # the background, and gaps
            found.append(Structure(int(cells[0]), name, _hex(path, cells[2:5])))
    return found


def _slicer_row(path: Path, row: Mapping[str, Any]) -> list[Structure]:
    cells = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
    if not cells.get("LabelValue", "").isdecimal():
        raise ValueError(f"{path} has the label {cells.get('LabelValue')!r}: expected a number")
    object_id = int(cells["LabelValue"])
    if object_id == 0:
        return []
    codes: dict[str, Code] = {}
    for name, column in SLICER_COLUMNS.items():
        value, scheme, meaning = (
            cells.get(f"{column}_{part}", "")
            for part in ("CodeValue", "CodingScheme", "CodeMeaning")
        )
        if value and scheme:  # Slicer leaves one empty if it knows only the meaning
            codes[name] = Code(value, scheme, meaning)
    rgb = [cells.get(f"Color_{channel}", "") for channel in "RGB"]
    colour = _hex(path, rgb) if all(rgb) else default_colour(object_id)
    named = codes.get("code")
    name = cells.get("Name", "").replace("_", " ") or (named.meaning if named else "")
    return [Structure(object_id, name, colour, **codes)]


def _hex(path: Path, rgb: Sequence[str]) -> str:
    if not all(value.isdecimal() and int(value) <= 255 for value in rgb):
        raise ValueError(f"{path} has the colour {' '.join(rgb)}: expected numbers from 0 to 255")
    return "#" + "".join(f"{int(value):02x}" for value in rgb)


def _read_segments(path: Path) -> list[Structure]:
    with explained(f"cannot open {path} as DICOM"):
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
    if "SegmentSequence" not in dataset:
        raise ValueError(
            f"{path} is DICOM but not a segmentation: expected one with named segments (modality SEG)"
        )
    found = []
    for segment in dataset.SegmentSequence:
        number = int(segment.SegmentNumber)
        sequences = {
            "category": segment.get("SegmentedPropertyCategoryCodeSequence"),
            "code": segment.get("SegmentedPropertyTypeCodeSequence"),
            "region": segment.get("AnatomicRegionSequence"),
        }
        codes = {name: _read_code(items[0]) for name, items in sequences.items() if items}
        if sequences["code"]:
            modifiers = sequences["code"][0].get("SegmentedPropertyTypeModifierCodeSequence")
            if modifiers:
                codes["modifier"] = _read_code(modifiers[0])
        lab = segment.get("RecommendedDisplayCIELabValue")
        colour = from_cielab([int(value) for value in lab]) if lab else default_colour(number)
        label = str(segment.get("SegmentLabel") or f"segment {number}")
        found.append(Structure(number, label, colour, **codes))
    return found


def _read_code(item: Dataset) -> Code:
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue") or ""
    scheme, meaning = item.get("CodingSchemeDesignator", ""), item.get("CodeMeaning", "")
    return Code(str(value), str(scheme), str(meaning))
