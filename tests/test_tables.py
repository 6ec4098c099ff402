import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from bench.clones import ROOT, edit_params
from bula.__main__ import app
from bula.commands.results import END, START, with_results
from bula.errors import UserError
from bula.params import Params, load_params, parse_params
from bula.reports import write_metrics
from bula.tables import differences_table, fidelity_table, results_table


def figures(variant_number: int) -> dict[str, dict[str, Any]]:
    """The metrics of one variant by stage, as small as they can be, with every figure moved by the variant's number."""
    rouge = {
        f"{kind}_f{end}": 0.1 * variant_number + shift
        for kind in ("rouge1", "rouge2", "rougeL")
        for end, shift in ENDS.items()
    }
    loops = 3 * (variant_number - 1)
    return {
        "generate": {
            "items": 30,
            "degenerate": loops,
            "degenerate_share": loops / 30,
            "settings": {"compute_dtype": "float32"},
        },
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
        "rouge": {"pooled": {"items": 40, **rouge}},
        "benchmark": {
            "settings": {"dtype": "bfloat16", "shots": 0},
            "bula_medmcqa": {
                "items": 24,
                "acc": 0.25 * variant_number,
                "acc_stderr": 0.0884,
                "commonest_answer_share": 0.9,
            },
            "bula_squad_completion": {
                "items": 28,
                "contains": 0.5,
                "contains_stderr": 0.0962,
                "commonest_answer_share": 0.1,
            },
        },
        "judge": {
            "judge": "tiny-judge",
            "trustworthy": False,
            "items": 10,
            "scored": 10,
            "failed": 0,
            "accuracy_mean": 1.5,
            "accuracy_stderr": 0.166667,
            "style_mean": 2.25,
            "style_stderr": 0.25,
        },
    }


ENDS = {"": 0.02, "_low": 0.01, "_high": 0.0345}


def write(folder: Path, variant: str, stages: dict[str, dict[str, Any]]) -> None:
    for stage, metrics in stages.items():
        write_metrics(folder / stage / f"{variant}.json", metrics)


def variants(*names: str) -> Params:
    """The default parameters with these variants."""
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    return params.model_copy(update={"variants": dict.fromkeys(names, params.variants["base"])})


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    """Metrics of two variants."""
    for number, variant in enumerate(("base", "tuned"), start=1):
        write(tmp_path / "metrics", variant, figures(number))
    return tmp_path / "metrics"


def test_the_table_has_a_column_a_variant_and_a_row_a_figure(metrics: Path) -> None:
    assert results_table(metrics, variants("base", "tuned")).splitlines() == [
        "| | base | tuned |",
        "|---|---|---|",
        "| degenerate answers, % (30 answers) ↓ | 0.0 | 10.0 |",
        "| loss, nats a token (80 answers) ↓ | 1.346 ± 0.046 | 0.346 ± 0.046 |",
        "| perplexity ↓ | 10.44 | 5.22 |",
        "| bits a character ↓ | 0.612 | 0.612 |",
        "| token accuracy, % ↑ | 65.4 | 65.4 |",
        "| ROUGE-1 F1 (40 answers) ↑ | 0.120 [0.110, 0.135] | 0.220 [0.210, 0.234] |",
        "| ROUGE-2 F1 (40 answers) ↑ | 0.120 [0.110, 0.135] | 0.220 [0.210, 0.234] |",
        "| ROUGE-L F1 (40 answers) ↑ | 0.120 [0.110, 0.135] | 0.220 [0.210, 0.234] |",
        "| bula_medmcqa, acc, % (24 items) ↑ | 25.0 ± 8.8 | 50.0 ± 8.8 |",
        "| bula_squad_completion, contains, % (28 items) ↑ | 50.0 ± 9.6 | 50.0 ± 9.6 |",
        "| judge: accuracy, 1 to 3 (tiny-judge; not trustworthy) ↑ | 1.50 ± 0.17 (10 of 10 answers) | 1.50 ± 0.17 (10 of 10 answers) |",
        "| judge: style, 1 to 3 (tiny-judge; not trustworthy) ↑ | 2.25 ± 0.25 (10 of 10 answers) | 2.25 ± 0.25 (10 of 10 answers) |",
    ]
    assert results_table(metrics, variants("base", "tuned")).endswith("|\n")


