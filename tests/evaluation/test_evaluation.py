"""An evaluation by its configs, tiny: every file agrees with the others and with vos-benchmark."""

import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import DataLoader, decollate_batch
from monai.engines import IterationEvents
from monai.utils import set_determinism
from PIL import Image, ImageDraw

from bundle.datasets.protocols import DAVIS_HELD_OUT, describe_protocol, read_protocol
from bundle.datasets.records import Video
from bundle.datasets.whole_videos import VideoDataset, frame_names
from bundle.evaluation.comparison import compare, read_scores
from bundle.evaluation.figures import GREEN, RED, WHITE, draw_cell
from bundle.evaluation.handler import EvaluationReport
from bundle.evaluation.paper import TABLE_2, WITHOUT_LTC, printed_rows
from bundle.evaluation.records import VideoScores, select
from bundle.evaluation.review import Reviewed
from bundle.evaluation.saved_masks import (
    check_predictions,
    folder_names,
    load_masks,
    save_masks,
    save_png,
)
from bundle.evaluation.statistics import (
    estimate,
    given_together,
    leads,
    perturbation_costs,
    summarise,
)
from bundle.evaluation.tables import make_markdown, make_summary
from bundle.inference.confidence import expected_jaccard
from bundle.inference.inferers import VideoInferer
from bundle.io.reading.frame_refs import FrameOf
from bundle.networks import TCMN
from bundle.networks.weights import WeightsDescription, describe_weights
from bundle.training.engines import LabelInferer
from bundle.utils.options import parse_list, parse_text
from tests.tiny import OPTIONS, OWN_SIZE

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TINY = {
    **OPTIONS,
    "threads": 1,
    "precision": "float32",
    "inference_size": 32,
}
SCORES = ("jaccard", "boundary", "dice")
HEIGHT, WIDTH = 40, 48


@pytest.fixture(scope="module", autouse=True)
def _threads_and_determinism():
    """Configs set both for the whole process: put them back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    set_determinism(None)


@pytest.fixture(scope="module")
def davis(tmp_path_factory):
    """Three videos of six frames: disks that move; two objects in a, none in a frame of c."""
    root = tmp_path_factory.mktemp("davis")
    random = np.random.default_rng(0)
    for number, (video, ids) in enumerate({"a": (3, 7), "b": (1,), "c": (1,)}.items()):
        for t in range(6):
            mask = Image.new("L", (WIDTH, HEIGHT))
            for place, i in enumerate(ids):
                x, y = 12 + 3 * t, 12 + 2 * number + 16 * place
                if (video, t) != ("c", 3):
                    ImageDraw.Draw(mask).ellipse((x - 7, y - 7, x + 7, y + 7), fill=i)
            labels = np.asarray(mask)
            frame = random.integers(0, 80, (HEIGHT, WIDTH, 3)) + 150 * (labels > 0)[..., None]
            path = root / "Annotations" / video / f"{t:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(path, labels)
            path = root / "JPEGImages" / video / f"{t:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame.astype(np.uint8)).save(path)
    (root / "Annotations" / "b" / "00002.png").unlink()  # not annotated
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights whose masks are neither empty nor full."""
    torch.manual_seed(0)
    network = TCMN("resnet18", "resnet18", 8, 8, (8, 8, 8))
    network.decoder.predict.weight.data.mul_(10)
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save(network.state_dict(), path)
    return str(path)


def evaluate(folder, dataset_dir, weights, **options):
    workflow = ConfigWorkflow(
        config_file=[str(CONFIGS / name) for name in ("train.yaml", "evaluate.yaml")],
        meta_file=str(CONFIGS / "metadata.json"),
        workflow_type="train",
        run_id="evaluating",
        logging_file=False,
        dataset_dir=str(dataset_dir),
        output_dir=str(folder),
        weights=weights,
        **TINY | {"protocol": "davis"} | options,
    )
    workflow.initialize()
    workflow.run()
    return folder


