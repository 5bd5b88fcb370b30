"""What the protocols read, from small folders in the layout of each data set."""

from pathlib import Path

import pytest

from bundle.datasets.generic import thin
from bundle.datasets.protocols import (
    DAVIS_HELD_OUT,
    DAVIS_TRAIN_HELD_OUT,
    SELECTION_PATIENTS,
    VOCAL_FOLDS_HELD_OUT,
    VOS_EXTRA_HELD_OUT,
    describe_protocol,
    read_protocol,
)
from bundle.datasets.records import Video
from bundle.datasets.registry import read_all
from bundle.datasets.vocal_folds import CLASS_NAMES, vocal_folds

DATA = Path(__file__).parents[3] / "shared" / "data"
FRAMES = 7


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def make_davis(root, videos, frames=FRAMES):
    for video in videos:
        for t in range(frames):
            touch(root / "JPEGImages" / video / f"{t:05d}.jpg")
            touch(root / "Annotations" / video / f"{t:05d}.png")


@pytest.fixture
def data(tmp_path):
    """The parent of all sets that select, each with something that must not."""
    make_davis(tmp_path / "DAVIS-2016-val", ["bear", *DAVIS_HELD_OUT])
    make_davis(tmp_path / "DAVIS-2016-train", ["cows", *DAVIS_TRAIN_HELD_OUT])
    make_davis(tmp_path / "VOS-extra", ["chair-puma", *VOS_EXTRA_HELD_OUT])
    make_davis(tmp_path / "VocalFolds", ["patient1_seq1", *VOCAL_FOLDS_HELD_OUT])
    cvc = tmp_path / "CVC-ClinicDB"
    rows = ["frame_id,sequence_id,split,png_image_path,png_mask_path"]
    for frame, sequence, split in ((1, 1, "train"), (2, 1, "train"), (3, 2, "valid")):
        rows.append(f"{frame},{sequence},{split},PNG/Original/{frame}.png,PNG/Mask/{frame}.png")
        touch(cvc / f"PNG/Original/{frame}.png")
        touch(cvc / f"PNG/Mask/{frame}.png")
    (cvc / "metadata.csv").write_text("\n".join(rows))
    camus = tmp_path / "CAMUS"
    patients = [f"patient{number:04d}" for number in range(30, 0, -1)]
    for patient in patients:
        for view in ("2CH", "4CH"):
            for kind in ("ED", "ED_gt", "ES", "ES_gt"):
                touch(camus / "database_nifti" / patient / f"{patient}_{view}_{kind}.nii.gz")
    (camus / "database_split").mkdir()
    (camus / "database_split/subgroup_validation.txt").write_text("\n".join(patients[:-1]))
    return tmp_path


@pytest.fixture(autouse=True)
def _no_headers(monkeypatch):
    """CAMUS files are empty here: nothing says how far pixels lie apart."""
    monkeypatch.setattr("bundle.datasets.camus.image_spacing", lambda path: None)


def test_the_selection_holds_four_domains_and_nothing_that_trains(data):
    videos = read_protocol("selection", data)
    by_domain = {}
    for video in videos:
        by_domain.setdefault(video.domain, []).append(video)
    assert list(by_domain) == ["polyps", "hearts", "larynx", "general motion"]
    assert [video.id for video in by_domain["polyps"]] == ["sequence02"]
    assert [video.id for video in by_domain["larynx"]] == list(VOCAL_FOLDS_HELD_OUT)
    names = [*DAVIS_HELD_OUT, *DAVIS_TRAIN_HELD_OUT, *VOS_EXTRA_HELD_OUT]
    assert [video.id for video in by_domain["general motion"]] == names
    patients = {video.patient for video in by_domain["hearts"]}
    assert patients == {f"patient{number:04d}" for number in range(2, 2 + SELECTION_PATIENTS)}
    assert len(by_domain["hearts"]) == 2 * SELECTION_PATIENTS  # both views
    assert {tuple(video.labels) for video in by_domain["hearts"]} == {(2,)}  # never the cavities
    assert {video.id for video in videos if video.id.endswith("_ES")} == set()
    assert len({video.id for video in videos}) == len(videos)


def test_general_videos_of_the_selection_are_thinned_and_no_others(data):
    frames = {video.domain: len(video.frames) for video in read_protocol("selection", data)}
    assert frames == {"polyps": 1, "hearts": 2, "larynx": FRAMES, "general motion": 3}


def test_the_selection_says_what_it_holds(data):
    told = describe_protocol("selection", read_protocol("selection", data))
    assert told.endswith("1 of polyps, 40 of hearts, 1 of larynx, 17 of general motion")
    assert "ED -> ES, two frames" in told


def test_a_selection_that_lacks_a_set_names_its_folder(data):
    (data / "VOS-extra").rename(data / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"no folder .*VOS-extra: expected the root of"):
        read_protocol("selection", data)


@pytest.mark.parametrize(
    ("name", "folder", "videos"),
    [
        ("davis_train_held_out", "DAVIS-2016-train", DAVIS_TRAIN_HELD_OUT),
        ("vos_extra", "VOS-extra", VOS_EXTRA_HELD_OUT),
        ("vocal_folds_held_out", "VocalFolds", VOCAL_FOLDS_HELD_OUT),
        ("vocal_folds", "VocalFolds", ("patient1_seq1", *VOCAL_FOLDS_HELD_OUT)),
    ],
)
def test_protocols_of_single_sets(data, name, folder, videos):
    read = read_protocol(name, data / folder)
    assert tuple(video.id for video in read) == videos
    assert {len(video.frames) for video in read} == {FRAMES}
    assert {video.domain for video in read} == {""}


def test_a_thinned_video_keeps_the_masks_of_the_frames_that_stay():
    frames = tuple(Path(f"{i}.png") for i in range(8))
    video = Video("v", frames, {i: Path(f"m{i}.png") for i in (0, 2, 3, 6)}, {1: "x"}, "p")
    thinned = thin(video, 3)
    assert [path.stem for path in thinned.frames] == ["0", "3", "6"]
    assert {i: path.stem for i, path in thinned.masks.items()} == {0: "m0", 1: "m3", 2: "m6"}
    assert thin(video, 1) == video


def test_sequences_of_the_larynx_name_their_structures_and_patient(data):
    (video,) = vocal_folds(data / "VocalFolds", exclude=["patient1_seq1"])
    assert video.labels == CLASS_NAMES
    assert video.labels[2] == "glottis"
    assert video.patient == "patient1"


@pytest.mark.parametrize(
    ("name", "shown"), [("hc18", "fetal head"), ("busi", "breast lesion"), ("kvasir_seg", "polyp")]
)
def test_pictures_name_what_they_show(tmp_path, name, shown):
    touch(tmp_path / "images" / "a.jpg")
    touch(tmp_path / "masks" / "a.png")
    (video,) = read_all(name, tmp_path)
    assert video.labels == {1: shown}
    assert video.binary


@pytest.mark.skipif(not (DATA / "VOS-extra").exists(), reason="no real selection set at hand")
def test_the_real_selection():
    videos = read_protocol("selection", DATA)
    domains = [video.domain for video in videos]
    counts = {domain: domains.count(domain) for domain in dict.fromkeys(domains)}
    assert counts == {"polyps": 6, "hearts": 40, "larynx": 1, "general motion": 17}
