"""Handle uploads to the label server safely: keep files inside its folders, remove refused ones.

MONAI Label itself joins names chosen by a client to its folders, and unpacks archives whose entries
may lead outside of them.
"""

import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.util import Finalize
from pathlib import Path, PurePosixPath
from typing import Any

from bundle.apps.monai_label.model import of_monailabel
from bundle.apps.monai_label.options import refuse

LocalDatastore: Any = of_monailabel("datastore.local", "LocalDatastore")
Sessions: Any = of_monailabel("utils.sessions", "Sessions")

SUFFIXES = [
    "nii.gz", "nii", "mha", "mhd", "nrrd", "dcm", "tif", "tiff", "avi", "mp4", "mov", "wmv", "mkv",
    "gif",
]  # fmt: skip
"""What the server lists of a folder of studies."""
SCRATCH = "tcmn-label-"
SESSION_ID = re.compile(r"[0-9a-zA-Z-]+")


class Studies(LocalDatastore):
    """MONAI Label's folder of studies, which says why it does not take a label or a video."""

    def add_image(self, image_id: str, image_filename: str, image_info: Mapping[str, Any]) -> str:
        with deleted_if_refused(image_filename):
            require_plain(image_id or "video", "the image's id")
            if not image_filename.endswith(tuple(f".{suffix}" for suffix in SUFFIXES)):
                refuse(f"a study is one of {', '.join(SUFFIXES)}: send it under its own name")
            return super().add_image(image_id, image_filename, image_info)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, *others: Any) -> str:
        with deleted_if_refused(label_filename):
            if image_id not in self.list_images():
                refuse(
                    f"there is no image {image_id!r} on the server to which a label could belong",
                    404,
                )
            require_plain(label_tag, "the label's tag")
            return super().save_label(image_id, label_filename, label_tag, *others)


class FrameSessions(Sessions):
    """MONAI Label's sessions, but of archives only zips are unpacked, each to its folder."""

    def get_session(self, session_id: str, *others: Any, **named: Any) -> Any:
        known = SESSION_ID.fullmatch(session_id)  # else it would be a path to elsewhere
        return super().get_session(session_id, *others, **named) if known else None

    def add_session(
        self,
        data_file: str,
        expiry: int = 0,
        uncompress: bool = False,
        session_id: str | None = None,
    ) -> tuple[str, Any]:
        if not uncompress or Path(data_file).is_dir():
            return super().add_session(data_file, expiry, False, session_id)
        # The folder that MONAI Label made for the upload; it removes it if all goes well.
        with (
            tempfile.TemporaryDirectory() as folder,
            deleted_if_refused(str(Path(data_file).parent)),
        ):
            frames = Path(folder) / "frames"
            unpack_frames(Path(data_file), frames)
            return super().add_session(str(frames), expiry, False, session_id)


def use_scratch_folder() -> None:
    """Keep this process's temporary files, uploads among them, where other users cannot read them.

    In a folder of its own, which goes when the process ends.
    """
    if not Path(tempfile.gettempdir()).name.startswith(SCRATCH):
        folder = tempfile.tempdir = tempfile.mkdtemp(prefix=SCRATCH)
        # After the folder of multiprocessing, which lies in it and goes with priority -100.
        Finalize(None, shutil.rmtree, (folder,), {"ignore_errors": True}, exitpriority=-200)


@contextmanager
def deleted_if_refused(*paths: Any) -> Iterator[None]:
    """Remove uploads after an error: MONAI Label removes only those of requests that it served.

    Args:
        paths: Files or folders; left alone but in the folder of ``use_scratch_folder``.
    """
    try:
        yield
    except Exception:
        for path in (Path(path) for path in paths if isinstance(path, str) and path):
            if path.parent == Path(tempfile.gettempdir()) and path.parent.name.startswith(SCRATCH):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise


def require_plain(name: str, what: str) -> None:
    """Refuse a name that would be a path.

    Raises:
        HTTPException: Or ValueError, see ``refuse``.
    """
    if name in ("", ".", "..") or re.search(r"[/\\\x00-\x1f]", name):
        refuse(f"{what} is {name!r}: expected a plain name, without slashes")


def unpack_frames(archive: Path, folder: Path) -> None:
    """Unpack a zip of frames into a new folder.

    Raises:
        HTTPException: Or ValueError, see ``refuse``: it is not a valid zip, or it holds links, files
            that would lie elsewhere, or more than there is room for.
    """
    folder.mkdir()
    try:
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                path = PurePosixPath(entry.filename.replace("\\", "/"))
                link = stat.S_ISLNK(entry.external_attr >> 16)
                if link or path.is_absolute() or ".." in path.parts:
                    refuse(
                        f"the zip holds {entry.filename!r}, which "
                        f"{'is a link' if link else 'would lie outside its folder'}: pack the "
                        "frames alone"
                    )
            # Of an entry, no more is unpacked than it declares.
            size = sum(entry.file_size for entry in packed.infolist())
            if size > shutil.disk_usage(folder).free // 2:
                refuse(
                    f"the zip holds {size} bytes, more than half of the server's free disk: send "
                    "fewer frames at once"
                )
            packed.extractall(folder)
    # What zipfile raises where a zip is damaged, or needs a password.
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        refuse(f"the upload cannot be unpacked ({error}): send a zip of the frames")
