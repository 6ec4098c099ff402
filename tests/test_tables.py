"""Check the Markdown tables of results, and the copy of one in the README."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from bench.clones import ROOT, edit_params
from bula.__main__ import app
from bula.commands.results import END, RECORD, START, with_results
from bula.errors import UserError
from bula.params import ApiBackend, Pair, Params, load_params, parse_params, scored_as
from bula.reports import write_metrics
from bula.tables.controls import control_note
from bula.tables.differences import differences_table, p_text
from bula.tables.fidelity import fidelity_table
from bula.tables.figures import read_figures
from bula.tables.portuguese import to_portuguese
from bula.tables.results import headline_table, results_table

# The heads of the columns after the variants, and their empty cells.
CONTROLS = (
    "stock answer | nearest answer | echo of the question "
    "| character 6-gram | bz2 compression | xz compression |"
)
EMPTY = " |  |  |  |  |  |  |"
# The judge found 4 of 7 answers correct, after correction.
ACCURACY = "1.50 ± 0.17 (10 of 10 answers), corrected share of 3: 57 % [20, 90]"


def figures(variant_number: int) -> dict[str, dict[str, Any]]:
    """Return small metrics of one variant, by stage.

    Some figures depend on the variant's number.
    """
    return {
        "generate": generate_figures(3 * (variant_number - 1)),
        "likelihood": {
            "A": {"items": 16, "loss_nats": 9.0},
            "pooled": {
                "items": 80,
                "loss_nats": 2.34567 - variant_number,
                "loss_nats_stderr": 0.0456,
                "perplexity": 10.44 / variant_number,
                "bits_per_character": 0.61249,
                "token_accuracy": 0.6543,
            },
        },
        "rouge": {"pooled": {"items": 40, **rouge_figures(0.1 * variant_number)}},
        "bertscore": {
            "settings": {"encoder": "models/base", "layer": 20},
            "pooled": bertscore_figures(0.5 + 0.1 * variant_number),
        },
        "benchmark": benchmark_figures(0.25 * variant_number),
        "judge": {
            "judge": "tiny-judge",
            "items": 10,
            "scored": 10,
            "failed": 0,
            "accuracy_mean": 1.5,
            "accuracy_stderr": 0.166667,
            "style_mean": 2.25,
            "style_stderr": 0.25,
            **kappa_figures(withheld=False),
            "accuracy_3_corrected_share": 4 / 7,
            "accuracy_3_corrected_share_low": 0.2,
            "accuracy_3_corrected_share_high": 0.9,
        },
        "safety": safety_figures(0.5 * (variant_number - 1)),
    }


def kappa_figures(*, withheld: bool) -> dict[str, float | bool]:
    """Return the agreement of a judge with the author."""
    found: dict[str, float | bool] = {}
    for part in ("accuracy", "style"):
        found[f"{part}_kappa"] = 0.13
        found[f"{part}_kappa_low"] = -0.19
        found[f"{part}_kappa_high"] = 0.47
        found[f"{part}_withheld"] = withheld
    return found


def calibrate_figures(labelled_by: str = "author") -> dict[str, Any]:
    """Return the figures of a judge on 30 gold answers."""
    found: dict[str, Any] = {"judge": "tiny-judge", "labelled_by": labelled_by}
    for part in ("accuracy", "style"):
        kappa = f"{labelled_by}_kappa_{part}"
        found |= {kappa: 0.13, f"{kappa}_low": -0.19, f"{kappa}_high": 0.47}
        bias = f"{part}_length_bias"
        found |= {bias: 0.25, f"{bias}_low": -0.1, f"{bias}_high": 0.55}
        found |= {f"{part}_scored": 27, f"{part}_equal_share": 1 / 3}
        found[f"{part}_abstained_share"] = 0.1
    return found


def safety_figures(share: float) -> dict[str, Any]:
    """Return the figures of the safety questions, and the agreement of the rules."""
    found: dict[str, Any] = {}
    for name in ("emergency", "no_dose", "harmful", "harmless"):
        found[name] = {
            "items": 10,
            "pass_share": share,
            "pass_low": share / 2,
            "pass_high": share + 0.25,
            "degenerate_share": 0.1,
            "refuses_share": 0.3,
            "seeks_care_share": 0.4,
        }
    for number, rule in enumerate(("sends_to_emergency", "gives_dose", "refuses", "seeks_care")):
        found[f"rule_{rule}"] = {
            "items": 60,
            "author_kappa": 0.9 - number / 10,
            "author_kappa_low": 0.5,
            "author_kappa_high": 0.95,
        }
    return found


def control_figures() -> dict[str, dict[str, Any]]:
    """Return small metrics of the controls."""
    return {
        "stock": {"items": 40, "degenerate_share": 0.0, **rouge_figures(0.15)},
        "nearest": {"items": 40, "degenerate_share": 0.025, **rouge_figures(0.13)},
        "echo": {"items": 40, "degenerate_share": 0.0, **rouge_figures(0.05)},
        "ngram": {"items": 80, "order": 6, "bits_per_character": 0.61},
        "gzip": {"items": 80, "bits_per_character": 0.9},
        "bz2": {"items": 80, "bits_per_character": 0.7},
        "xz": {"items": 80, "bits_per_character": 0.8},
    }


def worth_figures() -> dict[str, Any]:
    """Return the figures of the question's worth."""
    return {
        "question_worth_items": 60,
        "question_worth_bits": 0.0512,
        "question_worth_bits_stderr": 0.01,
        "question_worth_bits_low": 0.0301,
        "question_worth_bits_high": 0.0723,
    }


def generate_figures(degenerate: int) -> dict[str, Any]:
    """Return the figures of 30 answers, some of them degenerate."""
    return {
        "items": 30,
        "degenerate": degenerate,
        "degenerate_share": degenerate / 30,
        "settings": {"compute_dtype": "float32"},
    }


def rouge_figures(level: float) -> dict[str, float]:
    """Return the same F1 and interval for each type of ROUGE."""
    found = {}
    for kind in ("rouge1", "rouge2", "rougeL"):
        found[f"{kind}_f"] = level + 0.02
        found[f"{kind}_f_low"] = level + 0.01
        found[f"{kind}_f_high"] = level + 0.0345
    found |= {"chrf": level + 0.03, "chrf_low": level + 0.02, "chrf_high": level + 0.04}
    return found


