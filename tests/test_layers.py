"""Imports go one way, and only the decoding modules open files."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A module may import from its own layer (within bundle.data or bundle.networks) and from lower ones.
LAYERS = [
    ["bundle.types", "bundle.memory_policies"],
    [
        "bundle.memory",
        "bundle.losses",
        "bundle.metrics",
        "bundle.options",
        "bundle.distributed",
        "bundle.confidence",
        "bundle.devices",
        "bundle.scratch",
    ],
    ["bundle.networks", "bundle.data"],
    [
        "bundle.inferers",
        "bundle.frame_results",
        "bundle.plan",
        "bundle.propagation",
        "bundle.sessions",
        "bundle.video_access",
        "bundle.evaluation",
        "bundle.outputs",
        "bundle.summary",
        "bundle.curves",
        "bundle.contact_sheet",
        "bundle.label_header",
        "bundle.export",
    ],
    ["bundle.engines", "bundle.handlers", "bundle.distillation", "bundle.inference_config"],
    [
        "bundle.label",
        "bundle.label_guard",
        "bundle.label_model",
        "bundle.label_options",
        "bundle.label_requests",
        "bundle.label_uploads",
        "bundle.annotate",
    ],
    ["bundle.command_line"],
]
MODULES = sorted(p for p in (ROOT / "bundle").rglob("*.py") if p.name != "__init__.py")


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path):
    """Names of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def layer(name):
    for level, areas in enumerate(LAYERS):
        for area in areas:
            if name == area or name.startswith(area + "."):
                return level, area
    raise AssertionError(f"{name} is in no layer: add it to LAYERS")


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_one_way(path):
    level, area = layer(module_name(path))
    for imported in imports(path):
        if imported.startswith("bundle."):
            other, other_area = layer(imported)
            same_folder = area == other_area
            siblings = other == level and level in (3, 4, 5)
            assert other < level or same_folder or siblings, f"{path.name} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_only_decoding_modules_know_file_formats(path):
    readers = {"nibabel", "SimpleITK", "pydicom", "tifffile"}
    used = {name.split(".")[0] for name in imports(path)} & readers
    allowed = {"decode", "dicom", "headers", "meta_image", "video", "volumes"} | (
        {"label_header"} if used == {"nibabel"} else set()
    )
    # DICOM segmentations are written with what reads DICOM; the other formats need no such library.
    allowed |= {"dicom_seg"} if used == {"pydicom"} else set()
    assert not used or path.stem in allowed, f"{path.name} imports {used}"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_modules_are_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= 300
