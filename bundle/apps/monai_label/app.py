"""The MONAI Label app and its tasks: segment from a painted frame or from points, and suggest images.

It needs the optional extra ``label``; without it the classes can be imported but not used. Requests are
read in ``bundle.apps.monai_label.requests`` and ``points``.
"""

import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bundle.apps.monai_label.model import (
    FineTuneTask,
    ServedModel,
    device_list,
    name_to_device,
    of_monailabel,
)
from bundle.apps.monai_label.options import RequestOptions, refuse
from bundle.apps.monai_label.points import read_points, segment_pointed
from bundle.apps.monai_label.requests import read_request, understandable
from bundle.apps.monai_label.uploads import (
    SUFFIXES,
    FrameSessions,
    Studies,
    deleted_if_refused,
    use_scratch_folder,
)
from bundle.inference.confidence import suggest_frame
from bundle.inference.results import FrameResult, trust_by_object
from bundle.inference.settings import DIRECTIONS
from bundle.io.reading.decode import natural_key
from bundle.io.reading.video import VideoSource
from bundle.io.writing.volume import NiftiWriter
from bundle.io.writing.writer import Segmented
from bundle.networks.tcmn import VideoNetwork
from bundle.utils.bundle_files import bundle_root

MONAILabelApp: Any = of_monailabel("interfaces.app", "MONAILabelApp")
InferTask: Any = of_monailabel("interfaces.tasks.infer_v2", "InferTask")
Strategy: Any = of_monailabel("interfaces.tasks.strategy", "Strategy")
MONAILabelException: Any = of_monailabel("interfaces.exception", "MONAILabelException")

POINTS_DESCRIPTION = (
    "Segments a structure that was pointed at, in all frames; points in other frames correct it"
)
FRAME_DESCRIPTION = "Segments a structure that was pointed at, in this frame alone"
DESCRIPTION = "Propagates a structure that was painted on one frame to all frames of the video"
RECORD = "tcmn"
"""Key under which the tasks store confidences of an image in the datastore."""
UNSEEN = np.zeros((0, 0, 3), dtype=np.uint8)
"""Stands in for a frame, which the writer of label volumes does not use."""


