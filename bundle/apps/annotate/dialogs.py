"""Dialogs of the page: open a video or session, save, export masks, export a project."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nicegui import events, run, ui

from bundle.apps.annotate.annotation import Annotation
from bundle.apps.annotate.project_workspace import ProjectWorkspace
from bundle.apps.annotate.results import export
from bundle.apps.annotate.session_file import SUFFIX, save_session
from bundle.apps.annotate.workspace import Workspace, pick_upload
from bundle.io.writing.formats import FORMATS
from bundle.project.export import export_project
from bundle.utils.options import USER_ERRORS
from bundle.utils.paths import expand_user, fit_name

FORMAT_NAMES = {
    "nifti": "NIfTI label volume", "png": "PNG per frame", "overlay": "overlay video (mp4)",
    "csv": "table of areas (csv)", "summary": "summary picture", "mha": "MetaImage label volume",
    "nrrd": "NRRD label volume",
    "dicom_seg": "DICOM segmentation", "rle": "run lengths (json)",
    "seg_nrrd": "3D Slicer segmentation", "coco": "COCO with tracks", "cvat": "CVAT for video 1.1",
    "yolo": "YOLO outlines", "mots": "MOTS",
}  # fmt: skip

LAYOUT_NAMES = {
    "video_folder": "videos with a folder of masks each; trains here", "davis": "DAVIS 2017",
    "coco": "COCO with tracks", "yolo": "YOLO outlines", "cvat": "CVAT for video 1.1",
    "nnunet_2d": "nnU-Net, each frame a case", "nnunet_3d": "nnU-Net, each video a case",
    "dicom_seg": "DICOM segmentations, of DICOM videos",
}  # fmt: skip
FRAME_CHOICES = {"all": "all masks", "reviewed": "masks that somebody gave or accepted"}
UNFINISHED_CHOICES = {
    "refuse": "write nothing if there are any", "leave out": "leave them out",
    "include": "include them as they are",
}  # fmt: skip


@contextmanager
def dialog_with_note(title: str) -> Iterator[tuple[ui.dialog, Callable[[str], None]]]:
    """A dialog that opens when its content is there; with what shows a message in it."""
    with ui.dialog() as dialog, ui.card().classes("tcmn-dialog"):
        ui.label(title).classes("tcmn-title")

        def note(text: str) -> None:
            message.set_text(text)

        yield dialog, note
        message = ui.label().classes("tcmn-error").props("data-testid=message")
    dialog.on("hide", dialog.delete)
    dialog.open()


def ask_open(workspace: Workspace) -> None:
    """Open a video or session by its path, or by uploading it."""
    with dialog_with_note("Open a video or a session") as (dialog, note):
        path = ui.input("Path on this machine: a file or a folder of frames").props(
            "data-testid=open-path"
        )
        path.classes("tcmn-wide").props("outlined dense autofocus")
        if workspace.annotation is not None and workspace.annotation.unsaved:
            kept = workspace.autosave is not None and workspace.autosave.problem is None
            then = "open its video again to go on with it" if kept else "it will be closed"
            ui.label(f"What is open now has not been saved: {then}.").classes("tcmn-warn")

        async def open_path() -> None:
            text = path.value.strip()
            if not text:
                note("type the path of a video, or choose a file below")
            elif await attempt(note, lambda: workspace.open(text)):
                dialog.close()

        async def take(event: events.MultiUploadEventArguments) -> None:
            folder = workspace.new_folder()
            for file in event.files:
                await file.save(folder / Path(file.name).name)
            if await attempt(note, lambda: workspace.open(*pick_upload(folder))):
                dialog.close()
            else:
                shutil.rmtree(folder, ignore_errors=True)
                upload.reset()

        path.on("keydown.enter", open_path)
        ui.label("or from the browser: a video and its masks, or the pictures of one video:")
        upload = ui.upload(multiple=True, auto_upload=True, on_multi_upload=take)
        upload.props("flat bordered data-testid=upload").classes("tcmn-upload")
        with ui.element("div").classes("tcmn-row tcmn-end"):
            ui.button("Close", on_click=dialog.close).props("flat no-caps")
            ui.button("Open", on_click=open_path).props("unelevated no-caps").props(
                "data-testid=act"
            )


def ask_save(workspace: Workspace, annotation: Annotation) -> None:
    """Save the session to a file, or download it."""
    with dialog_with_note("Save the session") as (dialog, note):
        ui.label("Masks, results, objects; not the video. Open the file again to go on.")
        path = ui.input("File", value=str(beside(workspace, annotation) / _file_name(annotation)))
        path.classes("tcmn-wide").props("outlined dense data-testid=save-path")

        async def save() -> None:
            target = expand_user(path.value.strip())
            if not target.name.lower().endswith(".zip"):
                target = target.with_name(target.name + SUFFIX)
            if await attempt(note, lambda: save_session(annotation, target)):
                dialog.close()
                ui.notify(f"saved in {target}", type="positive", position="top")

        async def download() -> None:
            target = workspace.new_folder() / _file_name(annotation)
            if await attempt(note, lambda: save_session(annotation, target)):
                ui.download.file(target)
                dialog.close()

        finish(dialog, "Save", save, download)


def ask_export(workspace: Workspace, annotation: Annotation) -> None:
    """Write the masks to a folder, or download them."""
    with dialog_with_note("Export the masks") as (dialog, note):
        boxes = {}
        with ui.element("div").classes("tcmn-formats"):
            for name, kind in FORMATS.items():
                box = ui.checkbox(FORMAT_NAMES.get(name, name), value=kind.suits(annotation.video))
                boxes[name] = (
                    box.props("dense").tooltip(kind.file).props(f"data-testid=format-{name}")
                )
        folder = ui.input("Folder; the results go into one of the video's name in it")
        folder.set_value(str(beside(workspace, annotation) / "results"))
        folder.classes("tcmn-wide").props("outlined dense data-testid=export-path")
        overwrite = ui.checkbox("Replace earlier results").props("dense data-testid=overwrite")
        empty = (
            ui.checkbox("Write frames without a mask as empty")
            .props("dense")
            .props("data-testid=empty")
        )
        state = {"share": 0.0}  # set by the thread that writes
        bar = ui.linear_progress(value=0, show_value=False, size="4px")
        bar.bind_value_from(state, "share")
        bar.bind_visibility_from(state, "share", backward=lambda share: share > 0)

        async def write(target: Path) -> Path | None:
            formats = [name for name, box in boxes.items() if box.value]
            written: list[Path] = []

            def begin() -> None:
                if not formats:
                    raise ValueError("choose at least one format")
                written.append(
                    export(
                        annotation, target, formats, overwrite=overwrite.value,
                        pending_empty=empty.value, progress=lambda share: state.update(share=share),
                    )
                )  # fmt: skip

            return written[0] if await attempt(note, begin) else None

        async def to_folder() -> None:
            done = await write(expand_user(folder.value.strip()))
            if done is not None:
                dialog.close()
                ui.notify(f"written to {done}", type="positive", position="top")

        async def download() -> None:
            done = await write(workspace.new_folder())
            if done is not None:
                packed = workspace.new_folder() / f"{fit_name(done.name, 10)}_masks"
                await run.io_bound(shutil.make_archive, str(packed), "zip", done.parent)
                ui.download.file(f"{packed}.zip")
                dialog.close()

        finish(dialog, "Write", to_folder, download)


def ask_export_project(workspace: ProjectWorkspace) -> None:
    """Write all videos of a project as a data set."""
    project = workspace.project
    with dialog_with_note("Export a data set") as (dialog, note):
        layout = ui.select(LAYOUT_NAMES, value="video_folder", label="Layout")
        layout.props("outlined dense data-testid=layout").classes("tcmn-wide")
        frames = ui.select(FRAME_CHOICES, value="all", label="Frames")
        frames.props("outlined dense data-testid=frames").classes("tcmn-wide")
        unfinished = ui.select(UNFINISHED_CHOICES, value="refuse", label="Videos that are not done")
        unfinished.props("outlined dense data-testid=unfinished").classes("tcmn-wide")
        share = ui.number(
            "Share of the patients that validate", value=0.2, min=0, max=0.9, step=0.1
        )
        share.props("outlined dense data-testid=valid-fraction").classes("tcmn-wide")
        path = ui.input("A folder that is not there yet")
        path.set_value(str(project.folder.resolve().parent.parent / "data_set"))
        path.classes("tcmn-wide").props("outlined dense data-testid=data-set-path")
        state = {"share": 0.0}  # set by the thread that writes
        bar = ui.linear_progress(value=0, show_value=False, size="4px")
        bar.bind_value_from(state, "share")
        bar.bind_visibility_from(state, "share", backward=lambda share: share > 0)

        async def write() -> None:
            text = path.value.strip()
            if not text:
                note("type the path of a folder for the data set")
                return
            target = expand_user(text)

            def begin() -> None:
                export_project(
                    project, target, layout.value, frames=frames.value,
                    unfinished=unfinished.value, valid_fraction=float(share.value or 0),
                    progress=lambda share: state.update(share=share),
                )  # fmt: skip

            if await attempt(note, begin):
                dialog.close()
                ui.notify(f"written to {target}", type="positive", position="top")
            state.update(share=0.0)

        with ui.element("div").classes("tcmn-row tcmn-end"):
            ui.button("Close", on_click=dialog.close).props("flat no-caps")
            ui.button("Write", on_click=write).props("unelevated no-caps data-testid=act")


def _file_name(annotation: Annotation) -> str:
    """Of a session."""
    return fit_name(annotation.video.name, len(SUFFIX)) + SUFFIX


def beside(workspace: Workspace, annotation: Annotation) -> Path:
    """The video's folder; where it was uploaded, the folder that the program was started in."""
    folder = annotation.video.path.absolute().parent
    return Path.cwd() if workspace.holds(folder) else folder


def finish(
    dialog: ui.dialog, verb: str, act: Callable[[], Any], download: Callable[[], Any]
) -> None:
    """The last line of a dialog: close it, download, or do what it is for."""
    with ui.element("div").classes("tcmn-row tcmn-end"):
        ui.button("Close", on_click=dialog.close).props("flat no-caps")
        ui.button("Download", on_click=download).props("outline no-caps").props(
            "data-testid=download"
        )
        ui.button(verb, on_click=act).props("unelevated no-caps data-testid=act")


async def attempt(note: Callable[[str], None], action: Callable[[], object]) -> bool:
    """Do something in a thread; whether it went well."""
    note("")
    try:
        await run.io_bound(action)
    except (*USER_ERRORS, IndexError) as error:
        note(str(error))
        return False
    return True