def test_columns_stand_in_the_order_asked_for(metrics: Path) -> None:
    lines = results_table(metrics, variants("tuned", "base")).splitlines()
    assert lines[0] == "| | tuned | base |"
    assert lines[4] == "| perplexity ↓ | 5.22 | 10.44 |"
    assert results_table(metrics, variants("tuned")).splitlines()[4] == "| perplexity ↓ | 5.22 |"


def test_figures_of_other_items_stand_in_a_row_of_their_own(metrics: Path) -> None:
    stages = figures(2)
    stages["rouge"]["pooled"]["items"] = 39
    stages["benchmark"]["extra"] = {
        "items": 4,
        "acc": 1.0,
        "acc_stderr": 0.0,
        "commonest_answer_share": 0.5,
    }
    write(metrics, "tuned", stages)
    lines = results_table(metrics, variants("base", "tuned")).splitlines()
    assert "| ROUGE-L F1 (40 answers) ↑ | 0.120 [0.110, 0.135] |  |" in lines
    assert "| ROUGE-L F1 (39 answers) ↑ |  | 0.220 [0.210, 0.234] |" in lines
    assert "| extra, acc, % (4 items) ↑ |  | 100.0 ± 0.0 |" in lines


def test_a_score_of_one_answer_to_all_says_so(metrics: Path) -> None:
    stages = figures(2)
    stages["benchmark"]["bula_medmcqa"]["commonest_answer_share"] = 1.0
    write(metrics, "tuned", stages)
    line = next(
        line
        for line in results_table(metrics, variants("base", "tuned")).splitlines()
        if "medmcqa" in line
    )
    assert (
        line
        == "| bula_medmcqa, acc, % (24 items) ↑ | 25.0 ± 8.8 | 50.0 ± 8.8 (one answer to all) |"
    )


def test_the_doubt_about_a_judge_goes_when_the_judge_is_trusted(metrics: Path) -> None:
    stages = figures(1)
    stages["judge"]["trustworthy"] = True
    write(metrics, "base", stages)
    table = results_table(metrics, variants("base"))
    assert "| judge: style, 1 to 3 (tiny-judge) ↑ | 2.25 ± 0.25 (10 of 10 answers) |" in table
    assert "not trustworthy" not in table


def test_figures_of_too_many_loops_are_withheld(metrics: Path) -> None:
    stages = figures(2)
    # compare.max_degenerate_share is 0.2: six of thirty answers are not too many, seven are.
    stages["generate"] |= {"degenerate": 6, "degenerate_share": 0.2}
    write(metrics, "tuned", stages)
    assert "not meaningful" not in results_table(metrics, variants("base", "tuned"))
    stages["generate"] |= {"degenerate": 29, "degenerate_share": 29 / 30}
    write(metrics, "tuned", stages)
    lines = results_table(metrics, variants("base", "tuned")).splitlines()
    assert lines[2] == "| degenerate answers, % (30 answers) ↓ | 0.0 | 96.7 |"
    withheld = [line for line in lines if line.endswith("| not meaningful (97 % loops) |")]
    assert [line[2:8] for line in withheld] == ["ROUGE-", "ROUGE-", "ROUGE-", "judge:", "judge:"]
    # Only that variant's, and only what rates its answers.
    assert (
        "| ROUGE-1 F1 (40 answers) ↑ | 0.120 [0.110, 0.135] | not meaningful (97 % loops) |"
        in lines
    )
    assert sum("not meaningful" in line for line in lines) == 5


def test_a_judge_with_a_hostile_name_adds_no_cell_and_no_markup(metrics: Path) -> None:
    stages = figures(1)
    stages["judge"]["judge"] = "x | ![a](http://b.example) <img src=c>\n| d |"
    write(metrics, "base", stages)
    page = (
        MarkdownIt("commonmark", {"html": True})
        .enable("table")
        .render(results_table(metrics, variants("base")))
    )
    plain = (
        MarkdownIt("commonmark").enable("table").render(results_table(metrics, variants("tuned")))
    )
    for tag in ("<tr>", "<td>", "<img", "<a", "<p>"):
        assert page.count(tag) == plain.count(tag)