def bertscore_figures(level: float) -> dict[str, float]:
    """Return the F1 of BERTScore of 40 answers and its interval."""
    return {
        "items": 40,
        "bertscore_f": level,
        "bertscore_f_low": level - 0.01,
        "bertscore_f_high": level + 0.01,
    }


def control_bertscores() -> dict[str, dict[str, Any]]:
    """Return the BERTScore of the controls."""
    return {
        "settings": {"encoder": "models/base", "layer": 20},
        "stock": bertscore_figures(0.75),
        "nearest": bertscore_figures(0.72),
        "echo": bertscore_figures(0.65),
    }


def benchmark_figures(accuracy: float) -> dict[str, Any]:
    """Return the figures of two tasks."""
    return {
        "settings": {"dtype": "bfloat16", "shots": 0},
        "bula_medmcqa": {
            "items": 24,
            "acc": accuracy,
            "acc_stderr": 0.0884,
            "commonest_answer_share": 0.9,
        },
        "bula_squad_completion": {
            "items": 28,
            "contains": 0.5,
            "contains_stderr": 0.0962,
            "commonest_answer_share": 0.1,
        },
    }


def write_stages(folder: Path, variant: str, stages: dict[str, dict[str, Any]]) -> None:
    for stage, metrics in stages.items():
        write_metrics(folder / stage / f"{variant}.json", metrics)


def variants(*names: str) -> Params:
    """Return the default parameters with these variants, each compared with base."""
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    pairs = [Pair(variant=name, baseline="base") for name in names if name != "base"]
    compare = params.compare.model_copy(update={"pairs": pairs})
    base = params.variants["base"]
    chosen = {name: base.model_copy(update={"model": f"models/{name}"}) for name in names}
    return params.model_copy(update={"variants": chosen, "compare": compare})


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    """Write the metrics of two variants."""
    for number, variant in enumerate(("base", "tuned"), start=1):
        write_stages(tmp_path / "metrics", variant, figures(number))
    write_metrics(tmp_path / "metrics/controls.json", control_figures())
    write_metrics(tmp_path / "metrics/bertscore_controls.json", control_bertscores())
    return tmp_path / "metrics"


def variant_lines(metrics: Path, *names: str) -> list[str]:
    """Return the lines of the table of results, without the columns of the controls."""
    lines = results_table(metrics, variants(*names)).splitlines()
    return [" | ".join(line.split(" | ")[: len(names) + 1]) + " |" for line in lines]


def test_table_has_a_column_per_variant_and_control(metrics: Path) -> None:
    others = "| 0.170 [0.160, 0.184] | 0.150 [0.140, 0.165] | 0.070 [0.060, 0.085] |  |  |  |"
    assert results_table(metrics, variants("base", "tuned")).splitlines() == [
        f"| | base | tuned | {CONTROLS}",
        "|---|---|---|---|---|---|---|---|---|",
        "| degenerate answers, % (30 answers) ↓ | 0.0 | 10.0 |  |  |  |  |  |  |",
        "| loss, nats per token (80 answers) ↓ | 1.346 ± 0.046 | 0.346 ± 0.046" + EMPTY,
        "| perplexity ↓ | 10.44 | 5.22" + EMPTY,
        "| bits per character ↓ | 0.612 | 0.612 |  |  |  | 0.610 | 0.700 | 0.800 |",
        "| token accuracy, % ↑ | 65.4 | 65.4" + EMPTY,
        *(
            f"| {kind} F1 (40 answers) ↑ | 0.120 [0.110, 0.135] | 0.220 [0.210, 0.234] {others}"
            for kind in ("ROUGE-1", "ROUGE-2", "ROUGE-L")
        ),
        "| chrF (40 answers) ↑ | 0.130 [0.120, 0.140] | 0.230 [0.220, 0.240] "
        "| 0.180 [0.170, 0.190] | 0.160 [0.150, 0.170] | 0.080 [0.070, 0.090] |  |  |  |",
        "| BERTScore F1 (models/base, layer 20; 40 answers) ↑ "
        "| 0.600 [0.590, 0.610] | 0.700 [0.690, 0.710] | 0.750 [0.740, 0.760] "
        "| 0.720 [0.710, 0.730] | 0.650 [0.640, 0.660] |  |  |  |",
        "| bula_medmcqa, acc, % (24 items, chance 25 %) ↑ | 25.0 ± 8.8 | 50.0 ± 8.8" + EMPTY,
        "| bula_squad_completion, contains, % (28 items) ↑ | 50.0 ± 9.6 | 50.0 ± 9.6" + EMPTY,
        f"| judge: accuracy, 1 to 3 (tiny-judge) ↑ | {ACCURACY} | {ACCURACY}" + EMPTY,
        "| judge: style, 1 to 3 (tiny-judge) ↑ "
        "| 2.25 ± 0.25 (10 of 10 answers) | 2.25 ± 0.25 (10 of 10 answers)" + EMPTY,
        "| degenerate answers, % (40 answers) ↓ |  |  | 0.0 | 2.5 | 0.0 |  |  |  |",
    ]
    assert results_table(metrics, variants("base", "tuned")).endswith("|\n")


def test_failed_and_empty_answers_are_shown_where_there_are_any(metrics: Path) -> None:
    stages = figures(2)
    stages["generate"] |= {"failed": 3, "failed_share": 0.1, "empty_share": 1 / 27}
    stages["generate"]["degenerate_share"] = 1 / 9
    for name in ("rouge", "bertscore"):
        stages[name]["pooled"]["items"] = 37
    write_stages(metrics, "tuned", stages)
    base = figures(1)
    base["generate"] |= {"failed": 0, "failed_share": 0.0, "empty_share": 0.0}
    write_stages(metrics, "base", base)
    lines = variant_lines(metrics, "base", "tuned")
    for line in (
        "| degenerate answers, % (30 answers) ↓ | 0.0 | 11.1 (27 answers) |",
        "| questions without an answer (failed requests), % ↓ | 0.0 | 10.0 |",
        "| empty answers, % ↓ | 0.0 | 3.7 |",
        "| ROUGE-L F1 (40 answers) ↑ | 0.120 [0.110, 0.135] | 0.220 [0.210, 0.234] (37 answers) |",
        "| chrF (40 answers) ↑ | 0.130 [0.120, 0.140] | 0.230 [0.220, 0.240] (37 answers) |",
        "| BERTScore F1 (models/base, layer 20; 40 answers) ↑ "
        "| 0.600 [0.590, 0.610] | 0.700 [0.690, 0.710] (37 answers) |",
    ):
        assert line in lines
    alone = results_table(metrics, variants("base"))
    assert "failed" not in alone
    assert "empty" not in alone


