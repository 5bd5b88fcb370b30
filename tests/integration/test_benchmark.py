"""Benchmarks: ratios are what they say, bad files are refused, each case measures what it names."""

import copy
import importlib
import json
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """Scripts import from their own folder."""
    monkeypatch.syspath_prepend(ROOT / "scripts/dev")


def module(name):
    return importlib.import_module(name)


def row(variant="torch", ms=(90.0, 100.0, 110.0), peak=800, **settings):
    figure = {"median": float(np.median(ms)), "min": min(ms), "max": max(ms), "runs": list(ms)}
    return {
        "case": "video",
        "variant": variant,
        "settings": {"frames": 30, **settings},
        "figures": {"ms_per_frame": figure},
        "rss_mb": {"imported": 300, "prepared": 500, "peak": peak},
        "peak_device_mb": None,
    }


def contents(*rows, **surroundings):
    around = {"torch": "2.0", "commit": "a", "time": "now", **surroundings}
    return {"schema": "tcmn-benchmark/1", "surroundings": around, "results": list(rows)}


def test_a_ratio_above_one_means_that_the_new_figure_is_better():
    old, new = contents(row()), contents(row(ms=(40.0, 50.0, 60.0), peak=1000))
    time, memory = module("benchmarks.compare").compare(old, new)
    assert (time.figure, time.old, time.new, time.times) == ("ms_per_frame", 100, 50, 2)
    assert time.apart
    assert (memory.figure, memory.times) == ("peak_rss_mb", 0.8)


def test_runs_that_overlap_are_marked():
    compare = module("benchmarks.compare")
    ratios = compare.compare(contents(row()), contents(row(ms=(70.0, 80.0, 95.0))))
    assert not ratios[0].apart
    time, memory, note = compare.table(ratios).splitlines()[1:]
    assert time.split() == ["video", "torch", "ms_per_frame", "100", "80", "1.25*"]
    assert memory.split()[-1] == "1.00*"
    assert "overlap" in note


def test_figures_compared_with_themselves_are_equal():
    same = contents(row(), row("int8"))
    assert {ratio.times for ratio in module("benchmarks.compare").compare(same, same)} == {1.0}


def test_device_memory_is_compared_where_both_have_it():
    old, new = row(), row()
    old["peak_device_mb"] = 600
    compare = module("benchmarks.compare").compare
    assert len(compare(contents(old), contents(new))) == 2
    new["peak_device_mb"] = 300
    ratio = compare(contents(old), contents(new))[-1]
    assert (ratio.figure, ratio.times) == ("peak_device_mb", 2)


def test_rows_of_other_settings_are_named_and_not_compared():
    old = contents(row(), row("int8", threads=1), torch="1.0")
    new = contents(row(), row("int8", threads=2))
    compare = module("benchmarks.compare")
    assert {ratio.variant for ratio in compare.compare(old, new)} == {"torch"}
    assert compare.differences(old, new) == [
        "torch: 1.0 -> 2.0",
        "video int8: not compared, the settings differ",
    ]
    with pytest.raises(ValueError, match="nothing to compare: the old figures are of video torch"):
        compare.compare(contents(row()), contents(row("int8")))


def test_files_that_hold_no_figures_are_refused(tmp_path, capsys):
    benchmark = module("benchmark")
    path = tmp_path / "old.json"
    for text, message in (
        (None, "no figures at .*old.json: write some with --output"),
        ("{", "old.json is not JSON"),
        ("[]", "schema None, expected 'tcmn-benchmark/1'"),
        ('{"schema": "tcmn-benchmark/0"}', "schema 'tcmn-benchmark/0', expected"),
    ):
        if text is not None:
            path.write_text(text)
        with pytest.raises(SystemExit, match=message):
            benchmark.main(["--compare", str(path), "--measured", str(path)])


