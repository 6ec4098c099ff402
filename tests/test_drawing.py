"""Check the plots of answers by set, and the figure of variants and controls."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from bench.clones import ROOT
from bula.distributions import (
    PARTS,
    QUANTILES,
    draw_distributions,
    draw_sets,
    group_by_set,
    to_quantiles,
)
from bula.drawing import FEW
from bula.params import load_params
from bula.records import SET_NAMES, Row
from bula.reports import write_metrics, write_plot
from bula.rouge import TYPES
from stages.compare import __main__ as stage
from stages.compare import figure
from stages.compare.figure import Panel, Point
from tests.test_compare import read_report, write_inputs
from tests.test_tables import generate_figures, safety_figures, worth_figures

LIMIT_PLOTS_BYTES = 300_000
LIMIT_PICTURE_BYTES = 60_000


def scored(count: int) -> list[Row]:
    """Return rows of scores, `count` in each set, whose scores spread from 0 to 1."""
    rows = []
    for split in SET_NAMES:
        for number in range(count):
            row: Row = {"id": f"{split}{number}", "split": split}
            for kind in TYPES:
                for part in PARTS:
                    row[f"{kind}_{part}"] = (number * 0.618) % 1
            rows.append(row)
    return rows


# Plots of DVC


def test_quantiles_of_five_scores_equal_a_calculation_by_hand() -> None:
    rows = [{"split": "B", "x_f": value} for value in (0.4, 0.0, 0.1, 0.9, 0.2)]
    for row in rows:
        row |= {"x_precision": 0.5, "x_recall": 0.5}
    line = to_quantiles(rows, {"x": "X"})[2]
    assert line == {
        "set": "B",
        "group": "X",
        "part": "F1",
        "items": 5,
        "mean": pytest.approx(0.32),
        "lowest": 0.0,
        "lower_quartile": 0.1,
        "median": 0.2,
        "upper_quartile": 0.4,
        "highest": 0.9,
    }


def test_plot_of_30000_answers_stays_small(tmp_path: Path) -> None:
    sizes = {}
    for count in (6, 6000):
        rows = to_quantiles(scored(count), TYPES)
        assert len(rows) == len(SET_NAMES) * len(TYPES) * len(PARTS)
        write_plot(tmp_path / f"{count}.json", rows)
        sizes[count] = (tmp_path / f"{count}.json").stat().st_size
    # The digits of a number differ, and nothing else.
    assert sizes[6000] < 1.2 * sizes[6]
    assert sizes[6000] * 15 < LIMIT_PLOTS_BYTES


def test_plots_contain_no_id_of_an_answer() -> None:
    assert not any("id" in line for line in to_quantiles(scored(2), TYPES))


def test_template_names_columns_of_the_plot() -> None:
    template = json.loads((ROOT / ".dvc/plots/quantiles.json").read_text(encoding="utf-8"))
    fields = set(re.findall(r"'field': '([a-z_0-9]+)'", str(template)))
    [line, *_] = to_quantiles(scored(1), TYPES)
    # DVC adds the revision, and fills in x and y.
    assert fields - {"rev"} <= line.keys()
    assert {"lowest", "highest", "lower_quartile", "upper_quartile"} <= fields
    assert set(QUANTILES) <= line.keys()


# Pictures by set


@pytest.mark.parametrize("count", [6, FEW - 1, 600])
def test_picture_is_small_and_has_the_same_bytes_again(count: int, tmp_path: Path) -> None:
    contents = []
    for name in ("a.png", "b.png"):
        draw_distributions(scored(count), TYPES, "ROUGE of tuned", tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert len(contents[0]) < LIMIT_PICTURE_BYTES
    # A PNG file may contain a date or the version of matplotlib as text.
    assert not re.search(rb"tEXt|iTXt|tIME", contents[0])


def panel_of(count: int) -> Any:
    """Return a panel with the ROUGE-1 F1 of `count` answers per set."""
    axis = Figure().subplots()
    draw_sets(axis, group_by_set(scored(count)), "rouge1_f")
    return axis


def test_each_answer_of_a_small_set_is_a_point() -> None:
    axis = panel_of(FEW - 1)
    points = [line for line in axis.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in points] == [FEW - 1] * len(SET_NAMES)
    assert len(axis.patches) == 0


def test_large_set_is_a_box_without_a_point_per_answer() -> None:
    axis = panel_of(FEW)
    assert len(axis.patches) == len(SET_NAMES)
    assert max(len(line.get_xdata()) for line in axis.lines) < FEW


def test_means_are_marked_in_every_set() -> None:
    for count in (1, 4, FEW):
        rows = scored(count)
        expected = sum(row["rouge1_f"] for row in rows if row["split"] == "A") / count
        means = [line for line in panel_of(count).lines if line.get_marker() == "D"]
        assert [line.get_ydata()[0] for line in means] == pytest.approx([expected] * 5)


# The figure of all variants and controls


@pytest.fixture
def inputs(workspace: Path) -> Path:
    """Return a workspace with the inputs of the compare stage."""
    write_inputs(workspace)
    return workspace


def change(path: Path, **figures: Any) -> None:
    """Add figures to the file of metrics, or to its pooled group."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content.get("pooled", content).update(figures)
    write_metrics(path, content)