def test_columns_follow_the_order_of_the_variants(metrics: Path) -> None:
    lines = results_table(metrics, variants("tuned", "base")).splitlines()
    assert lines[0] == f"| | tuned | base | {CONTROLS}"
    assert lines[4] == "| perplexity ↓ | 5.22 | 10.44" + EMPTY
    alone = results_table(metrics, variants("tuned")).splitlines()
    assert alone[4] == "| perplexity ↓ | 5.22" + EMPTY


def test_figures_over_different_items_have_separate_rows(metrics: Path) -> None:
    stages = figures(2)
    stages["rouge"]["pooled"]["items"] = 39
    stages["benchmark"]["extra"] = {
        "items": 4,
        "acc": 1.0,
        "acc_stderr": 0.0,
        "commonest_answer_share": 0.5,
    }
    write_stages(metrics, "tuned", stages)
    lines = variant_lines(metrics, "base", "tuned")
    assert "| ROUGE-L F1 (40 answers) ↑ | 0.120 [0.110, 0.135] |  |" in lines
    assert "| ROUGE-L F1 (39 answers) ↑ |  | 0.220 [0.210, 0.234] |" in lines
    assert "| extra, acc, % (4 items) ↑ |  | 100.0 ± 0.0 |" in lines


@pytest.mark.parametrize(
    ("shares", "mark"),
    [
        ({"commonest_answer_share": 1.0}, " (one answer to all)"),
        ({"commonest_answer_share": 0.95}, " (nearly one answer to all)"),
        ({"commonest_answer_share": 0.949}, ""),
        # The share over options replaces the share over answers where both are known.
        ({"commonest_answer_share": 1.0, "constant_answer_share": 0.5}, ""),
        ({"commonest_answer_share": 0.5, "constant_answer_share": 1.0}, " (one answer to all)"),
    ],
)
def test_constant_answers_are_marked_in_the_table(
    shares: dict[str, float], mark: str, metrics: Path
) -> None:
    stages = figures(2)
    stages["benchmark"]["bula_medmcqa"] |= shares
    write_stages(metrics, "tuned", stages)
    lines = variant_lines(metrics, "base", "tuned")
    assert [line for line in lines if "medmcqa" in line] == [
        f"| bula_medmcqa, acc, % (24 items, chance 25 %) ↑ | 25.0 ± 8.8 | 50.0 ± 8.8{mark} |"
    ]


def test_a_variant_of_the_same_model_names_the_variant_with_its_scores(metrics: Path) -> None:
    params = variants("base", "tuned")
    prompted = params.variants["base"].model_copy(update={"few_shot": 3})
    shared = params.model_copy(update={"variants": params.variants | {"tuned": prompted}})
    lines = results_table(metrics, shared).splitlines()
    [line] = [line for line in lines if "medmcqa" in line]
    label = "bula_medmcqa, acc, % (24 items, chance 25 %) ↑"
    assert line.startswith(f"| {label} | 25.0 ± 8.8 | as base |")


def test_variants_of_one_model_at_a_foreign_server_have_scores_of_their_own(metrics: Path) -> None:
    params = variants("base", "tuned")
    prompted = params.variants["base"].model_copy(update={"few_shot": 3})
    backend = ApiBackend(
        kind="openai",
        base_url="http://127.0.0.1:8000/v1",
        model="served",
        num_concurrent=1,
        timeout_seconds=60,
    )
    benchmark = params.benchmark.model_copy(update={"backend": backend})
    chosen = {"variants": params.variants | {"tuned": prompted}, "benchmark": benchmark}
    shared = params.model_copy(update=chosen)
    assert scored_as(shared, "tuned") == "tuned"
    [line] = [line for line in results_table(metrics, shared).splitlines() if "medmcqa" in line]
    assert " | as base | " not in line
    assert line.count("±") == 2


def test_tasks_without_pinned_items_are_marked_in_the_table(metrics: Path) -> None:
    stages = figures(1)
    stages["benchmark"]["settings"] |= {"bula_medmcqa_pinned": 0, "bula_squad_completion_pinned": 1}
    write_stages(metrics, "base", stages)
    lines = variant_lines(metrics, "base")
    assert "| bula_medmcqa, acc, % (24 items, chance 25 %, not pinned) ↑ | 25.0 ± 8.8 |" in lines
    assert any(line.startswith("| bula_squad_completion, contains, % (28 items)") for line in lines)


def test_scores_of_a_judge_with_a_low_kappa_are_withheld(metrics: Path) -> None:
    stages = figures(1)
    stages["judge"] |= kappa_figures(withheld=True) | {"style_withheld": False}
    write_stages(metrics, "base", stages)
    lines = variant_lines(metrics, "base")
    label = "judge: accuracy, 1 to 3 (tiny-judge) ↑"
    assert f"| {label} | withheld: kappa 0.13 [-0.19, 0.47] |" in lines
    assert "| judge: style, 1 to 3 (tiny-judge) ↑ | 2.25 ± 0.25 (10 of 10 answers) |" in lines


def test_answers_on_which_the_judge_abstained_are_counted(metrics: Path) -> None:
    stages = figures(1)
    stages["judge"] |= {"accuracy_abstained": 3, "style_abstained": 10}
    del stages["judge"]["accuracy_3_corrected_share"]
    del stages["judge"]["style_mean"]
    write_stages(metrics, "base", stages)
    lines = variant_lines(metrics, "base")
    label = "judge: accuracy, 1 to 3 (tiny-judge) ↑"
    assert f"| {label} | 1.50 ± 0.17 (7 of 10 answers, 3 cannot say) |" in lines
    style = "| judge: style, 1 to 3 (tiny-judge) ↑ | – (0 of 10 answers, 10 cannot say) |"
    assert style in lines


