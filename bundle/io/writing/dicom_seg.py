"""Write ``masks.dcm``: a DICOM segmentation that refers to the frames of a DICOM source.

Follows the Segmentation IOD (DICOM PS3.3, A.51 and C.8.20), with one binary frame for each object in
each source frame that shows it. Most ultrasound has no frame of reference. So every frame names the
source frame that it was derived from, and its pixels correspond to those of that frame. The source is
one multi-frame file, or a series of single-frame files.
"""

import copy
import logging
import tempfile
from collections.abc import Collection, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.misc import is_dicom
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage, generate_uid

from bundle.io.reading.decode import explained
from bundle.io.reading.video import VideoSource
from bundle.io.structures import Code, Structure, Structures, to_cielab
from bundle.io.writing.writer import Segmented, import_meanwhile
from bundle.utils.bundle_files import program_version
from bundle.visualization.overlay import PALETTE

logger = logging.getLogger(__name__)

NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
# All that the standard wants of patient and study in every object (type 1 and 2); nothing else of
# them is copied.
PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate",
    "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
COMPRESSION = (
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip
PLACES = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
IN_PLANE = ("ImageOrientationPatient", "PixelSpacing")
IN_SPACE = (
    "FrameOfReferenceUID", *IN_PLANE, "ImagePositionPatient", "SliceThickness",
    "SpacingBetweenSlices",
)  # fmt: skip
# Codes of the standard. pydicom.sr has all there are; importing it takes longer than the rest of this
# package.
DERIVED = Code("113076", "DCM", "Segmentation")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
SPATIAL_CONCEPT = Code("309825002", "SCT", "Spatial and Relational Concept")
IMAGE_REGION = Code("111030", "DCM", "Image Region")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
LONGEST_LABEL = 64
"""Characters of a segment's label, as of any long string of DICOM."""


def is_dicom_file(path: Path) -> bool:
    """Whether a path is a DICOM file."""
    return path.is_file() and is_dicom(path)


def check_dicom(video: VideoSource) -> None:
    """Check, before any work, that a segmentation can refer to the source.

    Raises:
        ValueError: The source is not DICOM, or lacks elements that identify it.
    """
    files = _source_files(video)
    if not files:
        raise ValueError(
            f"dicom_seg refers to the frames of DICOM files, and {video.path} is none: "
            "leave it out of --formats"
        )
    if int(pydicom.__version_info__[0]) < 3:
        raise ValueError(
            f"dicom_seg needs pydicom 3, found {pydicom.__version__}: pip install 'pydicom>=3', or "
            "leave dicom_seg out of --formats"
        )
    seen: dict[str, Path] = {}
    for file in files:
        header = _read_header(file, NEEDED)
        missing = [keyword for keyword in NEEDED if not header.get(keyword)]
        if missing:
            raise ValueError(
                f"{file} has no {', '.join(missing)}, which dicom_seg needs to refer to it: "
                "leave dicom_seg out of --formats"
            )
        twin = seen.setdefault(str(header.SOPInstanceUID), file)
        if twin is not file:
            raise ValueError(
                f"{twin} and {file.name} have one SOPInstanceUID, by which dicom_seg would refer to "
                "both: give each its own, or leave dicom_seg out of --formats"
            )


def _source_files(video: VideoSource) -> tuple[Path, ...]:
    """List the DICOM files of a video in stored order; empty for videos of other formats."""
    if video.files:
        return video.files
    return (video.path,) if is_dicom_file(video.path) else ()


def can_be_referred_to(video: VideoSource) -> bool:
    """Whether a DICOM segmentation can be written. Logs why not if the source is DICOM."""
    if not _source_files(video):
        return False
    try:
        check_dicom(video)
    except ValueError as error:
        logger.warning("no masks.dcm: %s", error)
        return False
    return True


class DicomSegWriter:
    """Writes a DICOM segmentation; see ``bundle.io.writing.writer``.

    Pixels, one bit each, are written to a temporary file first, since the header precedes them but is
    known last. While the header is written it takes about ten kilobytes for each frame and object.

    Args:
        structures: Names, colours and codes of the objects. Without a code, the segment has a general
            one, since only the annotator knows what the object is.
    """

    def __init__(
        self,
        folder: Path,
        video: VideoSource,
        given: Collection[int],
        structures: Structures | None = None,
    ) -> None:
        self._path, self._video, self._structures = folder / "masks.dcm", video, structures or {}
        self._bits = cast(IO[bytes], tempfile.TemporaryFile(dir=folder))  # noqa: SIM115
        self._left_over = np.zeros(0, dtype=bool)
        self._shown: list[tuple[int, int]] = []  # frame index and object id of each frame written
        import_meanwhile("skimage.color.colorconv")  # for the colours of the segments

    def write(self, result: Segmented) -> None:
        for object_id in np.unique(result.labels):
            if object_id:
                self._append(result.labels.ravel() == object_id)
                self._shown.append((result.index, int(object_id)))

    def finish(self) -> None:
        if not self._shown:
            logger.warning("no masks.dcm: %s shows no object in any frame", self._video.name)
            return
        padding = -len(self._left_over) % 8
        self._append(np.zeros(padding, dtype=bool))
        if self._bits.tell() % 2:
            self._bits.write(b"\0")  # DICOM values are of even length
        dataset = _describe(self._video, self._shown, self._structures)
        self._bits.seek(0)
        dataset.add_new("PixelData", "OB", self._bits)
        dataset.save_as(self._path, enforce_file_format=True)
        self.close()

    def close(self) -> None:
        self._bits.close()

    def _append(self, pixels: np.ndarray) -> None:
        """Append bits without padding between frames: eight pixels a byte, first pixel lowest."""
        pixels = np.concatenate([self._left_over, pixels])
        whole = len(pixels) // 8 * 8
        self._bits.write(np.packbits(pixels[:whole], bitorder="little").tobytes())
        self._left_over = pixels[whole:]


def _read_header(path: Path, keywords: Sequence[str] = ()) -> Dataset:
    """Read the header of a DICOM file, without pixels: all elements, or some."""
    with explained(f"cannot open {path} as DICOM"):
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(keywords) or None)