@pytest.mark.parametrize("stage", ["generate", "likelihood", "rouge", "benchmark", "judge"])
def test_a_missing_file_and_its_stage_are_named(metrics: Path, stage: str) -> None:
    (metrics / stage / "tuned.json").unlink()
    with pytest.raises(
        UserError,
        match=f"{stage}/tuned.json: the file does not exist. Run `dvc repro {stage}@tuned`",
    ):
        results_table(metrics, variants("base", "tuned"))


def test_differences_have_a_sign_an_interval_the_corrected_p_and_a_mark() -> None:
    row = {
        "items": 80,
        "difference": 0.03125,
        "low": -0.01,
        "high": 0.0725,
        "p_holm": 0.123456,
        "p_at_floor": False,
        "meaningful": True,
    }
    other = row | {
        "items": 24,
        "difference": -0.5,
        "low": -0.75,
        "high": -0.25,
        "p_holm": 0.0036,
        "p_at_floor": True,
    }
    rows = {
        "tuned_minus_base__degenerate": other,
        "tuned_minus_base__bits_per_character": row,
        "tuned_minus_base__rougeL_f": row | {"meaningful": False},
        "x_minus_base__a": row | {"seed_range": 0.04, "within_seed_range": True},
        "x_minus_base__b": other | {"seed_range": 0.04, "within_seed_range": False},
        # A test that can never return less than 1 bounds nothing.
        "x_minus_base__c": other | {"p_holm": 1.0},
    }
    assert differences_table(rows).splitlines() == [
        "| difference | mean [interval] | p (Holm) | items | seeds |",
        "|---|---|---|---|---|",
        "| tuned − base: degenerate ↓ | -0.5000 [-0.7500, -0.2500] | ≤ 0.0036 | 24 | – |",
        "| tuned − base: bits_per_character ↓ | +0.0312 [-0.0100, +0.0725] | 0.123 | 80 | – |",
        "| tuned − base: rougeL_f ↑ | not meaningful | – | 80 | – |",
        "| x − base: a ↑ | +0.0312 [-0.0100, +0.0725] | 0.123 | 80 | 0.0400 **within** |",
        "| x − base: b ↑ | -0.5000 [-0.7500, -0.2500] | ≤ 0.0036 | 24 | 0.0400 |",
        "| x − base: c ↑ | -0.5000 [-0.7500, -0.2500] | 1 | 24 | – |",
    ]


def fidelity() -> dict[str, dict[str, Any]]:
    """The metrics of merge and quantize, every figure moved by the number of the step."""

    def step(number: int) -> dict[str, float | int]:
        largest, mean, kl = number * 0.5, number * 0.0125, number * 0.00025
        logits = {
            "logit_difference_largest": largest,
            "logit_difference_mean": mean,
            "logit_difference_relative": 0.01,
        }
        return logits | {
            "kl_nats": kl,
            "greedy_agreement": 1 - number / 64,
            "perplexity": 2.0**number,
            "items": 8 * number,
        }

    names = ("adapter", "before_cast", "after_cast", "as_served")
    checked = {"dtype": "bfloat16", "compute_dtype": "float32"}
    merge: dict[str, Any] = {
        "checked": checked,
        "weights": {"matrices": 14, "difference_largest": 1e-7},
    }
    steps = {name: step(number) for number, name in enumerate(names)}
    return {
        "merge": merge | steps,
        "quantize": {"bf16": step(4), "q4_k_m": step(6), "q8_0": step(5)},
    }