def test_slices_of_a_task_have_no_row_of_their_own(metrics: Path) -> None:
    stages = figures(1)
    scores = {"items": 4, "acc": 0.75, "acc_stderr": 0.25, "commonest_answer_share": 0.5}
    # The cloze task is a task of params.yaml, though its name starts with that of another one.
    for name in ("bula_contrast", "bula_contrast_dose", "bula_medmcqa_cloze"):
        stages["benchmark"][name] = scores
    write_stages(metrics, "base", stages)
    rows = [
        line[2:].partition(",")[0] for line in variant_lines(metrics, "base") if ", acc" in line
    ]
    assert rows == ["bula_contrast", "bula_medmcqa", "bula_medmcqa_cloze"]


def write_spreads(metrics: Path, **groups: tuple[float, float, float]) -> None:
    """Write the first value, the mean and the deviation of figures over three seeds."""
    spreads = {
        name: {"first": first, "mean": mean, "stdev": deviation}
        for name, (first, mean, deviation) in groups.items()
    }
    write_metrics(metrics / "seeds.json", {"seeds": 3, **spreads})


TUNED_SPREADS = {
    "tuned__degenerate": (0.1, 0.15, 0.025),
    "tuned__bits_per_character": (0.61249, 0.62, 0.004),
    "tuned__rougeL_f": (0.22, 0.21, 0.015),
    "tuned__bula_medmcqa_acc": (0.5, 0.45, 0.05),
}


def test_a_trained_variant_has_a_column_over_seeds(metrics: Path) -> None:
    write_spreads(metrics, **TUNED_SPREADS)
    lines = results_table(metrics, variants("base", "tuned")).splitlines()
    assert lines[0].startswith("| | base | tuned | tuned, mean ± sd of 3 seeds | stock answer |")
    cells = {line.split(" | ")[0][2:]: line.split(" | ")[3] for line in lines[2:]}
    assert {label: cell for label, cell in cells.items() if cell} == {
        "degenerate answers, % (30 answers) ↓": "15.0 ± 2.5",
        "bits per character ↓": "0.620 ± 0.004",
        "ROUGE-L F1 (40 answers) ↑": "0.210 ± 0.015",
        "bula_medmcqa, acc, % (24 items, chance 25 %) ↑": "45.0 ± 5.0",
    }
    assert "| tuned, mean ± sd of 3 seeds | 15.0 ± 2.5 |" in headline_table(
        metrics, variants("base", "tuned")
    )


def test_the_spread_of_another_run_has_no_column(metrics: Path) -> None:
    # The ROUGE-L of this run is 0.22.
    write_spreads(metrics, **TUNED_SPREADS | {"tuned__rougeL_f": (0.221, 0.21, 0.015)})
    assert "seeds" not in results_table(metrics, variants("base", "tuned"))


def test_rouge_over_seeds_is_withheld_with_that_of_the_run(metrics: Path) -> None:
    write_stages(metrics, "tuned", {"generate": generate_figures(29)})
    write_spreads(metrics, tuned__rougeL_f=(0.22, 0.21, 0.015))
    lines = results_table(metrics, variants("base", "tuned")).splitlines()
    line = next(line for line in lines if line.startswith("| ROUGE-L"))
    assert line.count("not meaningful (97 % loops)") == 2


def test_an_incomplete_spread_is_refused(metrics: Path) -> None:
    write_metrics(metrics / "seeds.json", {"seeds": 3, "tuned__rougeL_f": {"first": 0.22}})
    with pytest.raises(UserError, match=r"the number tuned__rougeL_f\.mean is missing"):
        results_table(metrics, variants("base", "tuned"))


def test_figures_are_shown_at_the_limit_of_degenerate_answers(metrics: Path) -> None:
    # `compare.max_degenerate_share` is 0.2, and 6 of 30 answers do not exceed it.
    write_stages(metrics, "tuned", {"generate": generate_figures(6)})
    assert "not meaningful" not in results_table(metrics, variants("base", "tuned"))


def test_the_table_counts_cut_and_foreign_answers_and_answers_that_seek_care(
    metrics: Path,
) -> None:
    shares = {
        "finish_length_share": 0.5,
        "other_language_share": 1 / 30,
        "seeks_care_share": 0.1,
    }
    write_stages(metrics, "base", {"generate": generate_figures(0) | shares})
    write_stages(metrics, "tuned", {"generate": generate_figures(0)})
    lines = variant_lines(metrics, "base", "tuned")
    assert lines[3:6] == [
        "| answers cut by the limit, % ↓ | 50.0 |  |",
        "| answers in another language, % ↓ | 3.3 |  |",
        "| answers that say when to seek care, % ↑ | 10.0 |  |",
    ]


def test_rouge_and_judge_are_withheld_above_the_limit_of_degenerate_answers(metrics: Path) -> None:
    write_stages(metrics, "tuned", {"generate": generate_figures(29)})
    lines = variant_lines(metrics, "base", "tuned")
    assert lines[2] == "| degenerate answers, % (30 answers) ↓ | 0.0 | 96.7 |"
    withheld = [line for line in lines if line.endswith("| not meaningful (97 % loops) |")]
    starts = [line[2:8] for line in withheld]
    assert starts == ["ROUGE-", "ROUGE-", "ROUGE-", "chrF (", "BERTSc", "judge:", "judge:"]
    assert sum("not meaningful" in line for line in lines) == 7


def test_figures_of_the_other_variant_are_not_withheld(metrics: Path) -> None:
    write_stages(metrics, "tuned", {"generate": generate_figures(29)})
    lines = variant_lines(metrics, "base", "tuned")
    line = "| ROUGE-1 F1 (40 answers) ↑ | 0.120 [0.110, 0.135] | not meaningful (97 % loops) |"
    assert line in lines


def test_hostile_judge_name_adds_no_cell_and_no_markup(metrics: Path) -> None:
    stages = figures(1)
    stages["judge"]["judge"] = "x | ![a](http://b.example) <img src=c>\n| d |"
    write_stages(metrics, "base", stages)
    renderer = MarkdownIt("commonmark", {"html": True}).enable("table")
    page = renderer.render(results_table(metrics, variants("base")))
    plain = renderer.render(results_table(metrics, variants("tuned")))
    for tag in ("<tr>", "<td>", "<img", "<a", "<p>"):
        assert page.count(tag) == plain.count(tag)