class Origin(NamedTuple):
    """The source of one frame of the video.

    Attributes:
        storage: SOP class UID of its file.
        instance: SOP instance UID of its file.
        number: Number of the frame in its file, from 1; None if the file has one frame.
        place: Its functional groups of ``PLACES``; empty if its position is unknown or shared by all.
    """

    storage: str
    instance: str
    number: int | None
    place: Dataset


def _find_origins(video: VideoSource) -> tuple[list[Origin], Dataset, Dataset]:
    """Find the source of each frame in order of time, the shared groups, and the first header."""
    files = _source_files(video)
    stored = [video.stored_index(index) for index in range(video.frame_count)]
    if not video.files:
        header = _read_header(files[0])
        shared, places = _places(header, video.frame_count)
        uids = str(header.SOPClassUID), str(header.SOPInstanceUID)
        return (
            [Origin(*uids, i + 1, places[i] if places else Dataset()) for i in stored],
            shared,
            header,
        )
    headers = [_read_header(files[i], (*NEEDED, *IN_SPACE)) for i in stored]
    shared, places = _places_of_series(headers)
    origins = [
        Origin(str(each.SOPClassUID), str(each.SOPInstanceUID), None, place)
        for each, place in zip(headers, places, strict=True)
    ]
    return origins, shared, _read_header(files[stored[0]])