@pytest.fixture(scope="module")
def evaluated(davis, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "out"
    return evaluate(folder, davis, weights, perturb="erode:2, drop:0.5")


def read_table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def of(rows, method="network", perturbation="none"):
    return [r for r in rows if (r["method"], r["perturbation"]) == (method, perturbation)]


def root_cause(error):
    while error.__cause__ is not None:
        error = error.__cause__
    return error


# What a run leaves


def test_all_files_are_there_and_nothing_else(evaluated):
    written = sorted(str(path.relative_to(evaluated)) for path in evaluated.glob("*"))
    assert written == [
        "distance.png", "figure2.png", "frames.csv", "masks", "metrics.csv", "summary.json",
        "tables.md", "worst_frames.png",
    ]  # fmt: skip
    masks = sorted(path.name for path in (evaluated / "masks").iterdir())
    assert masks == ["a", "a.nii.gz", "b", "b.nii.gz", "c", "c.nii.gz"]
    for name in ("figure2", "worst_frames", "distance"):
        with Image.open(evaluated / f"{name}.png") as picture:
            assert np.ptp(np.asarray(picture.convert("L"))) > 100


def test_rows_are_those_of_the_data_set(evaluated):
    rows = read_table(evaluated / "metrics.csv")
    found = [(r["video"], r["object"], r["given_together"], r["frames"]) for r in of(rows)]
    assert found == [
        ("a", "3", "2", "5"),
        ("a", "7", "2", "5"),
        ("b", "1", "1", "4"),
        ("c", "1", "1", "5"),
    ]
    runs = {(r["method"], r["perturbation"]) for r in rows}
    assert runs == {
        ("network", "none"), ("network", "erode:2"), ("network", "drop:0.5"),
        ("copy first mask", "none"), ("optical flow (DIS)", "none"),
    }  # fmt: skip
    frames = of(read_table(evaluated / "frames.csv"))
    assert [r["distance"] for r in frames if r["video"] == "b"] == ["1", "3", "4", "5"]
    assert [r["shown"] for r in frames if r["video"] == "c"] == ["1", "1", "0", "1", "1"]
    for row in of(rows):
        own = [r for r in frames if (r["video"], r["object"]) == (row["video"], row["object"])]
        for score in SCORES:
            mean = np.mean([float(r[score]) for r in own])
            assert float(row[score]) == pytest.approx(mean, abs=1e-5)
            shown = np.mean([float(r[score]) for r in own if r["shown"] == "1"])
            assert float(row[f"{score}_shown"]) == pytest.approx(shown, abs=1e-5)


def test_scores_are_those_of_vos_benchmark_on_the_saved_masks(evaluated, davis):
    evaluator = pytest.importorskip("vos_benchmark.evaluator")
    values = []
    for video in "abc":
        judge = evaluator.Evaluator()
        for path in sorted((davis / "Annotations" / video).iterdir())[1:]:
            predicted = np.asarray(Image.open(evaluated / "masks" / video / path.name))
            judge.feed_frame(predicted, np.asarray(Image.open(path)))
        jaccard, boundary = judge.conclude()
        for row in of(read_table(evaluated / "metrics.csv")):
            if row["video"] == video:
                assert float(row["jaccard"]) == pytest.approx(jaccard[int(row["object"])], abs=1e-5)
                assert float(row["boundary"]) == pytest.approx(
                    boundary[int(row["object"])], abs=1e-5
                )
                values.append(float(row["jaccard"]))
    assert len(set(values)) == 4  # there is something to compare
    assert 0 < min(values) < 90


def test_saved_masks_keep_ids_the_given_mask_and_the_axes_of_nifti(evaluated, davis):
    volume = nib.load(evaluated / "masks" / "a.nii.gz")
    assert volume.shape == (WIDTH, HEIGHT, 6)
    labels = np.asarray(volume.dataobj)
    assert set(np.unique(labels)) == {0, 3, 7}
    for t in range(6):
        with Image.open(evaluated / "masks" / "a" / f"{t:05d}.png") as picture:
            assert picture.mode == "P"
            np.testing.assert_array_equal(np.asarray(picture).T, labels[..., t])
    given = np.asarray(Image.open(davis / "Annotations" / "a" / "00000.png"))
    np.testing.assert_array_equal(labels[..., 0].T, given)


def test_the_summary_agrees_with_the_table(evaluated, weights):
    summary = json.loads((evaluated / "summary.json").read_text())
    rows = read_table(evaluated / "metrics.csv")
    for run in summary["results"]:
        chosen = of(rows, run["method"], run["perturbation"])
        mean = run["mean"]["dice"]
        assert mean["mean"] == pytest.approx(np.mean([float(r["dice"]) for r in chosen]), abs=1e-5)
        assert mean["low"] <= mean["mean"] <= mean["high"]
        assert (run["mean"]["videos"], run["mean"]["objects"]) == (3, 4)
        video = np.mean([float(r["dice"]) for r in chosen if r["video"] == "a"])
        assert run["videos"]["a"]["dice"] == pytest.approx(video, abs=1e-5)
        dice = [run["videos"][name]["dice"] for name in "abc"]
        poor = 100 * np.mean(np.array(dice) < 50)
        assert run["mean"]["videos_with_dice_under_50_percent"] == pytest.approx(poor)
    assert summary["frames_per_second"]["median"] > 0
    settings = summary["settings"]
    assert settings["inference_size"] == 32
    assert (settings["precision"], settings["computed_in"]) == ("float32", "float32")
    assert len(settings["weights_sha256"]) == 64
    assert settings["perturbations"] == ["none", "erode:2", "drop:0.5"]
    assert "object 3 + object 7 in 1 video" in summary["given_together"]


def test_a_vanished_object_is_counted_and_scores_can_be_read_back(evaluated):
    summary = json.loads((evaluated / "summary.json").read_text())
    network, *others = [run for run in summary["results"] if run["perturbation"] == "none"]
    for run in (network, *others):  # frame 3 of c is the only one without its object
        assert run["presence"]["absent"]["frames"] == 1
        assert run["presence"]["shown"]["frames"] == 5 + 5 + 4 + 4
    copy = next(run for run in others if run["method"] == "copy first mask")
    assert copy["presence"]["absent"]["answered"]["mean"] == 100
    assert copy["presence"]["absent"]["flagged"] is None
    rows = read_table(evaluated / "frames.csv")
    for row in of(rows):
        picture = Image.open(evaluated / "masks" / row["video"] / f"{row['frame']}.png")
        assert row["answered"] == str(int((np.asarray(picture) == int(row["object"])).any()))
        assert 0 <= float(row["confidence"]) <= 1
    assert {row["confidence"] for row in of(rows, "copy first mask")} == {""}
    again = summarise(select(read_scores(evaluated)))
    assert again["mean"]["dice"]["mean"] == pytest.approx(network["mean"]["dice"]["mean"], abs=1e-5)
    assert all(row["jaccard"]["mean"] == 0 for row in compare(evaluated, evaluated)["gains"])


def test_the_page_has_a_row_for_each_method_and_perturbation(evaluated):
    page = (evaluated / "tables.md").read_text()
    page, *differences = page.split("\n## Ahead of the other methods\n")
    for name in ("network", "copy first mask", "optical flow (DIS)"):
        # All frames, those that show the object, and objects that are gone or lost.
        assert page.count(f"\n| {name} |") == 3
    for name in ("copy first mask", "optical flow (DIS)", "erode:2", "drop:0.5"):
        assert f"| {name} | object 1 | " in differences[0]
    assert "| network |" not in differences[0]
    assert "one of 5 and the last remembered, spatial prior auto, computed in float32." in page
    assert "Objects given together: " in page
    assert "as printed" not in page  # the paper has no DAVIS


def test_saved_masks_as_predictions_have_the_scores_of_the_network(
    evaluated, davis, weights, tmp_path
):
    options = {"predictions": str(evaluated / "masks"), "predictions_name": "again"}
    out = evaluate(tmp_path, davis, weights, save_masks="false", baselines="false", **options)
    rows = read_table(out / "metrics.csv")
    assert {r["method"] for r in rows} == {"network", "again"}
    for one, other in zip(of(rows), of(rows, "again"), strict=True):
        assert {**one, "method": ""} == {**other, "method": ""}
    assert of(rows) == of(read_table(evaluated / "metrics.csv"))  # and a second run is the same
    assert not list(out.glob("*masks*"))


def test_labels_of_clips_are_the_best_of_their_logits(weights):
    network = TCMN("resnet18", "resnet18", 8, 8, (8, 8, 8)).eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    clip = torch.rand(1, 5, 32, 48, 7)
    clip[:, 3:] = 0
    clip[:, 3, 4:20, 4:20, 0] = clip[:, 4, 8:28, 24:40, 0] = 1
    options = {"memory_every": 2, "precision": "float32"}
    found = LabelInferer(**OWN_SIZE, **options)(clip, network)
    logits = VideoInferer(**OWN_SIZE, **options)(clip, network)
    assert found["labels"].dtype == torch.uint8
    assert torch.equal(found["labels"], logits.argmax(1, keepdim=True).byte())
    assert found["confidence"].shape == (1, 2, 7)
    assert (found["confidence"][..., 0] == 1).all()  # given
    expected = expected_jaccard(logits[..., 4])  # frames of this size pass through as they are
    torch.testing.assert_close(found["confidence"][..., 4], expected)


# CAMUS


@pytest.fixture(scope="module")
def camus(tmp_path_factory):
    """One validation patient, both views, ED and ES."""
    root = tmp_path_factory.mktemp("camus")
    folder = root / "database_nifti" / "patient0002"
    folder.mkdir(parents=True)
    for view in ("2CH", "4CH"):
        for moment, shrink in (("ED", 0), ("ES", 3)):
            labels = np.zeros((WIDTH, HEIGHT), np.uint8)
            labels[14 + shrink : 30 - shrink, 4 + shrink : 26] = 1
            labels[14:30, 28:38] = 3
            for kind, pixels in (("", 70 * labels), ("_gt", labels)):
                image = nib.Nifti1Image(pixels, np.diag([0.3, 0.15, 1, 1]))
                image.header.set_xyzt_units("mm")
                nib.save(image, folder / f"patient0002_{view}_{moment}{kind}.nii.gz")
        (folder / f"Info_{view}.cfg").write_text("ED: 1\nES: 2\nEF: 56.5\n")
    table = root / "database_split" / "subgroup_validation.txt"
    table.parent.mkdir()
    table.write_text("patient0002\n")
    return root


def test_a_ventricle_has_clinical_read_outs(camus, weights, tmp_path):
    out = evaluate(tmp_path, camus, weights, protocol="camus_unseen", baselines=False)
    rows = read_table(out / "clinical.csv")
    assert [row["view"] for row in rows] == ["2CH", "4CH", "biplane"]
    assert {float(row["reference_ef_percent"]) for row in rows} == {56.5}
    assert all(0 < float(row["truth_ef_percent"]) < 100 for row in rows)
    assert all(float(row["truth_edv_ml"]) > 0 for row in rows)
    areas = read_table(out / "areas.csv")
    assert [row["video"] for row in areas[::2]] == [
        "patient0002_2CH_ED LV cavity",
        "patient0002_4CH_ED LV cavity",
    ]
    assert (areas[0]["area_px"], areas[0]["truth_area_px"]) == ("352", "352")  # as given
    assert float(areas[1]["truth_area_mm2"]) == pytest.approx(10 * 19 * 0.3 * 0.15)
    assert (out / "areas.png").is_file()
    page = (out / "tables.md").read_text()
    assert page.startswith("# camus_unseen, ED -> ES, two frames\n")
    assert "Each object was given alone." in page
    assert page.count("as printed* |") == 11
    assert "repeats STCN's Dice" in page
    assert "| left atrium J | left atrium F | left atrium Dice | mean J |" in page


def test_protocols_from_es_begin_there_with_names_in_order_of_time(camus):
    for name, start in (("camus_seen_from_es", "ES"), ("camus_unseen", "ED")):
        videos = read_protocol(name, camus)
        assert all(f"_{start}." in video.frames[0].name for video in videos)
    backward, forward = read_protocol("camus_seen_from_es", camus), videos
    assert frame_names(forward[0]) == ["patient0002_2CH_ED", "patient0002_2CH_ES"]
    assert frame_names(backward[0]) == ["00000", "00001"]
    description = describe_protocol("camus_seen_from_es", backward)
    assert description == "camus_seen_from_es, ES -> ED, two frames"


def test_half_sequences_are_taken_where_there_are_any(camus, tmp_path):
    root = tmp_path / "whole"
    for path in camus.rglob("*"):
        if path.is_file():
            target = root / path.relative_to(camus)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    for view in ("2CH", "4CH"):
        for kind in ("", "_gt"):
            image = nib.Nifti1Image(np.ones((WIDTH, HEIGHT, 4), np.uint8), np.eye(4))
            name = f"patient0002_{view}_half_sequence{kind}.nii.gz"
            nib.save(image, root / "database_nifti" / "patient0002" / name)
        path = root / "database_nifti" / "patient0002" / f"Info_{view}.cfg"
        path.unlink()
        path.write_text("ED: 4\nES: 1\n")
    videos = read_protocol("camus_unseen", root)
    assert [len(video.frames) for video in videos] == [4] * 4
    assert describe_protocol("camus_unseen", videos) == "camus_unseen, ED -> ES, half sequences"


# Protocols


def test_an_unknown_protocol_lists_those_there_are(tmp_path):
    names = "cvc_clinicdb, camus_seen, camus_unseen, .*, hmc_qu, asu_mayo, davis"
    with pytest.raises(ValueError, match=f"unknown protocol 'polyps': expected one of {names}"):
        read_protocol("polyps", tmp_path)


def test_of_davis_the_videos_of_training_can_be_left_out(davis, tmp_path):
    for part in ("JPEGImages", "Annotations"):
        for name in ("bear", *DAVIS_HELD_OUT):
            shutil.copytree(davis / part / "b", tmp_path / part / name)
    read = [video.id for video in read_protocol("davis_held_out", tmp_path)]
    assert read == ["blackswan", "camel", "dog", "parkour", "soapbox"]
    config = ConfigParser(ConfigParser.load_config_file(str(CONFIGS / "train.yaml")))
    config["dataset_dir"], config["davis_dir"] = str(tmp_path), str(tmp_path)
    trained = config.get_parsed_content("train#dataset#data#davis")
    assert [video.id for video in trained] == ["bear"]


def test_only_the_valid_part_of_a_split_is_scored(davis, tmp_path):
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"seed": 5, "fraction": 0.5, "train": ["a"], "valid": ["c", "b"]}))
    assert [video.id for video in read_protocol("davis", davis, split)] == ["b", "c"]