def test_two_files_are_compared_without_measuring(tmp_path, capsys):
    benchmark, old, new = module("benchmark"), tmp_path / "old.json", tmp_path / "new.json"
    benchmark.write(old, contents(row()))
    benchmark.write(new, contents(row(ms=(50.0,)), commit="b"))
    benchmark.main(["--compare", str(old), "--measured", str(new)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "commit: a -> b"
    assert lines[2].split()[-1] == "2.00"


def test_settings_are_named_and_in_json():
    cases = module("benchmarks.cases")
    case = cases.CASES["video"]
    changed = cases.change_settings(
        case, ["frames=4", "max_memory_frames=auto", "height=null"]
    ).settings
    assert (changed["frames"], changed["max_memory_frames"], changed["height"]) == (4, "auto", None)
    assert case.settings["frames"] == 30
    for bad in ("colour=1", "frames"):
        with pytest.raises(ValueError, match=f"--set {bad}: expected NAME=VALUE with a name of"):
            cases.change_settings(case, [bad])


def test_bad_options_are_errors(capsys):
    benchmark = module("benchmark")
    with pytest.raises(SystemExit, match="case metrics has no variant 'int8'"):
        benchmark.main(["--cases", "metrics", "--variants", "int8"])
    with pytest.raises(SystemExit):
        benchmark.main(["--runs", "0"])
    assert "at least 1" in capsys.readouterr().err


def test_medians_and_extremes():
    summary = module("benchmarks.turns").summarize(
        [{"s": 3.0}, {"s": 1.0}, {"s": 2.5}], [0.0, 0.1, 0.2]
    )
    assert summary == {"s": {"median": 2.5, "min": 1.0, "max": 3.0, "runs": [3.0, 1.0, 2.5]}}


def test_runs_that_others_disturbed_do_not_count():
    turns, benchmark = module("benchmarks.turns"), module("benchmark")
    runs = [{"s": 9.0}, {"s": 1.0}, {"s": 2.0}]
    summary = turns.summarize(runs, [1.5, 0.1, 0.0])
    assert summary == {"s": {"median": 1.5, "min": 1.0, "max": 2.0, "runs": [9.0, 1.0, 2.0]}}
    assert turns.summarize(runs, [1.5, 0.3, 0.4])["s"]["median"] == 2.0
    assert benchmark.tell_others([1.5, 0.1, 0.0]).endswith("0 to 1.5 cores: 1 of 3 runs left out")
    assert "NO QUIET RUN" in benchmark.tell_others([1.5, 0.3])
    assert benchmark.tell_others([0.1, 0.2]) == "others used 0.1 to 0.2 cores"


def test_files_without_a_quiet_run_are_named():
    compare = module("benchmarks.compare")
    loud, calm = {**row(), "others_cores": [0.9, 0.3]}, {**row(), "others_cores": [0.9, 0.1]}
    assert compare.differences(contents(calm), contents(loud)) == [
        "video torch: no quiet run among the new ones"
    ]


def test_the_load_of_other_processes_is_measured():
    turns, video = module("benchmarks.turns"), module("benchmarks.video")
    with video.busy_cores(1):
        begin, busy = time.perf_counter(), turns.busy_seconds()
        time.sleep(1)
        assert turns.busy_seconds() - busy > 0.5 * (time.perf_counter() - begin)


def test_early_and_late_frames_of_long_videos():
    summarize = module("benchmarks.video").summarize
    # The given frame takes 5 s, then 150 frames 0.1 s each, 150 frames 0.2 s each.
    done = np.cumsum([0, 5, *[0.1] * 150, *[0.2] * 150]).tolist()
    figures = summarize(done)
    assert figures["ms_per_frame"] == pytest.approx(1000 * 50 / 301)
    assert figures["ms_first_100"] == pytest.approx(100)
    assert figures["ms_last_100"] == pytest.approx(200)
    assert figures["last_100_to_first"] == pytest.approx(2)
    assert list(summarize(done[:100])) == ["ms_per_frame"]


def prepare(name, variant, **settings):
    """A case at a small size, warmed up."""
    case = module("benchmarks.cases").CASES[name]
    assert set(settings) <= {*case.settings, "overrides"}
    assert variant in case.variants
    workload = module(f"benchmarks.{case.module}").prepare(variant, {**case.settings, **settings})
    workload.warm_up()
    return workload


@pytest.mark.parametrize(
    "variant",
    ["plain", "torch", pytest.param("openvino", marks=pytest.mark.heavy), "int8"],
)
def test_the_video_case_times_each_variant(variant):
    if variant in ("openvino", "int8"):
        pytest.importorskip("openvino")
    figures = prepare("video_3_objects", variant, height=32, width=48, frames=3).run()
    assert figures["ms_per_frame"] > 0


def test_the_busy_case_tells_what_a_busy_core_costs():
    pytest.importorskip("openvino")
    figures = prepare("video_busy", "int8", height=32, width=48, frames=3).run()
    assert figures["busy_to_calm"] == pytest.approx(figures["ms_busy"] / figures["ms_per_frame"])


@pytest.mark.heavy
def test_the_long_case_bounds_what_is_remembered(monkeypatch):
    memory = module("bundle.memory.bank")
    held, add = [], memory.MemoryBank.add

    def watched(bank, *arguments, **options):
        add(bank, *arguments, **options)
        held.append(len(bank))

    monkeypatch.setattr(memory.MemoryBank, "add", watched)
    prepare("long_limited", "torch", height=16, width=16, frames=31, max_memory_frames=3).run()
    assert max(held) == 3
    held.clear()
    prepare("long", "torch", height=16, width=16, frames=31).run()
    assert max(held) == 7


@pytest.mark.heavy
def test_the_training_case_learns_in_each_variant(monkeypatch):
    from tests.tiny import NETWORK

    small = {f"network_def#{name}": value for name, value in NETWORK.items()}
    small |= {"frozen": [], "batch_size": 1}
    cases, training = module("benchmarks.cases"), module("benchmarks.training")
    for variant in training.CHANGES:
        if variant == "processes":  # starts another process
            continue
        figures = prepare("training", variant, size=32, overrides=small).run()
        assert figures["s_per_step"] > 0
    assert set(training.CHANGES) == set(cases.CASES["training"].variants)


def test_the_metrics_case_scores_all_frames():
    for variant in module("benchmarks.cases").CASES["metrics"].variants:
        run = prepare("metrics", variant, height=32, width=32, frames=3).run
        assert run()["ms_per_frame"] > 0


def test_the_loader_case_reads_a_folder_of_videos(tmp_path):
    for name in ("a", "b", "c"):
        for kind in ("", "_mask"):
            folder = tmp_path / "data" / f"{name}{kind}"
            folder.mkdir(parents=True)
            for i in range(4):
                picture = np.zeros((40, 40) if kind else (40, 40, 3), np.uint8)
                picture[10:30, 10 : 20 + i] = 1 if kind else 200
                Image.fromarray(picture).save(folder / f"{i:03d}.png")
    workload = prepare(
        "loader",
        "loader",
        dataset_dir=str(tmp_path / "data"),
        workers=0,
        batches=1,
        config_files=["configs/train.yaml", "configs/finetune.yaml"],
        overrides={"size": 32, "output_dir": str(tmp_path / "output")},
    )
    assert workload.run()["ms_per_clip"] > 0
    with pytest.raises(ValueError, match="needs data: --set dataset_dir=DIR"):
        prepare("loader", "loader")


def test_objects_of_the_scene_do_not_touch():
    scene = module("benchmarks.scene").DriftingDisks(40, 120, 25, 3)
    labels = scene.labels(0)
    assert np.unique(labels).tolist() == [0, 1, 2, 3]
    grown = torch.nn.functional.max_pool2d(torch.from_numpy(labels).float()[None, None], 3, 1, 1)
    assert (grown[0, 0].numpy()[labels > 0] == labels[labels > 0]).all()
    frames = list(scene.frames(range(25)))
    assert len(frames) == 25
    assert frames[0] is frames[10]
    assert not (frames[0] == frames[1]).all()


@pytest.mark.heavy
def test_processes_measure_and_the_file_says_with_what(tmp_path, capfd):
    benchmark, path = module("benchmark"), tmp_path / "new.json"
    small = ["--set", "height=32", "width=32", "frames=3", "--threads", "1"]
    options = ["--cases", "metrics", "--variants", "jaccard", "dice", *small, "--runs", "2"]
    benchmark.main([*options, "--output", str(path)])
    found = json.loads(path.read_text())
    assert found["schema"] == "tcmn-benchmark/1"
    assert {"torch", "monai", "commit", "processor", "time"} <= set(found["surroundings"])
    assert [each["variant"] for each in found["results"]] == ["jaccard", "dice"]
    for each in found["results"]:
        assert each["settings"]["threads"] == 1
        assert each["settings"]["frames"] == 3
        assert len(each["figures"]["ms_per_frame"]["runs"]) == 2
        memory = each["rss_mb"]
        assert 50 < memory["imported"] <= memory["prepared"] <= memory["peak"]
        assert each["peak_device_mb"] is None or torch.cuda.is_available()
    changed = copy.deepcopy(found)
    changed["results"][0]["figures"]["ms_per_frame"]["median"] = 0.0
    assert module("benchmarks.compare").compare(changed, found)[0].times == 0
    with pytest.raises(SystemExit, match="variant jaccard failed, exit code 1"):
        benchmark.main([*options[:4], "--set", "frames=0"])
    assert "Error" in capfd.readouterr().err
    assert not multiprocessing.active_children()


@pytest.mark.heavy
def test_a_new_process_tells_when_its_first_mask_was_there():
    figures = prepare("startup", "torch").run()
    assert 0 < figures["s_monai_imported"] < figures["s_network_ready"] < figures["s_first_mask"]
    figures = module("benchmarks.startup").prepare("imports", {}).run()
    assert 0 <= figures["s_import_bundle"] <= figures["s_import_inference"]


def test_the_profile_accounts_for_all_of_a_frame(tmp_path, capsys):
    picture = tmp_path / "profile.png"
    options = ["--frames", "4", "--size", "48", "--inference_size", "32", "--training_size", "0"]
    options += ["--backends", "torch", "--runs", "1", "--output", str(picture)]
    module("profile_speed").main(options)
    ((times),) = json.loads(capsys.readouterr().out).values()
    times = times["torch"]
    assert {"decode", "encoder", "memory read", "decoder", "memorise", "other"} <= set(times)
    assert all(ms >= 0 for ms in times.values())
    assert times["encoder"] > times["confidence"]
    assert Image.open(picture).size[0] > 500


@pytest.fixture
def device_report():
    return {
        "masks": [{"precision": "float16", "mean": 0.999, "least": 0.99}],
        "training": {"steps": 200, "first_loss": 2.0, "last_loss": 0.5},
    }


def test_a_device_that_gives_the_masks_of_the_cpu_and_learns_is_well(device_report):
    assert module("check_device").faults(device_report) == []


def test_a_device_that_gives_other_masks_or_does_not_learn_is_reported(device_report):
    device_report["masks"][0]["mean"] = 0.7
    device_report["training"]["last_loss"] = float("nan")
    masks, training = module("check_device").faults(device_report)
    assert masks == "float16: expected masks like the CPU's, got a Dice of 0.700"
    assert training == "training: expected a loss below 2.000 after 200 steps, got nan"


def test_a_device_is_checked_from_masks_to_training(monkeypatch, tmp_path, capsys, network):
    checks = module("check_device")
    steps = iter((2.0, 1.0))
    monkeypatch.setattr(checks, "make_network", lambda variant, device: network)
    monkeypatch.setattr(checks, "make_step", lambda variant, settings: lambda: next(steps))
    monkeypatch.setattr(checks, "VIDEOS", ("video",))
    monkeypatch.setattr(checks, "load_tensorrt", lambda device: network)
    monkeypatch.setattr(checks, "LEAST_DICE", 0.9)  # random weights round differently
    options = ["--device", "cpu", "--frames", "3", "--train_steps", "2", "--tensorrt"]
    assert checks.main([*options, "--output_dir", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "device.json").read_text())
    compared = ["float32", "bfloat16", "float16", "tensorrt"]
    assert [row["precision"] for row in report["masks"]] == compared
    assert report["times"][0]["ms_tensorrt"] > 0
    assert report["masks"][0]["least"] == 1.0
    assert report["training"]["last_loss"] == 1.0
    assert report["faults"] == []
    assert "all is well" in capsys.readouterr().out