def _describe(
    video: VideoSource, shown: Sequence[tuple[int, int]], structures: Structures
) -> Dataset:
    """Make the segmentation without its pixels."""
    origins, shared, source = _find_origins(video)
    dataset, now = Dataset(), datetime.now()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = SegmentationStorage, generate_uid()
    _copy(source, dataset, ("SpecificCharacterSet", *COMPRESSION))
    for keyword in PATIENT_AND_STUDY:
        setattr(dataset, keyword, None)  # type 2: there, if empty
    _copy(source, dataset, PATIENT_AND_STUDY)

    dataset.Modality, dataset.SeriesInstanceUID = "SEG", generate_uid()
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    dataset.SeriesDescription = "TCMN segmentation"
    dataset.Manufacturer = dataset.ManufacturerModelName = "TCMN"
    dataset.DeviceSerialNumber, dataset.SoftwareVersions = "1", program_version()
    dataset.ContentDate, dataset.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.ContentLabel, dataset.ContentDescription = "TCMN_SEG", "One-shot video segmentation"
    dataset.ContentCreatorName = None

    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = video.height, video.width
    dataset.NumberOfFrames = len(shown)
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = dataset.PixelRepresentation = 0
    dataset.SegmentationType, dataset.SegmentsOverlap = "BINARY", "NO"
    if "LossyImageCompression" not in dataset:
        dataset.LossyImageCompression = "00"

    objects = sorted({object_id for _, object_id in shown})
    numbers = {object_id: number for number, object_id in enumerate(objects, start=1)}
    known = {i: structures.get(i, _unnamed(i)) for i in objects}
    dataset.SegmentSequence = [_segment(numbers[i], each) for i, each in known.items()]
    if not all(str(each).isascii() for each in known.values()):
        dataset.SpecificCharacterSet = "ISO_IR 192"  # UTF-8; the source's may lack these letters
    referred = {origins[index][:2] for index, _ in shown}
    in_order = dict.fromkeys(origin[:2] for origin in origins)
    instances = [
        _item(ReferencedSOPClassUID=storage, ReferencedSOPInstanceUID=instance)
        for storage, instance in in_order
        if (storage, instance) in referred
    ]
    series = _item(SeriesInstanceUID=source.SeriesInstanceUID, ReferencedInstanceSequence=instances)
    dataset.ReferencedSeriesSequence = [series]
    _add_dimensions(dataset)
    dataset.SharedFunctionalGroupsSequence = [shared]
    if len(shared) or any(len(origin.place) for origin in origins):
        _copy(source, dataset, ("FrameOfReferenceUID", "PositionReferenceIndicator"))
    dataset.PerFrameFunctionalGroupsSequence = [
        _frame(origins[index], index, numbers[object_id]) for index, object_id in shown
    ]
    return dataset


def _unnamed(object_id: int) -> Structure:
    colour = "#" + PALETTE[object_id].tobytes().hex()
    return Structure(object_id, f"object {object_id}", colour)


def _segment(number: int, structure: Structure) -> Dataset:
    algorithm = _item(
        AlgorithmFamilyCodeSequence=[_code(ARTIFICIAL_INTELLIGENCE)],
        AlgorithmName="TCMN",
        AlgorithmVersion=program_version(),
    )
    kind = _code(structure.code or IMAGE_REGION)
    if structure.modifier is not None:
        kind.SegmentedPropertyTypeModifierCodeSequence = [_code(structure.modifier)]
    segment = _item(
        SegmentNumber=number,
        # A backslash would begin a second value.
        SegmentLabel=structure.name.replace("\\", "/")[:LONGEST_LABEL].strip(),
        SegmentedPropertyCategoryCodeSequence=[_code(structure.category or SPATIAL_CONCEPT)],
        SegmentedPropertyTypeCodeSequence=[kind],
        # The id of the masks, by which they are read back: numbers of segments have no gaps.
        TrackingID=f"object {structure.id}",
        TrackingUID=generate_uid(),
        SegmentAlgorithmType="SEMIAUTOMATIC",
        SegmentAlgorithmName="TCMN",
        SegmentationAlgorithmIdentificationSequence=[algorithm],
        RecommendedDisplayCIELabValue=to_cielab(structure.colour),
    )
    if structure.region is not None:
        segment.AnatomicRegionSequence = [_code(structure.region)]
    return segment