def test_a_missing_split_is_not_drawn(davis, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file --split .*none.json: expected the JSON"):
        read_protocol("davis", davis, tmp_path / "none.json")
    assert not list(tmp_path.iterdir())


def test_names_of_frames_sort_into_the_order_of_time(tmp_path):
    def names(*refs):
        return frame_names(Video("v", refs, {0: refs[0]}, {1: "x"}, "p"))

    assert names(Path("08.png"), Path("a/09.tif")) == ["08", "09"]
    assert names(Path("9.png"), Path("10.png")) == ["00000", "00001"]
    assert names(Path("a/1.png"), Path("b/1.png")) == ["00000", "00001"]
    assert names(FrameOf(Path("v.avi"), 7), FrameOf(Path("v.avi"), 8)) == ["00000", "00001"]


def test_items_of_videos_batch_whatever_is_unknown(davis):
    videos = read_protocol("davis", davis)[:2]
    videos[1] = replace(videos[1], spacing_mm=(0.5, 0.25), info={"frames_per_second": 30.0})
    loader = DataLoader(VideoDataset(videos), batch_size=1)
    first, second = (decollate_batch(batch)[0] for batch in loader)
    assert (first["ids"], first["classes"]) == ("3|7", "object 3|object 7")
    assert first["frame_names"] == "00000|00001|00002|00003|00004|00005"
    assert first["patient"] == "a"
    assert first["spacing_mm"].isnan().all()
    assert second["spacing_mm"].tolist() == [0.5, 0.25]
    assert json.loads(second["info"]) == {"frames_per_second": 30}


# Masks on disk


def make_item(davis, video=0):
    return VideoDataset(read_protocol("davis", davis))[video]


def test_masks_come_back_as_they_were_saved(davis, tmp_path):
    item = make_item(davis)
    labels = item["label"][0].numpy()
    for _ in range(2):  # the second replaces the first
        save_masks(tmp_path, "a", item, labels)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.nii.gz"]
    np.testing.assert_array_equal(load_masks(tmp_path, "a", item, [1, 4]), labels[..., [1, 4]])


def test_white_is_the_sole_object(davis, tmp_path):
    item = make_item(davis, 1)
    (tmp_path / "b").mkdir()
    white = 255 * item["label"][0, ..., 1].numpy().astype(np.uint8)
    Image.fromarray(white).save(tmp_path / "b" / "00001.png")
    np.testing.assert_array_equal(
        load_masks(tmp_path, "b", item, [1])[..., 0], item["label"][0, ..., 1]
    )


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (None, r"no mask .*00001.png, a scored frame of video a"),
        (Image.new("L", (20, 30)), r"00001.png is 20x30 but the frames of video a are 48x40: save"),
        (Image.new("L", (48, 40), 5), r"00001.png holds id 5 but the objects of video a are 3, 7:"),
        (Image.new("RGB", (48, 40)), r"00001.png has mode RGB: expected a palette or grey PNG"),
        ("text", r"00001.png is not a picture: expected a PNG of object ids"),
    ],
)
def test_masks_that_do_not_fit_are_reported(picture, message, davis, tmp_path):
    path = tmp_path / "a" / "00001.png"
    path.parent.mkdir()
    if isinstance(picture, str):
        path.write_text(picture)
    elif picture is not None:
        picture.save(path)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        load_masks(tmp_path, "a", make_item(davis), [1])