def test_scores_of_two_encoders_share_no_row(metrics: Path) -> None:
    other = control_bertscores() | {"settings": {"encoder": "a/b", "layer": 9}}
    write_metrics(metrics / "bertscore_controls.json", other)
    lines = results_table(metrics, variants("base", "tuned")).splitlines()
    assert sum(line.startswith("| BERTScore F1 (a/b, layer 9; 40 answers) ↑ |") for line in lines)
    [own] = [line for line in lines if line.startswith("| BERTScore F1 (models/base")]
    assert own.endswith("| 0.700 [0.690, 0.710] |  |  |  |  |  |  |")


def test_missing_scores_of_the_controls_are_named_with_their_stage(metrics: Path) -> None:
    (metrics / "bertscore_controls.json").unlink()
    with pytest.raises(UserError, match=r"bertscore_controls\.json: .*repro bertscore_controls`"):
        results_table(metrics, variants("base"))


TABLE_STAGES = ("generate", "likelihood", "rouge", "bertscore", "benchmark", "judge")


@pytest.mark.parametrize("stage", TABLE_STAGES)
def test_error_names_the_missing_file_and_its_stage(metrics: Path, stage: str) -> None:
    (metrics / stage / "tuned.json").unlink()
    message = f"{stage}/tuned.json: the file does not exist. Run `dvc repro {stage}@tuned`"
    with pytest.raises(UserError, match=message):
        results_table(metrics, variants("base", "tuned"))


# The question's worth and the controls


def write_worth(metrics: Path, variant_number: int, variant: str) -> None:
    """Write the likelihood of a variant with the question's worth."""
    content = figures(variant_number)["likelihood"]
    content["pooled"] |= worth_figures()
    write_metrics(metrics / f"likelihood/{variant}.json", content)


def test_the_worth_of_the_question_has_an_interval(metrics: Path) -> None:
    write_worth(metrics, 2, "tuned")
    lines = variant_lines(metrics, "base", "tuned")
    label = "| question's worth, bits per character (60 answers) ↑"
    assert f"{label} |  | 0.051 [0.030, 0.072] |" in lines
    # Without the figure, no row mentions it.
    assert not any("question's worth" in line for line in variant_lines(metrics, "base"))


def test_an_incomplete_worth_is_refused(metrics: Path) -> None:
    content = figures(2)["likelihood"]
    content["pooled"] |= {"question_worth_items": 60}
    write_metrics(metrics / "likelihood/tuned.json", content)
    message = r"tuned\.json: the number pooled\.question_worth_bits is missing"
    with pytest.raises(UserError, match=message):
        results_table(metrics, variants("base", "tuned"))


@pytest.mark.parametrize("name", ["stock", "nearest", "echo", "ngram", "bz2", "xz"])
def test_a_missing_control_is_named_with_its_stage(metrics: Path, name: str) -> None:
    figures_of_others = control_figures()
    del figures_of_others[name]
    write_metrics(metrics / "controls.json", figures_of_others)
    message = rf"controls\.json: the group '{name}' is missing. Run `dvc repro controls`"
    with pytest.raises(UserError, match=message):
        results_table(metrics, variants("base", "tuned"))


def against_stock(difference: float, p: float, variant: str = "tuned") -> dict[str, dict[str, Any]]:
    """Return the paired difference between a variant and the stock answer."""
    row = {"difference": difference, "low": difference - 0.02, "high": difference + 0.02, "p": p}
    return {f"{variant}_minus_stock_answer__rougeL_f": row}


def against_ngram(difference: float, p: float) -> dict[str, dict[str, Any]]:
    """Return the paired difference between the tuned variant and the n-gram."""
    row = {"difference": difference, "low": difference - 0.02, "high": difference + 0.02, "p": p}
    return {"tuned_minus_character_6gram__bits_per_character": row}


BEATEN = against_stock(0.05, 0.0499)
FEWER_BITS = against_ngram(-0.001, 0.0499)


def test_note_is_empty_if_all_controls_are_beaten(metrics: Path) -> None:
    # The tuned variant has a ROUGE-L of 0.22 against 0.17.
    params = variants("base", "tuned")
    assert control_note(metrics, params, BEATEN | FEWER_BITS) == ""


UNSURE = "is not surely better than"
WORSE = "does not beat"
STOCK_LEVELS = ("the stock answer on ROUGE-L", "0.220 against 0.170")
NGRAM_LEVELS = ("the character 6-gram in bits per character", "0.612 against 0.610")


@pytest.mark.parametrize(
    ("against", "control", "difference", "p", "verdict"),
    [
        (against_stock, STOCK_LEVELS, 0.05, 0.05, UNSURE),
        (against_stock, STOCK_LEVELS, 0.0, 1.0, UNSURE),
        (against_stock, STOCK_LEVELS, -0.05, 0.05, UNSURE),
        (against_stock, STOCK_LEVELS, -0.05, 0.0499, WORSE),
        (against_ngram, NGRAM_LEVELS, -0.05, 0.05, UNSURE),
        (against_ngram, NGRAM_LEVELS, 0.05, 0.05, UNSURE),
        (against_ngram, NGRAM_LEVELS, 0.05, 0.0499, WORSE),
    ],
)
def test_a_variant_without_a_sure_gain_does_not_beat_a_control(
    against: Callable[[float, float], dict[str, Any]],
    control: tuple[str, str],
    difference: float,
    p: float,
    verdict: str,
    metrics: Path,
) -> None:
    name, levels = control
    # The other control is beaten.
    differences = BEATEN | FEWER_BITS | against(difference, p)
    note = control_note(metrics, variants("base", "tuned"), differences)
    interval = f"{difference:+.3f} [{difference - 0.02:+.3f}, {difference + 0.02:+.3f}]"
    assert note == f"\n**tuned {verdict}** {name} ({levels}, difference {interval}).\n"


@pytest.mark.parametrize(("best", "name"), [("bz2", "bz2 compression"), ("xz", "xz compression")])
def test_bits_are_compared_with_the_best_predictor(best: str, name: str, metrics: Path) -> None:
    controls = control_figures()
    controls[best]["bits_per_character"] = 0.6
    write_metrics(metrics / "controls.json", controls)
    # Compressors have no figures per item, so there is no test, and the n-gram is not named.
    note = control_note(metrics, variants("base", "tuned"), BEATEN | FEWER_BITS)
    assert note == (
        f"\n**tuned does not beat** {name} in bits per character (0.612 against 0.600).\n"
    )
    controls[best]["bits_per_character"] = 0.609
    content = figures(2)["likelihood"]
    content["pooled"]["bits_per_character"] = 0.608
    write_metrics(metrics / "controls.json", controls)
    write_metrics(metrics / "likelihood/tuned.json", content)
    assert control_note(metrics, variants("base", "tuned"), BEATEN) == ""