def _frame(origin: Origin, index: int, number: int) -> Dataset:
    """Make the functional groups of one frame of one segment. Frames are numbered from 1."""
    source = _item(
        ReferencedSOPClassUID=origin.storage,
        ReferencedSOPInstanceUID=origin.instance,
        PurposeOfReferenceCodeSequence=[_code(SOURCE_IMAGE)],
        SpatialLocationsPreserved="YES",
    )
    if origin.number is not None:
        source.ReferencedFrameNumber = origin.number
    derivation = _item(DerivationCodeSequence=[_code(DERIVED)], SourceImageSequence=[source])
    groups = _item(
        FrameContentSequence=[
            _item(DimensionIndexValues=[number, index + 1], TemporalPositionIndex=index + 1)
        ],
        SegmentIdentificationSequence=[_item(ReferencedSegmentNumber=number)],
        DerivationImageSequence=[derivation],
    )
    _copy(origin.place, groups, PLACES)
    return groups


def _add_dimensions(dataset: Dataset) -> None:
    """Declare the dimensions of the frames: segment, then time."""
    organization = generate_uid()
    pointers = [
        ("ReferencedSegmentNumber", "SegmentIdentificationSequence"),
        ("TemporalPositionIndex", "FrameContentSequence"),
    ]
    dataset.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organization)]
    dataset.DimensionIndexSequence = [
        _item(
            DimensionOrganizationUID=organization,
            DimensionIndexPointer=pydicom.datadict.tag_for_keyword(value),
            FunctionalGroupPointer=pydicom.datadict.tag_for_keyword(group),
            DimensionDescriptionLabel=value,
        )
        for value, group in pointers
    ]


def _places(source: Dataset, frame_count: int) -> tuple[Dataset, list[Dataset]]:
    """Read the positions of the frames: the shared groups and those of each; empty if incomplete."""
    shared, frames = Dataset(), []
    for groups in source.get("SharedFunctionalGroupsSequence", ()):
        _copy(groups, shared, PLACES)
    for groups in source.get("PerFrameFunctionalGroupsSequence", ()):
        frame = Dataset()
        _copy(groups, frame, PLACES)
        frames.append(frame)
    whole = all(keyword in shared or keyword in frame for frame in frames for keyword in PLACES)
    if whole and len(frames) == frame_count and "FrameOfReferenceUID" in source:
        return shared, frames
    return Dataset(), []


def _places_of_series(headers: Sequence[Dataset]) -> tuple[Dataset, list[Dataset]]:
    """Make functional groups from the positions in the headers of single-frame files."""
    frames = [Dataset() for _ in headers]
    known = ("FrameOfReferenceUID", *IN_PLANE, "ImagePositionPatient")
    if any(not each.get(keyword) for each in headers for keyword in known):
        return Dataset(), frames
    if len({str(each.FrameOfReferenceUID) for each in headers}) > 1:
        return Dataset(), frames
    groups = {
        "PlaneOrientationSequence": ("ImageOrientationPatient",),
        "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
        "PlanePositionSequence": ("ImagePositionPatient",),
    }
    shared = Dataset()
    for group, keywords in groups.items():
        items = []
        for header in headers:
            item = Dataset()
            _copy(header, item, keywords)
            items.append(item)
        # The position is each frame's own, even if none moves: readers look for it there.
        if group != "PlanePositionSequence" and all(a == b for a, b in pairwise(items)):
            setattr(shared, group, [items[0]])
            continue
        for frame, item in zip(frames, items, strict=True):
            setattr(frame, group, [item])
    return shared, frames


def _copy(source: Dataset, target: Dataset, keywords: Sequence[str]) -> None:
    # Elements, not values: an odd value of the source is passed on, not refused.
    for keyword in keywords:
        if keyword in source:
            target.add(copy.deepcopy(source[keyword]))


def _item(**elements: object) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _code(code: Code) -> Dataset:
    # DICOM has other fields for values over 16 characters.
    keyword = "CodeValue" if len(code.value) <= 16 else "LongCodeValue"
    return _item(
        **{keyword: code.value},
        CodingSchemeDesignator=code.scheme,
        CodeMeaning=code.meaning[:LONGEST_LABEL],
    )
