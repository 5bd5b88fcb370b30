"""The settings of inference: how they are read from text, one test per message."""

import pytest

from bundle.inference.settings import PRECISIONS, InferenceSettings, parse_settings
from bundle.utils import devices

DEFAULTS = InferenceSettings()


def test_names_are_those_of_the_modules_that_know_them():
    assert {"auto", *devices.PRECISIONS} == set(PRECISIONS)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("inference_size", "null", None),
        ("inference_size", None, None),
        ("inference_size", "256", 256),
        ("max_memory_frames", "auto", "auto"),
        ("max_memory_frames", "None", None),
        ("max_memory_frames", 7, 7),
        ("spatial_prior", "0.15", 0.15),
        ("spatial_prior", 0.5, 0.5),
        ("spatial_prior", "auto", "auto"),
        ("spatial_prior", "null", None),
        ("review_below", 1, 1.0),
        ("review_below", "0", 0.0),
        ("direction", "forward", "forward"),
        ("memory_every", "3", 3),
    ],
)
def test_settings_are_read_from_text(name, text, value):
    assert getattr(parse_settings(**{name: text}), name) == value


@pytest.mark.parametrize("name", InferenceSettings.__dataclass_fields__)
def test_default_stands_for_the_default(name):
    assert parse_settings(**{name: "default"}) == DEFAULTS


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("inference_size", "many", "a whole number or null, got 'many'"),
        ("inference_size", 2.5, "a whole number or null, got 2.5"),
        ("inference_size", True, "a whole number or null, got True"),
        ("max_memory_frames", "much", "a whole number or auto or null, got 'much'"),
        ("spatial_prior", "wide", "a number or auto or null, got 'wide'"),
        ("review_below", "low", "a number, got 'low'"),
        ("memory_every", None, "a whole number, got None"),
        ("direction", 3, "text, got 3"),
    ],
)
def test_a_value_of_another_kind_is_refused(name, value, expected):
    with pytest.raises(ValueError, match=f"^{name} must be {expected}$"):
        parse_settings(**{name: value})


def test_an_unknown_setting_is_refused():
    with pytest.raises(TypeError, match="working_size"):
        parse_settings(working_size=3)