def test_a_better_compressor_does_not_hide_the_character_ngram(metrics: Path) -> None:
    controls = control_figures()
    controls["bz2"]["bits_per_character"] = 0.6
    write_metrics(metrics / "controls.json", controls)
    note = control_note(metrics, variants("base", "tuned"), BEATEN | against_ngram(0.05, 0.03))
    assert "**tuned does not beat** the character 6-gram" in note
    assert "**tuned does not beat** bz2 compression" in note


def test_a_rounded_difference_of_zero_has_no_minus(metrics: Path) -> None:
    note = control_note(metrics, variants("base", "tuned"), FEWER_BITS | against_stock(-0.0004, 1))
    assert "difference +0.000 [" in note


def test_small_p_values_have_no_exponent() -> None:
    assert p_text(2e-05, {"p_at_floor": True}) == "≤ 0.00002"
    assert p_text(0.0283, {"p_at_floor": False}) == "0.0283"


def test_note_names_all_controls_that_are_not_beaten(metrics: Path) -> None:
    note = control_note(metrics, variants("base", "tuned"), against_stock(-0.05, 0.001))
    assert note.endswith(
        "(0.220 against 0.170, difference -0.050 [-0.070, -0.030]). **tuned does not beat** "
        "the character 6-gram in bits per character (0.612 against 0.610).\n"
    )


def test_a_missing_difference_from_the_stock_answer_is_refused(metrics: Path) -> None:
    message = "the group 'tuned_minus_stock_answer__rougeL_f' is missing. Run `dvc repro compare`"
    with pytest.raises(UserError, match=message):
        control_note(metrics, variants("base", "tuned"), {})


def test_answers_that_are_loops_are_not_compared_with_the_stock_answer(metrics: Path) -> None:
    write_stages(metrics, "tuned", {"generate": generate_figures(29)})
    write_stages(metrics, "other", figures(2))
    differences = against_stock(0.05, 0.001) | against_stock(0.05, 0.001, "other")
    note = control_note(metrics, variants("base", "tuned", "other"), differences)
    assert (
        "**tuned cannot be compared with the stock answer on ROUGE-L**, because 97 % of its "
        "answers are repetitions or have no words. **tuned does not beat** the character 6-gram"
    ) in note
    # One paragraph has the sentences of all variants.
    assert note.count("\n") == 2
    assert "**other does not beat** the character 6-gram" in note
    # The base is no variant of a pair, so nothing promises that it is better.
    assert "**base" not in note


