"""Lists of structures: what they come from, where their codes go."""

import json

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from bundle.io.reading.video import open_video
from bundle.io.structures import (
    Code,
    Structure,
    from_cielab,
    make_structures,
    read_structures,
    structures_to_json,
    to_cielab,
)
from bundle.io.writing import ResultWriter
from tests.dicom_files import new_cine, put_pixels

ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
ALTERED = Code("49755003", "SCT", "Morphologically Altered Structure")
VENTRICLE = Structure(
    1, "left ventricle", "#3ecf8e", ANATOMY, Code("21814001", "SCT", "Cardiac ventricle"),
    modifier=Code("7771000", "SCT", "Left"),
)  # fmt: skip
POLYP = Structure(
    7, "Polyp, größer", "#ff6f91", ALTERED, Code("441456002", "SCT", "Polyp"),
    region=Code("71854001", "SCT", "Colon"),
)  # fmt: skip


@pytest.fixture
def cine(tmp_path):
    file = new_cine((3, 16, 24))
    file.StudyInstanceUID, file.SeriesInstanceUID = generate_uid(), generate_uid()
    file.PatientName, file.PatientID = "Doe^Jane", "17"
    put_pixels(file, np.zeros((3, 16, 24), np.uint8))
    path = tmp_path / "cine.dcm"
    file.save_as(path, enforce_file_format=True)
    return open_video(path)


def write_segmentation(cine, folder, structures):
    labels = np.zeros((16, 24), np.uint8)
    for place, object_id in enumerate(structures):
        labels[2 + 5 * place : 6 + 5 * place, 3:20] = object_id
    with ResultWriter(folder, cine, formats="dicom_seg", structures=structures) as writer:
        for frame in cine:
            writer.write(frame, labels)
    return writer.folder / "masks.dcm", labels


def test_json_keeps_everything(tmp_path):
    structures = make_structures([POLYP, VENTRICLE])
    (tmp_path / "list.json").write_text(
        json.dumps(structures_to_json(structures)), encoding="utf-8"
    )
    assert list(read_structures(tmp_path / "list.json").items()) == [(1, VENTRICLE), (7, POLYP)]


def test_codes_and_names_travel_into_dicom_seg_and_back(cine, tmp_path):
    structures = make_structures([VENTRICLE, POLYP])
    path, labels = write_segmentation(cine, tmp_path / "out", structures)
    found = read_structures(path)
    assert list(found) == [1, 2]  # segments are numbered from 1
    for each, before in zip(found.values(), structures.values(), strict=True):
        assert (each.name, each.colour) == (before.name, before.colour)
        assert (each.category, each.code) == (before.category, before.code)
        assert (each.modifier, each.region) == (before.modifier, before.region)

    segmentation = highdicom.seg.segread(path)
    ventricle, polyp = (segmentation.get_segment_description(number) for number in (1, 2))
    assert ventricle.segmented_property_type == highdicom.sr.CodedConcept(
        "21814001", "SCT", "Cardiac ventricle"
    )
    assert polyp.segment_label == "Polyp, größer"
    assert polyp.anatomic_regions[0].value == "71854001"
    assert segmentation.PatientName == "Doe^Jane"
    assert segmentation.pixel_array[0].sum() == (labels == 1).sum()


def test_what_an_unlisted_object_is_stays_open(cine, tmp_path):
    path, _ = write_segmentation(cine, tmp_path, {3: Structure(3, "a\\b" + 70 * "c", "#ffffff")})
    (segment,) = pydicom.dcmread(path).SegmentSequence
    assert segment.SegmentLabel == "a/b" + 61 * "c"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Image Region"


def test_slicers_colour_table(tmp_path):
    path = tmp_path / "table.ctbl"
    path.write_text(
        "# Color table file table.ctbl\n# 4 values\n0 Background 0 0 0 0\n"
        "1 left_ventricle 62 207 142 255\n2 (none) 0 0 0 0\n3 bone 241 214 145 255\n"
    )
    assert read_structures(path) == {
        1: Structure(1, "left ventricle", "#3ecf8e"), 3: Structure(3, "bone", "#f1d691")
    }  # fmt: skip


def test_slicers_table_with_codes(tmp_path):
    parts = [f"{of}_{part}" for of in ("Category", "Type", "TypeModifier", "Region")
             for part in ("CodingScheme", "CodeValue", "CodeMeaning")]  # fmt: skip
    path = tmp_path / "table.csv"
    path.write_text(
        ",".join(["LabelValue,Name,Color_R,Color_G,Color_B,Color_A", *parts])
        + "\n1,left_ventricle,62,207,142,255,SCT,123037004,Anatomical Structure,"
        "SCT,21814001,Cardiac ventricle,SCT,7771000,Left,,,\n"
        "5,left lung,197,165,145,255,,Tissue,,,Tissue,,,,,,,\n"
    )
    found = read_structures(path)
    assert found == {1: VENTRICLE, 5: Structure(5, "left lung", "#c5a591")}


@pytest.mark.parametrize("colour", ["#000000", "#3ecf8e", "#ff6f91", "#123456", "#ffc145"])
def test_colours_survive_cielab(colour):
    assert from_cielab(to_cielab(colour)) == colour


@pytest.mark.parametrize(
    ("structures", "message"),
    [
        ([], "holds no structure: add one"),
        ([Structure(0, "a", "#000000")], "'a' the id 0: expected 1 to 255"),
        ([Structure(1, "a", "#000000"), Structure(1, "b", "#000000")], "to 'a' and to 'b'"),
        (
            [Structure(1, "a", "#000000"), Structure(2, "A ", "#000000")],
            "twice, for the ids 1 and 2",
        ),
        ([Structure(1, " ", "#000000")], "no name for the id 1"),
        ([Structure(1, "a", "green")], "the colour 'green': expected #rrggbb"),
    ],
)
def test_impossible_lists_are_refused(structures, message):
    with pytest.raises(ValueError, match=message):
        make_structures(structures)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "is not valid JSON"),
        ("a.json", "[1]", "lists no structures: expected"),
        (
            "a.json",
            json.dumps({"structures": [{"id": "1", "name": "a"}]}),
            "id must be a whole number",
        ),
        ("a.json", json.dumps({"version": 9, "structures": []}), "version 9, this program reads 1"),
        ("a.ctbl", "1 a 0 0\n", "line 1 is '1 a 0 0': expected a label"),
        ("a.txt", "1 a 0 0 300 255\n", "colour 0 0 300: expected numbers from 0 to 255"),
        ("a.txt", "# Color procedural file\n0 0 0 0\n", "a continuous colour scale"),
        ("a.csv", "LabelValue,Name\nx,a\n", "the label 'x': expected a number"),
        ("a.xml", "<a/>", "is not a list of structures: expected .json"),
    ],
)
def test_files_that_hold_no_list(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_structures(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such list of structures"):
        read_structures(tmp_path / "none.json")


def test_dicom_without_segments(cine):
    with pytest.raises(ValueError, match="is DICOM but not a segmentation"):
        read_structures(cine.path)
