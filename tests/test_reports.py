"""Check the format of metrics and plots, and refused values."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bula.reports import peak_memory_gb, write_metrics, write_plot


def read(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


# Format


def test_metrics_have_sorted_keys_and_one_value_per_line(tmp_path: Path) -> None:
    file = tmp_path / "metrics" / "x.json"
    write_metrics(file, {"pooled": {"perplexity": 4.0, "items": 2}, "A": {"b": True, "a": "não"}})
    assert file.read_text(encoding="utf-8").splitlines() == [
        "{",
        '  "A": {',
        '    "a": "não",',
        '    "b": true',
        "  },",
        '  "pooled": {',
        '    "items": 2,',
        '    "perplexity": 4.0',
        "  }",
        "}",
    ]
    assert file.read_bytes().endswith(b"}\n")


VALUES = [
    (2 / 3, "0.666667"),
    (1.23456789, "1.23457"),
    (0.000123456789, "0.000123457"),
    (1234567.89, "1234570.0"),
    (-1.0000004, "-1.0"),
    (1e-300, "1e-300"),
    (0.1 + 0.2, "0.3"),
    (3, "3"),
    (1_235_814_400, "1235814400"),
    (2**70 + 1, "1180591620717411303425"),
    (True, "true"),
    ("1.23456789", '"1.23456789"'),
]


@pytest.mark.parametrize(("value", "written"), VALUES)
def test_metrics_round_floats_to_six_significant_digits(
    tmp_path: Path, value: Any, written: str
) -> None:
    write_metrics(tmp_path / "x.json", {"v": value, "deep": {"v": value}})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text == f'{{\n  "deep": {{\n    "v": {written}\n  }},\n  "v": {written}\n}}\n'


@pytest.mark.parametrize(("value", "written"), VALUES)
def test_plots_round_floats_to_six_significant_digits(
    tmp_path: Path, value: Any, written: str
) -> None:
    write_plot(tmp_path / "plot.json", [{"v": value}])
    text = (tmp_path / "plot.json").read_text(encoding="utf-8")
    assert text == f'[\n  {{\n    "v": {written}\n  }}\n]\n'


def test_a_plot_keeps_the_order_of_its_rows(tmp_path: Path) -> None:
    rows = [{"step": 2, "loss": 1.23456789}, {"loss": 1.0, "step": 1}]
    write_plot(tmp_path / "p" / "x.json", rows)
    assert (tmp_path / "p" / "x.json").read_text(encoding="utf-8").splitlines() == [
        "[",
        "  {",
        '    "loss": 1.23457,',
        '    "step": 2',
        "  },",
        "  {",
        '    "loss": 1.0,',
        '    "step": 1',
        "  }",
        "]",
    ]


# Refusals

LISTS_AND_NULL = [[1.0], (1, 2), [], None]
NOT_FINITE = [math.nan, math.inf, -math.inf]
NESTED = {"deeper": 1}


@pytest.mark.parametrize("value", [*LISTS_AND_NULL, *NOT_FINITE, NESTED], ids=repr)
def test_a_value_that_dvc_drops_is_refused_inside_a_group_of_metrics(
    tmp_path: Path, value: Any
) -> None:
    file = tmp_path / "x.json"
    file.write_text("old", encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        write_metrics(file, {"items": 3, "A": {"fine": 1.0, "wrong": value}})
    assert str(caught.value).startswith(f"{file}:A.wrong: ")
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize("value", [*LISTS_AND_NULL, *NOT_FINITE], ids=repr)
def test_a_value_that_dvc_drops_is_refused_at_the_top_of_metrics(
    tmp_path: Path, value: Any
) -> None:
    file = tmp_path / "x.json"
    file.write_text("old", encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        write_metrics(file, {"items": 3, "wrong": value})
    assert str(caught.value).startswith(f"{file}:wrong: ")
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text(encoding="utf-8") == "old"


def test_an_empty_group_of_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.json:A: the group has no figure"):
        write_metrics(tmp_path / "x.json", {"items": 3, "A": {}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [*LISTS_AND_NULL, *NOT_FINITE, NESTED], ids=repr)
def test_a_value_that_dvc_cannot_draw_is_refused_in_a_plot(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ValueError) as caught:
        write_plot(tmp_path / "x.json", [{"step": 1, "loss": 1.5}, {"step": 2, "loss": value}])
    assert str(caught.value).startswith(f"{tmp_path / 'x.json'}:loss: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "second", [{"step": 2}, {"step": 2, "loss": 1.0, "split": "dev"}, {"step": 2, "Loss": 1.0}, {}]
)
def test_plot_rows_with_unequal_keys_are_refused(tmp_path: Path, second: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="same keys"):
        write_plot(tmp_path / "x.json", [{"step": 1, "loss": 1.0}, second])
    assert list(tmp_path.iterdir()) == []


def test_a_plot_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without rows"):
        write_plot(tmp_path / "x.json", [])
    assert list(tmp_path.iterdir()) == []


# Identities


def figures(nats: float) -> dict[str, float]:
    """Return the figures that follow from one loss in nats."""
    return {"perplexity": math.exp(nats), "bits_per_token": nats / math.log(2)}


@pytest.mark.parametrize("nats", [0.0, 0.5, 1.2345678, 9.87654321])
def test_identities_are_checked_before_rounding(tmp_path: Path, nats: float) -> None:
    # After rounding, 1.2345678 nats would be refused: 2 ** 1.78110 is 3.43688, and not 3.43689.
    write_metrics(tmp_path / "x.json", {**figures(nats), "A": figures(nats)})
    assert read(tmp_path / "x.json")["perplexity"] == float(f"{math.exp(nats):.6g}")


@pytest.mark.parametrize("share", [1.000001, 0.999999, 2.0])
@pytest.mark.parametrize("group", ["", "pooled"])
def test_a_perplexity_that_differs_from_two_to_the_bits_is_refused(
    tmp_path: Path, share: float, group: str
) -> None:
    wrong = figures(1.2345678)
    wrong["perplexity"] *= share
    metrics: Any = {group: wrong} if group else wrong
    where = f"x.json:{group}" if group else "x.json"
    with pytest.raises(ValueError, match=f"{where}: perplexity"):
        write_metrics(tmp_path / "x.json", metrics)
    assert list(tmp_path.iterdir()) == []


def test_three_bits_are_a_perplexity_of_eight(tmp_path: Path) -> None:
    write_metrics(tmp_path / "x.json", {"perplexity": 8.0, "bits_per_token": 3.0})
    with pytest.raises(ValueError, match=r"perplexity 9\.0 is not 2 \*\* 3\.0"):
        write_metrics(tmp_path / "x.json", {"perplexity": 9.0, "bits_per_token": 3.0})
    assert read(tmp_path / "x.json")["perplexity"] == 8


@pytest.mark.parametrize("per_character", [0.9, 0.95], ids=["ASCII text", "other text"])
def test_bits_per_byte_may_reach_bits_per_character(tmp_path: Path, per_character: float) -> None:
    metrics = {"bits_per_byte": 0.9, "bits_per_character": per_character}
    write_metrics(tmp_path / "x.json", metrics)
    assert read(tmp_path / "x.json") == metrics


@pytest.mark.parametrize("per_byte", [1.1, 0.95000001], ids=["far", "equal after rounding"])
@pytest.mark.parametrize("group", ["", "A"])
def test_more_bits_per_byte_than_per_character_are_refused(
    tmp_path: Path, per_byte: float, group: str
) -> None:
    wrong = {"bits_per_byte": per_byte, "bits_per_character": 0.95}
    metrics: Any = {group: wrong} if group else wrong
    where = f"x.json:{group}" if group else "x.json"
    with pytest.raises(ValueError, match=f"{where}: .* bits per byte"):
        write_metrics(tmp_path / "x.json", metrics)
    assert list(tmp_path.iterdir()) == []


# Memory


def test_peak_memory_is_in_gigabytes() -> None:
    # An interpreter with pytest takes more than 20 MB, and no test takes 100 GB.
    assert 0.02 < peak_memory_gb() < 100