def test_a_missing_folder_of_masks_is_reported(davis, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*a with masks of video a: expected"):
        load_masks(tmp_path, "a", make_item(davis), [1])


def test_a_missing_prediction_stops_the_run_before_it_begins(davis, weights, tmp_path):
    (tmp_path / "rival" / "video_a").mkdir(parents=True)
    message = r"--predictions: no folder .*rival/a for video a; there are video_a and so on"
    with pytest.raises(RuntimeError) as caught:
        evaluate(tmp_path / "out", davis, weights, predictions=str(tmp_path / "rival"))
    assert isinstance(root_cause(caught.value), FileNotFoundError)
    with pytest.raises(FileNotFoundError, match=message):
        raise root_cause(caught.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere/a for video a$"):
        check_predictions(tmp_path / "nowhere", {"a": "a"})


def test_predictions_must_not_be_what_the_run_writes(davis, tmp_path):
    dataset = VideoDataset(read_protocol("davis", davis))
    with pytest.raises(ValueError, match=r"--predictions .*masks is where this run writes the"):
        EvaluationReport(dataset, tmp_path, "", {}, predictions=tmp_path / "masks")
    with pytest.raises(ValueError, match=r"--predictions-name network is the name of another row"):
        EvaluationReport(dataset, tmp_path, "", {}, predictions=tmp_path / "network")


def test_scores_of_videos_that_the_weights_learned_from_say_so(davis, tmp_path, caplog):
    weights = tmp_path / "model.pt"
    weights.touch()
    describe_weights(weights, WeightsDescription({}, "1.0.0", seen=["davis"]))
    dataset = VideoDataset(read_protocol("davis", davis))
    for protocol, said in (("davis", True), ("video_folder", False)):
        caplog.clear()
        engine = Engine(lambda engine, batch: None)
        engine.register_events(*IterationEvents)
        report = EvaluationReport(
            dataset, tmp_path, "Videos", {"protocol": protocol}, weights=weights
        )
        report.attach(engine)
        engine.fire_event(Events.STARTED)
        assert (
            "(the weights learned from these videos or structures)" in report.description
        ) is said
        assert ("learned from videos or structures of davis" in caplog.text) is said


def test_videos_get_folders_of_their_own(davis):
    video = read_protocol("davis", davis)[0]
    videos = [replace(video, id=name) for name in ("a b", "a/b", "A b")]
    assert folder_names(videos) == {"a b": "a_b", "a/b": "a_b_2", "A b": "A_b_3"}


def test_options_are_read_strictly():
    assert parse_list("erode:5, noise:10,erode:5", "perturb") == ["erode:5", "noise:10"]
    assert parse_list("['erode:5','none']", "perturb") == ["erode:5", "none"]
    assert parse_list(["none"], "perturb") == ["none"]
    with pytest.raises(ValueError, match="--perturb must be a list, or text with commas, got 5"):
        parse_list(5, "perturb")
    with pytest.raises(ValueError, match="--perturb has an empty entry: 'erode:5,'"):
        parse_list("erode:5,", "perturb")
    assert [parse_text(value) for value in (None, "null", "a b")] == [None, None, "a b"]


# Statistics


def make_scores(video, values, perturbation="none", names=None, **options):
    names = names or [str(i) for i in range(1, len(values) + 1)]
    known = {"class_name": "polyp", "object_id": 1, "method": "network", "together": 1, **options}
    count = len(values)
    return VideoScores(
        video=video,
        perturbation=perturbation,
        frame_names=tuple(names),
        distance=tuple(range(1, count + 1)),
        jaccard=tuple(values),
        boundary=tuple(values),
        dice=tuple(values),
        shown=tuple(value < 1 for value in values),
        answered=(True,) * count,
        frames_per_second=10.0,
        **known,
    )


def test_intervals_are_those_of_resampled_videos():
    values = np.random.default_rng(1).normal(0.6, 0.1, 60)
    found = estimate([[value] for value in values])
    assert found == estimate([[value] for value in values])  # seeded
    assert found["mean"] == pytest.approx(100 * values.mean())
    error = 100 * values.std() / math.sqrt(60)
    assert found["low"] == pytest.approx(found["mean"] - 1.96 * error, abs=0.15 * error)
    assert found["high"] == pytest.approx(found["mean"] + 1.96 * error, abs=0.15 * error)
    # Videos are drawn with all their objects: equal ones tell no more than one.
    repeated = estimate([[value] * 4 for value in values])
    assert repeated["high"] == pytest.approx(found["high"])


def test_a_mean_counts_objects_and_leaves_out_what_is_not_defined():
    assert estimate([[0.2, 0.4], [0.9], [math.nan]])["mean"] == pytest.approx(50)
    assert estimate([[0.25]]) == {"mean": 25, "low": None, "high": None}
    assert estimate([[math.nan]]) == {"mean": None, "low": None, "high": None}


def test_only_frames_that_show_the_object_are_apart():
    group = summarise([make_scores("a", [0.5, 1.0]), make_scores("b", [1.0, 1.0])])["mean"]
    assert group["jaccard"]["mean"] == pytest.approx(87.5)
    assert group["only_frames_that_show_it"]["jaccard"]["mean"] == pytest.approx(50)


def test_a_perturbation_is_compared_on_the_same_frames():
    scores = [make_scores(video, [0.8, 0.6, 0.1]) for video in "ab"]
    scores += [make_scores(video, [0.7, 0.2], "drop:0.5", ["1", "3"]) for video in "ab"]
    (cost,) = perturbation_costs(scores, "network")
    assert (cost["perturbation"], cost["class"]) == ("drop:0.5", "polyp")
    assert cost["dice"]["mean"] == pytest.approx(0)
    assert cost["dice"]["low"] == pytest.approx(cost["dice"]["high"])


def test_methods_are_compared_video_by_video():
    """The videos differ by far more than the methods, which a paired interval leaves out."""
    scores = [make_scores(str(i), [0.1 * i, 0.1 * i]) for i in range(1, 9)]
    scores += [make_scores(str(i), [0.1 * i - 0.05] * 2, method="copy") for i in range(1, 9)]
    scores += [make_scores("1", [0.0], "erode:2")]
    (lead,) = leads(scores)
    assert (lead["method"], lead["class"]) == ("copy", "polyp")
    for end in ("mean", "low", "high"):
        assert lead["jaccard"][end] == pytest.approx(5)


def test_the_report_lists_objects_that_were_given_together():
    alone = [make_scores("a", [0.5]), make_scores("b", [0.5])]
    assert given_together(alone) == "Each object was given alone."
    both = [make_scores("c", [0.5], class_name=name) for name in ("wall", "cavity")]
    assert given_together([*alone, *both]) == (
        "Objects given together: polyp in 2 videos; cavity + wall in 1 video."
    )


# The paper's figures


def test_printed_means_fit_the_printed_columns_but_for_the_known_error():
    for method, (ventricle, atrium, mean) in TABLE_2.items():
        fits = [
            abs((v + a) / 2 - m) < 0.011 for v, a, m in zip(ventricle, atrium, mean, strict=True)
        ]
        assert fits == ([True, False, True] if method == WITHOUT_LTC else [True] * 3), method
    assert TABLE_2[WITHOUT_LTC][0][2] == TABLE_2["STCN"][0][2]


def test_printed_rows_are_marked_and_fit_the_protocol():
    where, rows = printed_rows("cvc_clinicdb", ["polyp"])
    assert where.endswith("table 1")
    assert rows["STCN"] == {"polyp": (82.72, 77.76, 89.27)}
    assert printed_rows("camus_seen", ["LV wall"]) == ("", {})
    assert printed_rows("camus_unseen", ["left atrium"])[1]["RDE"] == {
        "left atrium": (21.14, 27.36, 29.55)
    }
    summary = make_summary([make_scores("a", [0.5]), make_scores("b", [0.7])], "Title", {})
    page = make_markdown(summary, "cvc_clinicdb")
    assert "| *XMem, as printed* | 82.74 | 76.46 | 89.58 |" in page
    assert "were not measured here" in page
    assert "| network | 60.00 [50.0, 70.0] | " in page


# Pictures


def test_cells_show_what_was_given_predicted_and_true():
    truth = np.zeros((40, 60, 2), np.int64)
    truth[5:35, 5:30] = 1
    prediction = np.zeros_like(truth)
    prediction[5:35, 40:55] = 1
    black = np.zeros((40, 60, 3, 2), np.uint8)
    video = Reviewed(black, prediction, truth, (0, 1), (0.5, 1.0))
    first, later = (np.asarray(draw_cell(video, t)) for t in range(2))
    assert first.shape == (80, 240, 3)  # rows lie closer than columns
    green, red = (tuple(value // 2 for value in colour) for colour in (GREEN, RED))
    assert (first[40, 60] == green).all()
    assert (later[40, 190] == red).all()
    assert (later[40, 60] == 0).all()
    assert (later[10, 60] == WHITE).all()  # the upper edge of the true mask
