"""Check the form of raters' rows, keys and labels."""

from typing import Any

import pytest
from pydantic import ValidationError

from bula.labels.records import JUDGEMENT, Header, Key, answer_sha256
from tests.labels_data import HEADER, judgement, key_item, make_key, preference


def test_a_finished_judgement_is_accepted() -> None:
    assert JUDGEMENT.validate_python(judgement("one-b")).type == "answer"
    assert JUDGEMENT.validate_python(preference("pair-one", "left")).type == "pair"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"style": 4}, "style"),
        ({"style": True}, "style"),
        ({"style": 2.0}, "style"),
        ({"harm": "some"}, "harm"),
        ({"sentences": ["maybe"]}, "sentences"),
        ({"relevance": None}, "relevance"),
        ({"extra": "x"}, "extra"),
        ({"note": "x" * 2001}, "note"),
        ({"item": "a b"}, "item"),
    ],
)
def test_a_wrong_field_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        JUDGEMENT.validate_python(judgement("one-b", **changes))
    assert field in caught.value.errors()[0]["loc"]


@pytest.mark.parametrize("rater", ["Maria", "r1", "R1 Silva", "", "R1234"])
def test_a_rater_has_a_code_and_no_name(rater: str) -> None:
    with pytest.raises(ValidationError):
        Header.model_validate(HEADER | {"rater": rater})


def change_pair(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the tests' key with another last pair."""
    key = make_key().model_dump()
    key["pairs"][-1] |= changes
    return key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"left": "nobody"}, "an item that the key does not list"),
        ({"left": "two-t"}, "answers to two questions"),
        ({"repeat_of": "pair-none"}, "a pair that the key does not list as a first"),
        ({"repeat_of": "pair-again"}, "a pair that the key does not list as a first"),
        ({"repeat_of": "pair-two"}, "repeats other answers than those of pair-two"),
        ({"pair": "pair-one"}, "an id occurs more than once"),
    ],
)
def test_a_key_whose_parts_do_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Key.model_validate(change_pair(changes))


def test_a_repeated_item_id_is_refused() -> None:
    key = make_key().model_dump()
    key["items"].append(key_item("one-b", "base", 1).model_dump())
    with pytest.raises(ValidationError, match="an id occurs more than once"):
        Key.model_validate(key)


def test_the_hash_of_an_answer_is_that_of_its_bytes() -> None:
    # printf 'dói' | sha256sum
    expected = "b784c20fef0e6b12489b485cb6374fe7a5117ee288f1ea5b8d802f381dd06ea3"
    assert answer_sha256("dói") == expected