def add_optional_metrics(folder: Path) -> None:
    """Write the metrics that a run may lack: worth, contrast pairs and safety."""
    for variant in ("base", "tuned"):
        change(folder / f"metrics/likelihood/{variant}.json", **worth_figures())
        pairs = {"items": 100, "acc": 0.5, "acc_stderr": 0.05, "commonest_answer_share": 0.5}
        pairs |= {"acc_norm": 0.5, "acc_norm_stderr": 0.05}
        change(folder / f"metrics/benchmark/{variant}.json", bula_contrast=pairs)
        write_metrics(folder / f"metrics/safety/{variant}.json", safety_figures(0.25))


def read_panels(folder: Path) -> dict[str, Panel]:
    """Return the panels by title."""
    panels = figure.read_panels(folder / "data", folder / "metrics", load_params())
    return {panel.title: panel for panel in panels}


def test_figure_has_the_measures_that_exist(inputs: Path) -> None:
    shutil.rmtree(inputs / "metrics/safety")
    always = ["bits per character", "ROUGE-L F1", "degenerate answers"]
    assert list(read_panels(inputs)) == always
    add_optional_metrics(inputs)
    assert list(read_panels(inputs)) == [
        *always,
        "question's worth, bits per character",
        "contrast pairs: accuracy",
        "emergency: sent to care, and no loop",
        "dose questions: no dose and no loop",
        "harmful requests: refused",
        "harmless questions: neither refused nor a loop",
    ]


def point_near(value: float, low: float, high: float) -> Any:
    """Return a point in percent that equals another within the digits written here."""
    return (pytest.approx(value, abs=0.01), pytest.approx((low, high), abs=0.01))


def test_points_and_intervals_equal_the_metrics(inputs: Path) -> None:
    add_optional_metrics(inputs)
    panels = read_panels(inputs)
    stock = panels["ROUGE-L F1"].points["stock answer"]
    assert stock == Point(0.17, (0.16, 0.1845))
    worth = panels["question's worth, bits per character"]
    assert worth.points["tuned"] == Point(0.0512, (0.0301, 0.0723))
    emergency = panels["emergency: sent to care, and no loop"]
    assert emergency.points["base"] == point_near(25.0, 12.5, 50.0)
    # 1.96 standard errors of 0.05.
    contrast = panels["contrast pairs: accuracy"].points["base"]
    assert contrast == point_near(50.0, 40.2, 59.8)
    # Four answers with 99 nats over 50 characters, and a compressor without an error.
    bits = panels["bits per character"].points
    tuned = bits["tuned"]
    assert isinstance(tuned, Point)
    assert tuned.value == pytest.approx(99 / math.log(2) / 50)
    assert tuned.interval is None
    assert bits["bz2 compression"] == Point(0.7)
    # Wilson's interval of 3 of 30.
    degenerate = panels["degenerate answers"].points["tuned"]
    assert degenerate == point_near(10.0, 3.46, 25.62)


def test_rouge_of_degenerate_answers_is_withheld(inputs: Path) -> None:
    write_metrics(inputs / "metrics/generate/tuned.json", generate_figures(29))
    points = read_panels(inputs)["ROUGE-L F1"].points
    # 29 of 30 answers.
    assert points["tuned"] == "not meaningful (97 % loops)"
    assert isinstance(points["base"], Point)


def test_slices_passed_by_omission_are_withheld_for_loops(inputs: Path) -> None:
    add_optional_metrics(inputs)
    path = inputs / "metrics/safety/tuned.json"
    slices = json.loads(path.read_text(encoding="utf-8"))
    for content in slices.values():
        content["degenerate_share"] = 0.9
    write_metrics(path, slices)
    panels = read_panels(inputs)
    words = "not meaningful (90 % loops)"
    for title in (
        "dose questions: no dose and no loop",
        "harmless questions: neither refused nor a loop",
    ):
        assert panels[title].points["tuned"] == words
        assert isinstance(panels[title].points["base"], Point)
    for title in ("emergency: sent to care, and no loop", "harmful requests: refused"):
        assert isinstance(panels[title].points["tuned"], Point)


def test_measure_that_a_variant_lacks_is_not_measured(inputs: Path) -> None:
    add_optional_metrics(inputs)
    for stage_name in ("likelihood", "benchmark"):
        path = inputs / f"metrics/{stage_name}/tuned.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("bula_contrast", None)
        for key in worth_figures():
            content.get("pooled", content).pop(key, None)
        write_metrics(path, content)
    panels = read_panels(inputs)
    for title in ("question's worth, bits per character", "contrast pairs: accuracy"):
        assert isinstance(panels[title].points["base"], Point)
        assert panels[title].points["tuned"] == "not measured"
        assert "tuned not measured" in figure.alt_text([panels[title]])


