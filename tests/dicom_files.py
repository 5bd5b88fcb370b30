"""DICOM cines that tests write."""

from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
)


def new_cine(
    shape,
    bits=8,
    syntax=ExplicitVRLittleEndian,
    storage=MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
):
    """All that a cine of shape (T, H, W[, 3]) declares, without its pixels."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = storage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    cine = FileDataset(None, {}, b"\0" * 128, meta, is_implicit_VR=False, is_little_endian=True)
    cine.SOPClassUID, cine.SOPInstanceUID = storage, "1.2.3"
    cine.NumberOfFrames, cine.Rows, cine.Columns = shape[:3]
    cine.SamplesPerPixel = 3 if len(shape) == 4 else 1
    if len(shape) == 4:
        cine.PlanarConfiguration = 0
    cine.PhotometricInterpretation = "RGB" if len(shape) == 4 else "MONOCHROME2"
    cine.BitsAllocated = cine.BitsStored = bits
    cine.HighBit, cine.PixelRepresentation = bits - 1, 0
    return cine


def put_pixels(cine, frames):
    """Uncompressed, padded to an even length."""
    cine.PixelData = frames.tobytes() + b"\0" * (frames.nbytes % 2)
    cine["PixelData"].VR = "OB" if frames.itemsize == 1 else "OW"
