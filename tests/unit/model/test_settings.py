"""Insula's own settings among a function's tags."""

from __future__ import annotations

import pytest

from insula.model.errors import InvalidParameterValueException
from insula.model.settings import FunctionSettings, function_settings


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ({}, FunctionSettings()),
        ({"team": "insula:x", "Insula:proactive": "many"}, FunctionSettings()),
        ({"insula:evict-idle": "true"}, FunctionSettings(evict_idle=True)),
        ({"insula:evict-idle": "false", "insula:proactive": "0"}, FunctionSettings(proactive=0)),
        ({"insula:proactive": "100"}, FunctionSettings(proactive=100)),
    ],
)
def test_settings_are_read_from_tags(tags: dict[str, str], wanted: FunctionSettings) -> None:
    assert function_settings(tags) == wanted


@pytest.mark.parametrize(
    "tags",
    [
        {"insula:": "x"},
        {"insula:evict": "true"},
        {"insula:evict-idle": "True"},
        {"insula:evict-idle": ""},
        {"insula:proactive": "101"},
        {"insula:proactive": "-1"},
        {"insula:proactive": "1.0"},
        {"insula:proactive": "٣"},
        {"insula:proactive": "9" * 256},
    ],
)
def test_any_other_tag_of_insula_is_refused_with_those_that_exist(tags: dict[str, str]) -> None:
    with pytest.raises(InvalidParameterValueException) as caught:
        function_settings(tags)
    assert next(iter(tags)) in caught.value.message
    assert caught.value.message.endswith(
        "The tags of Insula are insula:evict-idle (true or false) and insula:proactive (an integer, 0 to 100)."
    )