DIFFERENCE = {
    "items": 80,
    "groups": 80,
    "difference": 0.03125,
    "stderr": 0.02,
    "detectable": 0.0560317,
    "low": -0.01,
    "high": 0.0725,
    "p": 0.0411,
    "p_holm": 0.123456,
    "p_at_floor": False,
    "primary": True,
    "constant_answers": False,
    "judge_withheld": False,
    "meaningful": True,
}
AT_FLOOR = DIFFERENCE | {
    "items": 24,
    "groups": 24,
    "difference": -0.5,
    "low": -0.75,
    "high": -0.25,
    "p": 0.0012,
    "p_holm": 0.0036,
    "p_at_floor": True,
}
SEEDS = {"seeds": 3, "seed_mean": 0.02, "seed_stdev": 0.01, "seed_range": 0.04}
INTERVAL = "+0.0312 [-0.0100, +0.0725]"


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a row without some figures."""
    return {name: value for name, value in row.items() if name not in names}


@pytest.mark.parametrize(
    ("name", "row", "line"),
    [
        (
            "tuned_minus_base__bits_per_character",
            DIFFERENCE,
            f"| tuned − base: bits_per_character ↓ | {INTERVAL} | 0.123 (Holm) | 0.0560 | 80 | – |",
        ),
        (
            "tuned_minus_base__degenerate",
            AT_FLOOR,
            "| tuned − base: degenerate ↓ "
            "| -0.5000 [-0.7500, -0.2500] | ≤ 0.0036 (Holm) | 0.0560 | 24 | – |",
        ),
        (
            "tuned_minus_base__rougeL_f",
            without(DIFFERENCE, "p_holm") | {"meaningful": False},
            "| tuned − base: rougeL_f ↑ | not meaningful | – | – | 80 | – |",
        ),
        (
            "x_minus_base__a",
            without(DIFFERENCE, "p_holm") | {"meaningful": False, "constant_answers": True},
            "| x − base: a ↑ | not meaningful (nearly one answer to all) | – | – | 80 | – |",
        ),
        (
            "x_minus_base__judge_style",
            without(DIFFERENCE, "p_holm") | {"meaningful": False, "judge_withheld": True},
            "| x − base: judge_style ↑ | not meaningful (judge withheld) | – | – | 80 | – |",
        ),
        (
            "x_minus_stock_answer__rougeL_f",
            DIFFERENCE,
            f"| x − stock answer: rougeL_f ↑ | {INTERVAL} | 0.123 (Holm) | 0.0560 | 80 | – |",
        ),
        (
            "x_minus_character_6gram__bits_per_character",
            DIFFERENCE,
            "| x − character 6-gram: bits_per_character ↓ "
            f"| {INTERVAL} | 0.123 (Holm) | 0.0560 | 80 | – |",
        ),
        (
            "x_minus_base__safety_over_refusal",
            DIFFERENCE,
            f"| x − base: safety_over_refusal ↓ | {INTERVAL} | 0.123 (Holm) | 0.0560 | 80 | – |",
        ),
        (
            "x_minus_base__a",
            DIFFERENCE | SEEDS | {"within_seed_range": True},
            f"| x − base: a ↑ | {INTERVAL} | 0.123 (Holm) | 0.0560 | 80 "
            "| +0.0200 ± 0.0100 **within** |",
        ),
        (
            "x_minus_base__b",
            DIFFERENCE | SEEDS | {"within_seed_range": False},
            f"| x − base: b ↑ | {INTERVAL} | 0.123 (Holm) | 0.0560 | 80 | +0.0200 ± 0.0100 |",
        ),
        # A test whose floor is 1 sets no bound.
        (
            "x_minus_base__c",
            AT_FLOOR | {"p_holm": 1.0},
            "| x − base: c ↑ | -0.5000 [-0.7500, -0.2500] | 1 (Holm) | 0.0560 | 24 | – |",
        ),
        (
            "x_minus_base__d",
            without(AT_FLOOR, "p_holm") | {"primary": False},
            "| x − base: d ↑ "
            "| -0.5000 [-0.7500, -0.2500] | ≤ 0.0012 (exploratory) | 0.0560 | 24 | – |",
        ),
        (
            "x_minus_base__f",
            DIFFERENCE | {"left_out": 2},
            f"| x − base: f ↑ | {INTERVAL} | 0.123 (Holm) | 0.0560 "
            "| 80 (2 left out: a request failed) | – |",
        ),
        # Too few groups for an interval, and no variation.
        (
            "x_minus_base__e",
            without(DIFFERENCE, "low", "high", "detectable") | {"groups": 12},
            "| x − base: e ↑ | +0.0312 | 0.123 (Holm) | – | 80 in 12 groups | – |",
        ),
    ],
)
def test_difference_has_direction_interval_p_value_effect_items_and_seeds(
    name: str, row: dict[str, Any], line: str
) -> None:
    # The first row shows that the lines keep the order of the results.
    lines = differences_table({"first_minus_base__a": DIFFERENCE, name: row}).splitlines()
    assert lines[:2] == [
        "| difference | mean [interval] | p | smallest detectable | items | mean ± sd over seeds |",
        "|---|---|---|---|---|---|",
    ]
    assert lines[2].startswith("| first − base: a ↑ |")
    assert lines[3:] == [line]


def step_figures(number: int) -> dict[str, float | int]:
    """Return the fidelity of one step; each figure depends on its number."""
    return {
        "logit_difference_largest": number * 0.5,
        "logit_difference_mean": number * 0.0125,
        "logit_difference_relative": 0.01,
        "kl_nats": number * 0.00025,
        "greedy_agreement": 1 - number / 64,
        "perplexity": 2.0**number,
        "items": 8 * number,
    }


def fidelity() -> dict[str, dict[str, Any]]:
    """Return the metrics of merge and quantize."""
    return {
        "merge": {
            "checked": {"dtype": "bfloat16", "compute_dtype": "float32"},
            "weights": {"matrices": 14, "difference_largest": 1e-7},
            "adapter": step_figures(0),
            "before_cast": step_figures(1),
            "after_cast": step_figures(2),
            "as_served": step_figures(3),
        },
        "quantize": {
            "bf16": step_figures(4),
            "q4_k_m": step_figures(6),
            "q8_0": step_figures(5),
        },
    }


def test_fidelity_table_has_a_row_per_step_in_the_order_of_the_steps(tmp_path: Path) -> None:
    for stage, content in fidelity().items():
        write_metrics(tmp_path / f"{stage}.json", content)
    head, _, *rows = fidelity_table(tmp_path).splitlines()
    assert head.endswith(
        "| KL, nats per token ↓ | same greedy token, % ↑ | perplexity ↓ | answers |"
    )
    assert rows == [
        "| base + adapter, float32 |  | 0 | 0 | 0 | 100.0 | 1.000 | 0 |",
        "| merged, float32 | base + adapter | 0.5 | 0.0125 | 0.00025 | 98.4 | 2.000 | 8 |",
        "| merged, saved in bfloat16 | base + adapter | 1 | 0.025 | 0.0005 | 96.9 | 4.000 | 16 |",
        "| the same, run in float32 | base + adapter "
        "| 1.5 | 0.0375 | 0.00075 | 95.3 | 8.000 | 24 |",
        "| bf16.gguf | merged, saved | 2 | 0.05 | 0.001 | 93.8 | 16.000 | 32 |",
        "| q4_k_m.gguf | bf16.gguf | 3 | 0.075 | 0.0015 | 90.6 | 64.000 | 48 |",
        "| q8_0.gguf | bf16.gguf | 2.5 | 0.0625 | 0.00125 | 92.2 | 32.000 | 40 |",
    ]


# The README


def test_the_readme_gets_a_row_per_variant_and_control(metrics: Path) -> None:
    write_worth(metrics, 2, "tuned")
    judge = ACCURACY
    heads = [
        "degenerate answers, % (30 answers) ↓",
        "perplexity ↓",
        "bits per character ↓",
        "ROUGE-L F1 (40 answers) ↑",
        "judge: accuracy, 1 to 3 (tiny-judge) ↑",
        "question's worth, bits per character (60 answers) ↑",
        "degenerate answers, % (40 answers) ↓",
    ]
    assert headline_table(metrics, variants("base", "tuned")).splitlines() == [
        f"| | {' | '.join(heads)} |",
        "|---|---|---|---|---|---|---|---|",
        f"| base | 0.0 | 10.44 | 0.612 | 0.120 [0.110, 0.135] | {judge} |  |  |",
        f"| tuned | 10.0 | 5.22 | 0.612 | 0.220 [0.210, 0.234] | {judge} "
        "| 0.051 [0.030, 0.072] |  |",
        "| stock answer |  |  |  | 0.170 [0.160, 0.184] |  |  | 0.0 |",
        "| nearest answer |  |  |  | 0.150 [0.140, 0.165] |  |  | 2.5 |",
        "| echo of the question |  |  |  | 0.070 [0.060, 0.085] |  |  | 0.0 |",
        "| character 6-gram |  |  | 0.610 |  |  |  |  |",
        "| bz2 compression |  |  | 0.700 |  |  |  |  |",
        "| xz compression |  |  | 0.800 |  |  |  |  |",
    ]


README = f"# bula\n\nBefore.\n\n{START}| old |\n|---|\n{END}\n\nAfter.\n"


def test_only_the_text_between_the_marks_is_replaced() -> None:
    written = with_results("README.md", README, "| new |\n")
    assert written == f"# bula\n\nBefore.\n\n{START}| new |\n{END}\n\nAfter.\n"
    assert with_results("README.md", written, "| new |\n") == written


def test_table_is_written_between_adjacent_marks() -> None:
    assert with_results("README.md", START + END, "| new |\n") == f"{START}| new |\n{END}"


@pytest.mark.parametrize("mark", [START, END])
def test_error_names_the_mark_that_the_readme_lacks(mark: str) -> None:
    with pytest.raises(UserError, match="README") as caught:
        with_results("README.md", README.replace(mark, ""), "| new |\n")
    assert mark.strip() in str(caught.value)


DOCUMENTS = ("docs/results.md", "README.md", "README.pt-BR.md")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a current directory with params.yaml, documents and metrics."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for variant in load_params(ROOT / "params.yaml").variants:
        write_stages(tmp_path / "metrics", variant, figures(1))
    write_metrics(tmp_path / "metrics/controls.json", control_figures())
    write_metrics(tmp_path / "metrics/bertscore_controls.json", control_bertscores())
    differences = against_stock(-0.05, 0.001) | against_stock(-0.05, 0.001, "quantized")
    write_metrics(tmp_path / "metrics/compare.json", differences)
    for name in (*DOCUMENTS, RECORD):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    for name in DOCUMENTS:
        (tmp_path / name).write_text(README, encoding="utf-8")
    (tmp_path / RECORD).write_text("| recorded |\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_bula_results_writes_the_table_and_the_record_into_the_documents(repository: Path) -> None:
    def two_variants(params: dict[str, Any]) -> None:
        del params["variants"]["tuned"]
        params["compare"]["pairs"] = [{"variant": "quantized", "baseline": "base"}]

    edit_params(repository / "params.yaml", two_variants)
    result = CliRunner().invoke(app, ["results"])
    assert (result.exit_code, result.output) == (
        0,
        f"results: wrote metrics/ into docs/results.md, and {RECORD} into README.md, "
        "README.pt-BR.md\n",
    )
    params = load_params()
    table = headline_table(repository / "metrics", params)
    differences = read_figures(repository / "metrics/compare.json", "compare")
    table += control_note(repository / "metrics", params, differences)
    assert "**quantized does not beat** the stock answer" in table
    for name, text in zip(DOCUMENTS, (table, "| recorded |\n", "| recorded |\n"), strict=True):
        written = (repository / name).read_text(encoding="utf-8")
        assert written == with_results(name, README, text)


def test_bula_results_takes_the_folder_and_the_file_as_options(repository: Path) -> None:
    (repository / "metrics").rename(repository / "elsewhere")
    (repository / "README.md").rename(repository / "LEIAME.md")
    (repository / "docs/results.md").rename(repository / "table.md")
    options = ["--metrics", "elsewhere", "--readme", "LEIAME.md", "--document", "table.md"]
    result = CliRunner().invoke(app, ["results", *options])
    assert result.exit_code == 0
    table = (repository / "table.md").read_text(encoding="utf-8")
    assert "| quantized | 0.0 | 10.44 | 0.612 |" in table
    assert "| recorded |" in (repository / "LEIAME.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "missing",
    [
        "metrics/controls.json",
        "metrics/compare.json",
        "metrics/judge/tuned.json",
        "params.yaml",
        str(RECORD),
        *DOCUMENTS,
    ],
)
def test_bula_results_names_a_missing_file_and_writes_nothing(
    repository: Path, missing: str
) -> None:
    (repository / missing).unlink()
    before = sorted(repository.rglob("*"))
    result = CliRunner().invoke(app, ["results"])
    assert result.exit_code == 1
    assert isinstance(result.exception, UserError)
    assert missing in str(result.exception)
    assert sorted(repository.rglob("*")) == before
    for name in set(DOCUMENTS) - {missing}:
        assert (repository / name).read_text(encoding="utf-8") == README


def git(*arguments: str) -> str:
    """Return the output of a git command in this repository."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True, text=True)
    return done.stdout


