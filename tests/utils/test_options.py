"""What may be typed after ``monai.bundle run``, and one test per message."""

import multiprocessing
import sys

import pytest
import yaml

from bundle.utils.options import (
    check_command_line,
    parse_bool,
    parse_workers,
    print_error,
)

PROGRAM = "/usr/lib/python3/monai/bundle/__main__.py"


@pytest.fixture(autouse=True)
def _keep_excepthook(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "train.yaml"
    content = {
        "imports": ["$import torch"],
        "dataset_dir": "data",
        "epochs": 3,
        "train": {"trainer": {"max_epochs": "@epochs"}, "handlers": [{"interval": 1}]},
        "run": "$print(@epochs)",
    }
    path.write_text(yaml.safe_dump(content))
    return path


def check(*arguments):
    check_command_line(arguments=[PROGRAM, "run", *map(str, arguments)])


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--epochs", "5"],
        ["--epochs=5", "--dataset-dir", "/data set", "--meta_file", "m.json"],
        ["--train#trainer#max_epochs", "2"],
        ["--train::trainer::max_epochs", "2"],
        ["--train#handlers#0#interval=-1"],
        ["--logging_file=False", "--run_id", "run", "--epochs", "-1"],
    ],
)
def test_known_options_pass(config, options):
    check("training", "--config_file", config, *options)
    check(*options, f"--config_file={config}")


@pytest.mark.parametrize(
    ("option", "near"),
    [
        ("--epoch", "--epochs"),
        ("--dataset_dri=x", "--dataset_dir"),
        ("--config_fil", "--config_file"),
        ("--trian", "--train"),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest(config, option, near):
    with pytest.raises(ValueError, match=rf"option {option.split('=')[0]}: did you mean {near}\?"):
        check("training", "--config_file", config, option, "1")


def test_an_option_like_no_other_gets_them_all(config):
    with pytest.raises(ValueError, match=r"--zzz: there are dataset_dir, epochs, run, train$"):
        check("--config_file", config, "--zzz", "1")


@pytest.mark.parametrize("option", ["--train#trainer#epochs", "--train#handlers#1#interval"])
def test_an_id_must_exist_to_its_end(config, option):
    with pytest.raises(ValueError, match=f"unknown option {option}"):
        check("--config_file", config, option, "1")


@pytest.mark.parametrize("form", ["['{}','{}']", "[{}, {}]", '["{}", "{}"]', "{},{}"])
def test_several_configs_count_together(config, tmp_path, form):
    over = tmp_path / "evaluate.yaml"
    over.write_text("protocol: all\ntrain#trainer#amp: true\n")
    files = form.format(config, over)
    check("--config_file", files, "--protocol", "one", "--train#trainer#amp", "0", "--epochs", "1")
    with pytest.raises(ValueError, match=r"did you mean --protocol\?"):
        check("--config_file", files, "--protocoll", "one")


@pytest.mark.parametrize(
    "arguments",
    [
        ["/usr/bin/pytest", "run", "--config_file", "none.yaml", "--zzz"],
        [PROGRAM, "verify_metadata", "--zzz"],
        [PROGRAM, "run", "--args_file", "a.json", "--zzz"],
        [PROGRAM],
        [],
    ],
)
def test_other_command_lines_are_none_of_its_business(arguments):
    check_command_line(arguments=arguments)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dataset_dir", "/patient #12/v.mp4"),
        ("dataset_dir", "#1"),
        ("train#trainer#max_epochs", "a#b"),
    ],
)
def test_a_value_with_a_number_sign_stays_whole(config, option, value):
    resolved = {}
    check_command_line(
        resolved, [PROGRAM, "run", "--config_file", str(config), f"--{option}", value]
    )
    assert resolved == {option.replace("#", "::"): value}


def test_what_begins_with_a_dollar_is_a_path_if_it_is_there(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "$x.mp4").touch()
    arguments = [PROGRAM, "run", "--config_file", str(config), "--dataset_dir", "$x.mp4"]
    resolved = {}
    check_command_line(resolved, [*arguments, "--epochs", "$1 + 1", "--train", "@epochs"])
    assert resolved == {"dataset_dir": "$x.mp4"}


def test_an_old_name_goes_on_working_and_names_the_new_one(config, caplog):
    resolved = {}
    arguments = [PROGRAM, "run", "--config_file", str(config), "--rounds", "5"]
    check_command_line(resolved, arguments, old_names={"rounds": "epochs"})
    assert resolved == {"epochs": 5}
    assert "--rounds is called --epochs now" in caplog.text


def test_an_option_that_is_gone_is_reported(config, caplog):
    resolved = {}
    arguments = [PROGRAM, "run", "--config_file", str(config), "--rounds", "5"]
    check_command_line(resolved, arguments, gone={"rounds": "epochs do"})
    assert resolved == {}
    assert "--rounds does nothing any more: epochs do" in caplog.text


def test_some_sections_are_open_ended(config):
    arguments = [PROGRAM, "run", "--config_file", str(config), "--train#size", "5"]
    check_command_line({}, arguments, open_ended={"train": ["size"]})
    with pytest.raises(ValueError, match=r"unknown option --train#sise: did you mean --train#size"):
        check_command_line({}, [*arguments, "--train#sise", "5"], open_ended={"train": ["size"]})


def test_it_reads_the_process_arguments(config, monkeypatch):
    monkeypatch.setattr(sys, "argv", [PROGRAM, "run", "--config_file", str(config), "--epoch", "1"])
    with pytest.raises(ValueError, match="did you mean --epochs"):
        check_command_line()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), ("true", True), ("TRUE", True), (False, False), ("false", False)],
)
def test_a_switch_is_read_from_many_spellings(value, expected):
    assert parse_bool(value, "resume") is expected


@pytest.mark.parametrize("value", ["yes", "", 0, 1, None, "Flase"])
def test_a_switch_is_true_or_false(value):
    with pytest.raises(ValueError, match=f"--resume must be true or false, got {value!r}"):
        parse_bool(value, "resume")


def test_an_error_is_one_line_even_of_a_name_with_a_line_break(capsys):
    error = FileNotFoundError("no such file: a\nb.avi")
    print_error(FileNotFoundError, error, None)
    assert capsys.readouterr().err == "error: no such file: a\\nb.avi\n"


@pytest.mark.parametrize("value", ["-1", "1.5", "null", "two"])
def test_workers_are_counted(value):
    assert parse_workers("2") == 2
    with pytest.raises(
        ValueError, match=f"--workers must be a whole number from 0 on, got '{value}'"
    ):
        parse_workers(value)


def test_a_folder_for_temporary_files_where_workers_would_wait_for_ever(tmp_path, monkeypatch):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", str(folder))
    with pytest.raises(
        OSError, match=r"path too long\. Set TMPDIR to another folder, or --workers 0"
    ):
        parse_workers(1)
    assert parse_workers(0) == 0
