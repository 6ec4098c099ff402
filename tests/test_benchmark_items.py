"""Test names, slices and groups of benchmark items, and clustered standard errors."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from bench.clones import ROOT
from bula.errors import UserError
from bula.params import load_params
from bula.records import Row
from stages.benchmark.items import Item, name_documents, read_items, refuse_shared_names
from stages.benchmark.scores import summarise


def fake_task(documents: list[Row], **metadata: str) -> Any:
    """Return what the stage reads of lm-eval's task."""
    return SimpleNamespace(eval_docs=documents, config=SimpleNamespace(metadata=metadata))


def test_a_slice_with_the_name_of_another_task_is_refused() -> None:
    items = {"bula_contrast": [Item("a", "dose", "")], "bula_contrast_dose": []}
    with pytest.raises(UserError, match="bula_contrast_dose names a task and a slice"):
        refuse_shared_names(items)


@pytest.mark.parametrize("name", ["Dose", "1", "dose mg", "a" * 41])
def test_a_slice_that_cannot_name_a_figure_is_refused(name: str) -> None:
    task = fake_task([{"slice": "dose"}, {"slice": name}])
    with pytest.raises(UserError, match=r"the items of bula_own: a `slice` .* lower_case_1"):
        read_items({"bula_own": task})


def test_items_without_a_slice_or_group_have_empty_names() -> None:
    # datasets fills columns that an item lacks with None.
    task = fake_task([{"slice": None, "group": None}, {}])
    first, second = read_items({"bula_own": task})["bula_own"]
    assert (first.slice, first.group, second.slice, second.group) == ("", "", "", "")


def test_a_task_without_items_is_refused() -> None:
    with pytest.raises(UserError, match="task bula_own: it has no items"):
        read_items({"bula_own": fake_task([])})


def test_repeated_items_have_names_of_their_own() -> None:
    one, two = {"question": "Dói?", "label": 0}, {"question": "Arde?", "label": 0}
    names = name_documents([one, two, one, one])
    assert names == [names[0], names[1], f"{names[0]}-2", f"{names[0]}-3"]
    assert len(set(names)) == 4
    # The order of columns does not matter, and every column does.
    assert name_documents([{"label": 0, "question": "Dói?"}]) == names[:1]
    assert name_documents([one | {"label": 1}]) != names[:1]


def test_items_of_one_group_share_its_name() -> None:
    rows = [{"group": "a"}, {"group": "b"}, {"group": "a"}, {"group": ""}]
    groups = [item.group for item in read_items({"bula_own": fake_task(rows)})["bula_own"]]
    assert groups[0] == groups[2] != groups[1]
    assert groups[3] == ""


def test_the_metadata_of_a_task_name_the_column_of_groups() -> None:
    rows = [{"title": "x", "group": "a"}, {"title": "x", "group": "b"}]
    own = fake_task(rows, group="title")
    first, second = read_items({"bula_own": own})["bula_own"]
    assert first.group == second.group
    lacking = fake_task([{"title": "x"}, {"group": "a"}], group="title")
    message = "task bula_own: its metadata name the column title for groups, which an item lacks"
    with pytest.raises(UserError, match=message):
        read_items({"bula_own": lacking})


def test_completions_of_squad_form_groups_by_title() -> None:
    rows = [{"title": "x", "text": "a"}, {"title": "x", "text": "b"}, {"text": "c"}]
    items = read_items({"squad_completion": fake_task(rows)})["squad_completion"]
    assert items[0].group == items[1].group != items[2].group == ""


def score_row(correct: float) -> Row:
    """Return a row of an item with two options."""
    scores = {"acc": correct}
    return {"task": "bula_contrast", "options": 2, "answer": "0", "scores": scores}


def test_groups_are_the_clusters_of_the_standard_error() -> None:
    # Residuals of 1, 1, 0, 0 are 0.5, 0.5, -0.5, -0.5. Groups total 1 and -1: the variance is
    # (1 + 1 + 1 / 3) / 16. Independent items have 1 / 3 / 4.
    rows = [score_row(value) for value in (1.0, 1.0, 0.0, 0.0)]
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    alone = summarise(rows, params)["bula_contrast"]
    assert alone["acc_stderr"] == pytest.approx(math.sqrt(1 / 12))
    assert "groups" not in alone
    for row, group in zip(rows, "aabb", strict=True):
        row["group"] = group
    clustered = summarise(rows, params)["bula_contrast"]
    assert clustered["acc_stderr"] == pytest.approx(math.sqrt(7 / 48))
    assert clustered["groups"] == 2