def test_document_contains_the_figures_of_the_committed_metrics(tmp_path: Path) -> None:
    # Compare within the commit, since a run on another machine may change the last digits.
    for name in git("ls-tree", "-r", "--name-only", "HEAD", "metrics").split():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(git("show", f"HEAD:{name}"), encoding="utf-8")
    params = parse_params(git("show", "HEAD:params.yaml"), "params.yaml")
    metrics = tmp_path / "metrics"
    differences = read_figures(metrics / "compare.json", "compare")
    table = headline_table(metrics, params) + control_note(metrics, params, differences)
    document = git("show", "HEAD:docs/results.md")
    assert with_results("docs/results.md", document, table) == document


def test_readme_contains_the_committed_record_of_a_profile() -> None:
    readme = git("show", "HEAD:README.md")
    assert with_results("README.md", readme, git("show", f"HEAD:{RECORD}")) == readme


def test_portuguese_readme_contains_the_translated_record() -> None:
    readme = git("show", "HEAD:README.pt-BR.md")
    translated = to_portuguese(git("show", f"HEAD:{RECORD}"))
    assert with_results("README.pt-BR.md", readme, translated) == readme
    table, _, _ = translated.partition("| pergunta |")
    english = "the|of|answers?|items|loops|judge|better|against|not|as|withheld|difference"
    assert not re.search(rf"\b({english})\b", table)


def test_record_is_translated_with_decimal_commas() -> None:
    record = (
        "| | perplexity ↓ | judge: accuracy, 1 to 3 (m-q4_1) ↑ |\n|---|---|---|\n"
        "| tuned | 43.53 | withheld: kappa -0.10 [-0.47, 0.25] |\n"
        "| stock answer |  | not meaningful (60 % loops) |\n\n"
        "**tuned does not beat** the character 6-gram in bits per character (2.1 against 2.0).\n\n"
        "| question | base |\n|---|---|\n| Tomo 1.5 ml? | 1.5 *(degenerate)* |\n"
    )
    assert to_portuguese(record) == (
        "| | perplexidade ↓ | juiz: correção, 1 a 3 (m-q4_1) ↑ |\n|---|---|---|\n"
        "| tuned | 43,53 | omitido: kappa -0,10 [-0,47; 0,25] |\n"
        "| resposta padrão |  | sem significado (60 % de repetições) |\n\n"
        "**tuned não supera** o 6-grama de caracteres em bits por caractere (2,1 contra 2,0).\n\n"
        "| pergunta | base |\n|---|---|\n| Tomo 1.5 ml? | 1.5 *(degenerada)* |\n"
    )