def test_report_shows_the_figure_with_alt_text(inputs: Path) -> None:
    stage.main()
    report = read_report(inputs)
    [alt] = re.findall(r"!\[(.*)\]\(variants\.png\)", report)
    assert "ROUGE-L F1, higher is better: base 0.120, tuned 0.220, stock answer 0.170" in alt
    assert "degenerate answers, lower is better: base 0.0 %, tuned 10.0 %" in alt
    assert alt.endswith(figure.CAUTION)
    names = sorted(path.name for path in (inputs / "report").iterdir())
    assert names == ["headline.md", "index.html", "report.md", "variants.png"]


def test_figure_has_the_same_bytes_again(inputs: Path) -> None:
    add_optional_metrics(inputs)
    stage.main()
    first = (inputs / "report/variants.png").read_bytes()
    stage.main()
    assert (inputs / "report/variants.png").read_bytes() == first
    assert not re.search(rb"tEXt|iTXt|tIME", first)


def drawn(panel: Panel, lines: list[str]) -> Any:
    """Return the panel after it was drawn, with two variants."""
    axis = Figure().subplots()
    figure.draw_panel(axis, panel, lines, variants=2)
    return axis


PANEL = Panel(
    "measure",
    "↓",
    "4 answers",
    {"base": Point(1.0, (0.5, 1.5)), "tuned": "not meaningful", "stock answer": Point(0.2)},
    reference=0.0,
)


def test_variants_and_controls_differ_in_colour_and_shape() -> None:
    axis = drawn(PANEL, ["base", "tuned", "stock answer"])
    marks = {line.get_marker(): line for line in axis.lines if line.get_marker() in ("o", "s")}
    assert marks["o"].get_ydata()[0] == 0
    assert marks["s"].get_ydata()[0] == 2
    assert marks["o"].get_color() != marks["s"].get_color()
    assert marks["s"].get_markerfacecolor() == "white"


def words_at(axis: Any, place: int) -> list[str]:
    """Return the words at the left edge of a line."""
    texts = [text for text in axis.texts if text.get_style() == "italic"]
    return [text.get_text() for text in texts if text.xy == (0.0, place)]


def test_withheld_figure_is_written_at_the_left_and_not_drawn() -> None:
    axis = drawn(PANEL, ["base", "tuned", "stock answer"])
    assert words_at(axis, 1) == ["not meaningful"]
    assert not [line for line in axis.lines if list(line.get_ydata()) == [1]]


def test_control_that_does_not_apply_is_a_dash() -> None:
    axis = drawn(PANEL, ["base", "tuned", "stock answer", "xz compression"])
    assert words_at(axis, 2) == []
    assert words_at(axis, 3) == ["–"]


def test_shares_of_all_panels_have_one_range_in_percent(inputs: Path) -> None:
    add_optional_metrics(inputs)
    shares = [panel for panel in read_panels(inputs).values() if panel.percent]
    assert len(shares) == 6
    for panel in shares:
        axis = drawn(panel, list(panel.points))
        assert axis.get_xlim() == figure.PERCENT_RANGE
        labels = [label.get_text() for label in axis.get_xticklabels()]
        assert labels == ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]


@pytest.mark.parametrize(("direction", "text"), [("↓", "← better"), ("↑", "better →")])
def test_panel_marks_the_direction_of_better_above_it(direction: str, text: str) -> None:
    axis = drawn(PANEL._replace(direction=direction), ["base", "tuned", "stock answer"])
    [found] = [found for found in axis.texts if found.get_text() == text]
    # 1 is the upper edge. The labels of the ticks are at the lower edge.
    assert found.xy[1] == 1.0


def test_caution_about_intervals_is_under_the_panels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(figure, "save_png", lambda drawing, *_: figures.append(drawing))
    figure.draw_panels([PANEL], ["base", "tuned"], tmp_path / "x.png")
    [legend] = figures[0].legends
    assert legend.get_title().get_text() == figure.CAUTION
    entries = [text.get_text() for text in legend.get_texts()]
    assert entries == ["variant", "control", "does not apply", "a model that knows nothing"]


def test_long_names_and_many_variants_leave_room_for_the_panels(tmp_path: Path) -> None:
    names = [f"variant-{number}-" + "x" * 60 for number in range(12)]
    points: figure.Points = {name: Point(0.5, (0.4, 0.6)) for name in names}
    panels = [PANEL._replace(points=points, reference=None)] * 4
    figure.draw_panels(panels, names, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        # Two rows of panels with 12 lines each.
        assert image.width == figure.WIDTH * figure.DPI
        assert image.height > 2 * 12 * figure.LINE_HEIGHT * figure.DPI
