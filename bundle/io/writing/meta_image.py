"""Write ``masks.mha``: a compressed MetaImage in the geometry of the source.

SimpleITK is not used, since it needs the whole volume in memory.
"""

import zlib
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from bundle.io.reading.decode import META_SUFFIXES, has_suffix
from bundle.io.reading.headers import meta_image_reader
from bundle.io.reading.video import VideoSource
from bundle.io.writing.writer import Segmented

SIZE_DIGITS = 20


class MetaImageWriter:
    """Writes a compressed MetaImage; see ``bundle.io.writing.writer``."""

    def __init__(self, folder: Path, video: VideoSource, given: Collection[int]) -> None:
        fields = {
            "ObjectType": "Image",
            "NDims": "",
            "BinaryData": "True",
            "BinaryDataByteOrderMSB": "False",
            "CompressedData": "True",
            "CompressedDataSize": "0" * SIZE_DIGITS,  # filled in at the end
            **_place(video),
            "ElementType": "MET_UCHAR",
            "ElementDataFile": "LOCAL",
        }
        fields["NDims"] = str(len(fields["DimSize"].split()))
        head = "".join(f"{key} = {value}\n" for key, value in fields.items()).encode()
        self._size_at = head.index(b"0" * SIZE_DIGITS)
        self._data_at = len(head)
        self._file = open(folder / "masks.mha", "wb")  # noqa: SIM115
        self._file.write(head)
        self._compress = zlib.compressobj()

    def write(self, result: Segmented) -> None:
        self._file.write(self._compress.compress(np.ascontiguousarray(result.labels).data))

    def finish(self) -> None:
        self._file.write(self._compress.flush())
        size = self._file.tell() - self._data_at
        self._file.seek(self._size_at)
        self._file.write(f"{size:{SIZE_DIGITS}d}".encode())
        self.close()

    def close(self) -> None:
        self._file.close()


def _place(video: VideoSource) -> dict[str, str]:
    """Make the header lines of size and position. Spacing is declared only if it is known."""
    if has_suffix(video.path, META_SUFFIXES) and video.path.is_file():
        reader = meta_image_reader(video.path)
        size, origin, spacing = reader.GetSize(), reader.GetOrigin(), reader.GetSpacing()
        direction = np.reshape(reader.GetDirection(), (len(size), len(size)))
    else:
        size = video.geometry.shape
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ video.geometry.affine  # to ITK's axes
        steps = np.linalg.norm(lps[:3, :3], axis=0)
        time = [1 / video.fps if video.fps else 1.0] * (len(size) - 3)
        direction, origin, spacing = np.eye(len(size)), [*lps[:3, 3], *time], [*steps, *time]
        origin[3:] = [0.0] * len(time)
        direction[:3, :3] = lps[:3, :3] / steps
    # The file lists axis after axis, so the columns of ITK's matrix.
    place = {"TransformMatrix": _numbers(direction.T.ravel()), "Offset": _numbers(origin)}
    if video.spacing_mm is not None:
        place["ElementSpacing"] = _numbers(spacing)
    return place | {"DimSize": " ".join(str(side) for side in size)}


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.17g}" for value in values)