class PaintedFrameTask(InferTask):
    """Segments a video from a painted frame. It keeps no state of a request.

    The answer is a label volume in the video's geometry. It also names the painted frames, the
    confidence of each frame (of its worst object), the frames to check, and the frame whose correction
    should help most.

    Args:
        model: The network to serve.
        kind: ``scribbles``, the only type to which 3D Slicer sends painted masks, or
            ``segmentation``.
        datastore: Datastore of the app, in which confidences are stored.
        stored_label: Whether to use the label stored for the image if the request has none.
    """

    def __init__(
        self, model: ServedModel, kind: str, datastore: Any, stored_label: bool = False
    ) -> None:
        # A list makes a menu in 3D Slicer; its first entry is the default.
        options = {
            "device": device_list(),
            "direction": list(DIRECTIONS),
            "reference_frame": -1,
            "use_all_painted": False,
            "spatial_prior": -1.0,
        }
        super().__init__(kind, {"object": 1}, 3, DESCRIPTION, options)
        self.model, self.datastore, self.stored_label = model, datastore, stored_label

    def is_valid(self) -> bool:
        return self.model.weights.is_file()

    def get_path(self, validate: bool = True) -> str:
        return str(self.model.weights)

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        begin = time.perf_counter()
        request = {**self.config(), **request}
        names: dict[str, int] = {}
        if self.stored_label and not request.get("label") and Path(request["image"]).is_file():
            request["label"], names = self._stored(request.get("image_id", ""))
        prompts = read_request(request)
        network = self._load(request)
        opened = time.perf_counter()
        # Its frames are read while they are segmented: this is where a damaged one is found.
        with understandable({str(request["image"]): "the video"}):
            chosen = RequestOptions.read(request)
            results = self.model.inferer.run(prompts, network, chosen)
            path, answer = self._write(prompts.video, results, prompts.annotations)
        answer["latencies"] = _latencies(begin, opened)
        selected = request.get("selected_label_name")
        ids = answer.pop("ids")
        answer["label_names"] = (
            {selected: 1} if selected else names or {f"object {i}": i for i in ids}
        )
        self._note(request.get("image_id", ""), answer)
        return path, answer

    def _load(self, request: Mapping[str, Any]) -> VideoNetwork:
        with understandable({self.get_path(): "model.pt on the server"}, status=500):
            return self.model.network(name_to_device(request["device"]))

    def _write(
        self, video: VideoSource, results: Iterator[FrameResult], given: Collection[int]
    ) -> tuple[str, dict[str, Any]]:
        """The path of the label volume, and what is told beside it; ``given`` are frames."""
        confidence: dict[int, dict[int, float]] = {}
        trust: dict[int, dict[int, float]] = {}
        review, ids = [], set[int]()
        with tempfile.TemporaryDirectory() as folder:
            writer = NiftiWriter(Path(folder), video, ())
            for result in results:
                writer.write(Segmented(result.frame, UNSEEN, result.labels))
                confidence[result.frame] = dict(result.confidence)
                trust[result.frame] = trust_by_object(result.confidence, result.vanished)
                ids |= set(result.confidence)
                if result.review:
                    review.append(result.frame)
            writer.finish()
            # The server removes it once it is sent.
            with tempfile.NamedTemporaryFile(suffix=".nii.gz", delete=False) as file:
                path = file.name
            shutil.move(Path(folder) / "masks.nii.gz", path)
        worst = {i: round(min(each.values(), default=1.0), 4) for i, each in confidence.items()}
        return path, {
            "ids": sorted(ids),
            "painted_frames": sorted(given),
            "confidence": list(worst.values()),
            "review": review,
            "suggested_frame": suggest_frame(trust, list(given)),
        }

    def _stored(self, image_id: str) -> tuple[str, dict[str, int]]:
        """Path of an image's label, and the names of its segments if a client told them."""
        tags = self.datastore.get_labels_by_image_id(image_id)
        for tag in ("final", "original", *tags):
            if tag in tags:
                info = self.datastore.get_label_info(tags[tag], tag).get("params", {})
                segments = info.get("label_info") or ()
                names = {each["name"]: int(each["idx"]) for each in segments if "idx" in each}
                return self.datastore.get_label_uri(tags[tag], tag), names
        refuse(
            "no mask came with the request and none is stored for this image: paint the structure on "
            "one frame, then send or submit it"
        )

    def _note(self, image_id: str, answer: Mapping[str, Any]) -> None:
        if image_id in self.datastore.list_images() and answer["suggested_frame"] is not None:
            frame = answer["suggested_frame"]
            note = {
                "lowest_confidence": min(answer["confidence"]),
                "flagged": bool(answer["review"]),
                "frame": frame,
            }
            self.datastore.update_image_info(image_id, {RECORD: note})


class PointsTask(PaintedFrameTask):
    """Segments a video, or one of its frames, from points or a box. It keeps no state of a request.

    Its type is ``deepedit`` without labels, to which 3D Slicer's *SmartEdit* panel sends foreground and
    background points of the selected segment. The answer has the form of ``PaintedFrameTask``'s.

    Args:
        model: The network to serve.
        datastore: Datastore of the app, in which confidences are stored.
        one_frame: Whether to segment only the frame of the last point.
    """

    def __init__(self, model: ServedModel, datastore: Any, one_frame: bool = False) -> None:
        options: dict[str, Any] = {"device": device_list()}
        if not one_frame:
            options |= {"direction": list(DIRECTIONS), "spatial_prior": -1.0}
        # Two dimensions tell 3D Slicer to change the current frame alone.
        InferTask.__init__(
            self,
            "deepedit",
            {},
            2 if one_frame else 3,
            FRAME_DESCRIPTION if one_frame else POINTS_DESCRIPTION,
            options,
        )
        self.model, self.datastore, self.one_frame = model, datastore, one_frame

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        begin = time.perf_counter()
        request = {**self.config(), **request}
        pointed = read_points(request, self.one_frame)
        network = self._load(request)
        opened = time.perf_counter()
        with understandable({str(request["image"]): "the video"}):
            settings = RequestOptions.read(request).applied_to(self.model.inferer.settings)
            results = segment_pointed(pointed, network, settings, self.one_frame)
            path, answer = self._write(pointed.video, results, pointed.prompts)
        ids = answer.pop("ids")
        answer["latencies"] = _latencies(begin, opened)
        answer["label_names"] = {str(request.get("label") or "object"): i for i in ids}
        if not self.one_frame:
            self._note(request.get("image_id", ""), answer)
        return path, answer


