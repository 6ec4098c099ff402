import json
import math
from pathlib import Path
from typing import Any

import pytest

from bula.reports import peak_memory_gb, write_metrics, write_plot


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_metrics_are_written_one_value_a_line_with_sorted_keys(tmp_path: Path) -> None:
    file = tmp_path / "metrics" / "x.json"
    write_metrics(file, {"pooled": {"perplexity": 4.0, "items": 2}, "A": {"b": True, "a": "não"}})
    assert file.read_text(encoding="utf-8") == (
        '{\n  "A": {\n    "a": "não",\n    "b": true\n  },\n  "pooled": {\n    "items": 2,\n    "perplexity": 4.0\n  }\n}\n'
    )


@pytest.mark.parametrize(
    ("value", "written"),
    [
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
    ],
)
def test_floats_get_six_significant_digits_and_everything_else_stays_exact(
    tmp_path: Path, value: Any, written: str
) -> None:
    write_metrics(tmp_path / "x.json", {"v": value, "deep": {"v": value}})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text == f'{{\n  "deep": {{\n    "v": {written}\n  }},\n  "v": {written}\n}}\n'
    write_plot(tmp_path / "plot.json", [{"v": value}])
    assert (tmp_path / "plot.json").read_text(
        encoding="utf-8"
    ) == f'[\n  {{\n    "v": {written}\n  }}\n]\n'


BAD = [[1.0], (1, 2), [], None, math.nan, math.inf, -math.inf, {"deeper": 1}]


@pytest.mark.parametrize("value", BAD, ids=repr)
def test_metrics_that_dvc_would_drop_are_refused_and_named(tmp_path: Path, value: Any) -> None:
    file = tmp_path / "x.json"
    file.write_text("old", encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        write_metrics(file, {"items": 3, "A": {"fine": 1.0, "wrong": value}})
    assert str(caught.value).startswith(f"{file}:A.wrong: ")
    if not isinstance(value, dict):
        with pytest.raises(ValueError) as caught:
            write_metrics(file, {"items": 3, "wrong": value})
        assert str(caught.value).startswith(f"{file}:wrong: ")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert file.read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize("value", BAD, ids=repr)
def test_plot_values_that_dvc_could_not_draw_are_refused_and_named(
    tmp_path: Path, value: Any
) -> None:
    with pytest.raises(ValueError) as caught:
        write_plot(tmp_path / "x.json", [{"step": 1, "loss": 1.5}, {"step": 2, "loss": value}])
    assert str(caught.value).startswith(f"{tmp_path / 'x.json'}:loss: ")
    assert list(tmp_path.iterdir()) == []


# Identities


def figures(nats: float) -> dict[str, float]:
    """What one loss implies."""
    return {"perplexity": math.exp(nats), "bits_per_token": nats / math.log(2)}


@pytest.mark.parametrize("nats", [0.0, 0.5, 1.2345678, 9.87654321])
def test_figures_of_one_loss_agree_before_they_are_rounded(tmp_path: Path, nats: float) -> None:
    # Rounded first, they would not: of 1.2345678 nats, 2 ** 1.78110 is 3.43688 and not 3.43689.
    write_metrics(tmp_path / "x.json", {**figures(nats), "A": figures(nats)})
    assert read(tmp_path / "x.json")["perplexity"] == float(f"{math.exp(nats):.6g}")


@pytest.mark.parametrize("share", [1.000001, 0.999999, 2.0])
def test_a_perplexity_that_is_not_two_to_the_bits_is_refused(tmp_path: Path, share: float) -> None:
    wrong = figures(1.2345678)
    wrong["perplexity"] *= share
    for metrics, where in (
        ({"pooled": wrong}, "x.json:pooled: perplexity"),
        (wrong, "x.json: perplexity"),
    ):
        with pytest.raises(ValueError, match=where):
            write_metrics(tmp_path / "x.json", metrics)
    assert list(tmp_path.iterdir()) == []


def test_perplexity_of_bits_by_hand(tmp_path: Path) -> None:
    write_metrics(tmp_path / "x.json", {"perplexity": 8.0, "bits_per_token": 3.0})
    with pytest.raises(ValueError, match=r"perplexity 9\.0 is not 2 \*\* 3\.0"):
        write_metrics(tmp_path / "x.json", {"perplexity": 9.0, "bits_per_token": 3.0})
    assert read(tmp_path / "x.json")["perplexity"] == 8


def test_more_bits_a_byte_than_a_character_are_refused(tmp_path: Path) -> None:
    # Equal where the text is ASCII alone.
    write_metrics(tmp_path / "x.json", {"bits_per_byte": 0.9, "bits_per_character": 0.9})
    write_metrics(tmp_path / "x.json", {"bits_per_byte": 0.9, "bits_per_character": 0.95})
    # The second pair is equal once it is rounded.
    for byte in (1.1, 0.95000001):
        for metrics, where in (
            ({"bits_per_byte": byte, "bits_per_character": 0.95}, r"x\.json: .* bits a byte"),
            (
                {"A": {"bits_per_byte": byte, "bits_per_character": 0.95}},
                r"x\.json:A: .* bits a byte",
            ),
        ):
            with pytest.raises(ValueError, match=where):
                write_metrics(tmp_path / "x.json", metrics)
    assert read(tmp_path / "x.json") == {"bits_per_byte": 0.9, "bits_per_character": 0.95}


# Plots


def test_a_plot_is_one_table_in_the_order_given(tmp_path: Path) -> None:
    write_plot(
        tmp_path / "p" / "x.json", [{"step": 2, "loss": 1.23456789}, {"loss": 1.0, "step": 1}]
    )
    text = (tmp_path / "p" / "x.json").read_text(encoding="utf-8")
    assert (
        text
        == '[\n  {\n    "loss": 1.23457,\n    "step": 2\n  },\n  {\n    "loss": 1.0,\n    "step": 1\n  }\n]\n'
    )


@pytest.mark.parametrize(
    "second", [{"step": 2}, {"step": 2, "loss": 1.0, "split": "dev"}, {"step": 2, "Loss": 1.0}, {}]
)
def test_rows_with_unequal_keys_are_refused(tmp_path: Path, second: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="same keys"):
        write_plot(tmp_path / "x.json", [{"step": 1, "loss": 1.0}, second])
    assert list(tmp_path.iterdir()) == []


def test_a_plot_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without rows"):
        write_plot(tmp_path / "x.json", [])
    assert list(tmp_path.iterdir()) == []


def test_peak_memory_is_in_gigabytes() -> None:
    # An interpreter with pytest takes more than 20 MB, and no test of this project 100 GB; in KB or MB it would be outside.
    assert 0.02 < peak_memory_gb() < 100
