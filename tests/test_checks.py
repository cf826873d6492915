"""What a check allows, against statements of its own; what it refuses is one sentence."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmsgd_bench import checks
from tmsgd_bench.errors import ConfigError

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()), st.just({"a": 1})
)


def allowed(check: checks.Check, value: Any) -> bool:
    try:
        check("group.setting", value)
    except ConfigError as error:
        assert "group.setting" in str(error) and "\n" not in str(error)
        return False
    return True


@given(ANYTHING)
def test_a_whole_number_is_one_in_its_range(value: Any) -> None:
    assert allowed(checks.whole(-2, 3), value) == (type(value) is int and value in range(-2, 4))


@given(ANYTHING)
def test_a_number_is_finite_and_in_its_range(value: Any) -> None:
    number = type(value) in (int, float) and math.isfinite(value)
    assert allowed(checks.number(0, 2, 1, above=True), value) == (number and 0 < value <= 2)
    assert allowed(checks.number(0, 2, 1, below=True), value) == (number and 0 <= value < 2)


@given(ANYTHING)
def test_a_flag_is_true_or_false_and_no_other_choice_is(value: Any) -> None:
    assert allowed(checks.flag(), value) == (value is True or value is False)
    assert allowed(checks.choice("auto", True), value) == (value is True or value == "auto")
    assert allowed(checks.optional(checks.flag()), value) == (value is None or value is True or value is False)


@given(ANYTHING | st.from_regex(r"[a-z0-9._+-]{1,70}", fullmatch=True))
def test_a_name_is_the_name_of_a_visible_file(value: Any) -> None:
    fine = isinstance(value, str) and 0 < len(value) <= 64 and value.isascii() and value[0].isalnum()
    assert allowed(checks.name(), value) == (fine and set(value) <= {*"-_.+", *filter(str.isalnum, value)})


@given(ANYTHING)
def test_text_is_printed_on_one_line_and_holds_no_tag(value: Any) -> None:
    if allowed(checks.text(), value):
        assert isinstance(value, str) and value.isprintable() and "<" not in value and 0 < len(value) <= 200
    assert allowed(checks.text(), "TM-SGD (auto)") and not allowed(checks.text(), "<b>")


@given(ANYTHING)
def test_a_list_has_items_that_are_allowed(value: Any) -> None:
    fine = isinstance(value, list) and 1 <= len(value) <= 2 and all(item in (0, 1) for item in value)
    assert allowed(checks.items(checks.whole(0, 1), 1, 2), value) == fine


@given(ANYTHING | st.dictionaries(st.from_regex(r"[a-z0-9+/]{1,5}", fullmatch=True), st.integers(0, 2)))
def test_a_mapping_has_names_for_what_is_allowed(value: Any) -> None:
    named = isinstance(value, dict) and all(allowed(checks.name(), key) for key in value)
    assert allowed(checks.keyed(), value) == named
    fine = named and len(value) >= 2 and all(item in (0, 1) for item in value.values())
    assert allowed(checks.keyed(checks.whole(0, 1), 2), value) == fine


SECTION = checks.Section({"size": checks.whole(1)}, {"word": checks.choice("a", "b")})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "setting 'model.size' is missing"),
        ({"size": 1, "sise": 2}, "unknown setting 'model.sise': did you mean 'size'?"),
        ({"size": 1, "x": 2}, "unknown setting 'model.x': the settings there are size, word."),
        ({"size": 1, "word": "c"}, "model.word must be one of a, b, not 'c': set it with model.word=a, say."),
        (5, "model must have the keys size, word, not 5: set one of them, as in model.size=VALUE."),
        ({"size": "x" * 500}, "(502 characters)"),
    ],
)
def test_a_group_says_what_is_wrong_with_it(values: Any, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        SECTION("model", values)
    assert message in str(raised.value)


def test_a_variant_is_checked_by_its_own_section() -> None:
    either = checks.Variants("kind", {"one": SECTION, "two": checks.Section({})})
    either("model", {"kind": "one", "size": 1})
    either("model", {"kind": "two"})
    for wrong in ({"kind": "two", "size": 1}, {"kind": "one"}, {"kind": [1]}, {}, 3):
        with pytest.raises(ConfigError, match="model"):
            either("model", wrong)