def _latencies(begin: float, opened: float) -> dict[str, float]:
    now = time.perf_counter()
    return {
        "open": round(opened - begin, 3),
        "infer": round(now - opened, 3),
        "total": round(now - begin, 3),
    }


class LowestConfidence(Strategy):
    """Suggests the next image, and its frame, by lowest confidence.

    First the images that were segmented but not submitted and have a frame that is flagged for
    review, then those that nobody painted yet, then the rest of the segmented ones.
    """

    def __init__(self, review_below: float) -> None:
        super().__init__("Image with the frame of lowest confidence")
        self.review_below = review_below

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any] | None:
        def rank(image_id: str) -> tuple[int, float]:
            note = notes[image_id]
            found = note.get("lowest_confidence")
            if found is None:
                return 1, 0.0
            flagged = note.get("flagged", found < self.review_below)  # older notes lack it
            return (0 if flagged else 2), found

        images = sorted(datastore.get_unlabeled_images(), key=natural_key)
        notes = {i: datastore.get_image_info(i).get(RECORD, {}) for i in images}
        if not images:
            return None
        chosen = min(images, key=rank)
        return {"id": chosen, **notes[chosen]}


class LabelApp(MONAILabelApp):
    """The app; its configuration (``--conf``) may name another ``bundle`` folder.

    Args:
        app_dir: Its folder. Weights that were trained here go to its ``model``.
        studies: The folder of videos, or the address of a DICOMweb server.
        conf: ``bundle``: folder of configs and models, the package's own by default. ``hosts``:
            names, with commas, by which other machines may call the server.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        root = Path(conf["bundle"]) if conf.get("bundle") else bundle_root()
        self.model = ServedModel(root, Path(app_dir) / "model/model.pt")
        use_scratch_folder()
        self._hosts = [name.strip() for name in conf.get("hosts", "").split(",") if name.strip()]
        super().__init__(app_dir, studies, conf, name="TCMN", description=DESCRIPTION)

    def on_init_complete(self) -> None:
        super().on_init_complete()
        from bundle.apps.monai_label.guard import (
            guard,  # here, since it needs what comes with MONAI Label
        )

        guard(of_monailabel("app", "app"), self._hosts)

    def init_datastore(self) -> Any:
        if self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        return Studies(
            self.studies, extensions=[f"*.{suffix}" for suffix in SUFFIXES], auto_reload=True
        )

    def _load_sessions(self, load: bool = False) -> Any:
        sessions = super()._load_sessions(load)
        return sessions if sessions is None else FrameSessions(sessions.store_path, sessions.expiry)

    def init_infers(self) -> dict[str, Any]:
        store = self._datastore
        return {
            "tcmn": PaintedFrameTask(self.model, "scribbles", store),
            "tcmn_stored_label": PaintedFrameTask(
                self.model, "segmentation", store, stored_label=True
            ),
            "tcmn_points": PointsTask(self.model, store),
            "tcmn_points_one_frame": PointsTask(self.model, store, one_frame=True),
        }

    def init_trainers(self) -> dict[str, Any]:
        return {"tcmn": FineTuneTask(self.model)}

    def init_strategies(self) -> dict[str, Any]:
        return {"lowest_confidence": LowestConfidence(self.model.inferer.settings.review_below)}

    def model_file(self, model: str, validate: bool = True) -> str | None:
        """Where a client reads and writes weights: those of a training, never the shipped ones."""
        return str(self.model.own_weights) if model in self._infers else None

    def infer(self, request: Mapping[str, Any], datastore: Any = None) -> Any:
        """As MONAI Label's, but its errors reach the user, and the task is told the image's id."""
        with deleted_if_refused(request.get("label"), request.get("image")):
            try:
                return super().infer({**request, "image_id": request["image"]}, datastore)
            except MONAILabelException as error:
                refuse(error.msg, 404)