def test_the_fidelity_chain_has_a_row_a_step_in_the_order_of_the_steps(tmp_path: Path) -> None:
    for stage, content in fidelity().items():
        write_metrics(tmp_path / f"{stage}.json", content)
    head, _, *rows = fidelity_table(tmp_path).splitlines()
    assert head.endswith("| KL, nats a token ↓ | same greedy token, % ↑ | perplexity ↓ | answers |")
    assert rows == [
        "| base + adapter, float32 |  | 0 | 0 | 0 | 100.0 | 1.000 | 0 |",
        "| merged, float32 | base + adapter | 0.5 | 0.0125 | 0.00025 | 98.4 | 2.000 | 8 |",
        "| merged, saved in bfloat16 | base + adapter | 1 | 0.025 | 0.0005 | 96.9 | 4.000 | 16 |",
        "| the same, run in float32 | base + adapter | 1.5 | 0.0375 | 0.00075 | 95.3 | 8.000 | 24 |",
        "| bf16.gguf | merged, saved | 2 | 0.05 | 0.001 | 93.8 | 16.000 | 32 |",
        "| q4_k_m.gguf | bf16.gguf | 3 | 0.075 | 0.0015 | 90.6 | 64.000 | 48 |",
        "| q8_0.gguf | bf16.gguf | 2.5 | 0.0625 | 0.00125 | 92.2 | 32.000 | 40 |",
    ]


# The README

README = f"# bula\n\nBefore.\n\n{START}| old |\n|---|\n{END}\n\nAfter.\n"


def test_the_table_replaces_what_stood_between_the_marks_and_nothing_else() -> None:
    written = with_results(README, "| new |\n")
    assert written == f"# bula\n\nBefore.\n\n{START}| new |\n{END}\n\nAfter.\n"
    assert with_results(written, "| new |\n") == written


def test_the_table_goes_between_marks_with_nothing_between_them() -> None:
    assert with_results(START + END, "| new |\n") == f"{START}| new |\n{END}"


@pytest.mark.parametrize("mark", [START, END])
def test_a_readme_without_a_mark_is_refused_and_the_mark_named(mark: str) -> None:
    with pytest.raises(UserError, match="README") as caught:
        with_results(README.replace(mark, ""), "| new |\n")
    assert mark.strip() in str(caught.value)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml, README.md and the metrics of each variant, as the current directory."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for variant in load_params(ROOT / "params.yaml").variants:
        write(tmp_path / "metrics", variant, figures(1))
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_bula_results_writes_the_table_of_the_variants_into_the_readme(repository: Path) -> None:
    def two_variants(params: dict[str, Any]) -> None:
        del params["variants"]["tuned"]

    edit_params(repository / "params.yaml", two_variants)
    result = CliRunner().invoke(app, ["results"])
    assert (result.exit_code, result.output) == (
        0,
        "results: README.md holds the figures of metrics/\n",
    )
    table = results_table(repository / "metrics", load_params())
    assert (repository / "README.md").read_text(encoding="utf-8") == with_results(README, table)


def test_bula_results_reads_and_writes_where_it_is_told(repository: Path) -> None:
    (repository / "metrics").rename(repository / "elsewhere")
    (repository / "README.md").rename(repository / "LEIAME.md")
    result = CliRunner().invoke(app, ["results", "--metrics", "elsewhere", "--readme", "LEIAME.md"])
    assert result.exit_code == 0
    assert "| perplexity ↓ | 10.44 | 10.44 | 10.44 |" in (repository / "LEIAME.md").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("missing", ["metrics/judge/tuned.json", "params.yaml", "README.md"])
def test_bula_results_names_the_file_that_is_missing_and_writes_nothing(
    repository: Path, missing: str
) -> None:
    (repository / missing).unlink()
    before = sorted(repository.rglob("*"))
    result = CliRunner().invoke(app, ["results"])
    assert result.exit_code == 1
    assert isinstance(result.exception, UserError)
    assert missing in str(result.exception)
    assert sorted(repository.rglob("*")) == before
    if missing != "README.md":
        assert (repository / "README.md").read_text(encoding="utf-8") == README


def test_the_readme_holds_the_figures_of_the_committed_metrics(tmp_path: Path) -> None:
    # Of the commit and not of the working tree: another machine's own run may differ in the last digits.
    def committed(name: str) -> str:
        return subprocess.run(
            ["git", "show", f"HEAD:{name}"], cwd=ROOT, capture_output=True, check=True, text=True
        ).stdout

    names = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", "HEAD", "metrics"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in names.stdout.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(committed(name), encoding="utf-8")
    table = results_table(
        tmp_path / "metrics", parse_params(committed("params.yaml"), "params.yaml")
    )
    readme = committed("README.md")
    assert with_results(readme, table) == readme
