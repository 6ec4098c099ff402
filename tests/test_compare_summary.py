"""Check the headline figures that DVC shows, on figures made by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.clones import ROOT, commit, git
from bula.errors import UserError
from bula.params import Pair, Params, load_params
from bula.reports import write_metrics
from stages.compare import __main__ as stage
from stages.compare.pairs import Results
from stages.compare.summary import Headline, round_to_error, summarize
from tests.conftest import run
from tests.test_compare import write_inputs
from tests.test_tables import figures, generate_figures, worth_figures, write_stages

VARIANTS = ("base", "tuned", "quantized")
CONTRAST = {
    "items": 174,
    "acc": 0.586207,
    "acc_stderr": 0.037445,
    "acc_norm": 0.557471,
    "acc_norm_stderr": 0.0377623,
    "commonest_answer_share": 0.557471,
}
# Only differences with p_holm were tested as primary measures.
RESULTS: Results = {
    "tuned_minus_base__bits_per_character": {"difference": -0.4, "p_holm": 1.99999e-05},
    "tuned_minus_base__question_worth": {"difference": -0.01, "p_holm": 0.192524},
    "tuned_minus_base__rougeL_f": {"difference": 0.1, "p": 0.001},
    "quantized_minus_tuned__degenerate": {"difference": 0.1, "p_holm": 1.0},
    "tuned_minus_stock_answer__rougeL_f": {"difference": 0.1, "p": 0.001},
}


@pytest.fixture
def params() -> Params:
    """Return the default parameters."""
    return load_params(ROOT / "profiles/smollm2-135m.yaml")


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    """Write the metrics of three variants, none of which has many loops."""
    folder = tmp_path / "metrics"
    for number, variant in enumerate(VARIANTS, start=1):
        content = figures(number)
        content["benchmark"]["bula_contrast"] = CONTRAST
        write_stages(folder, variant, content)
    rewrite(folder, "likelihood/tuned", "pooled", **worth_figures())
    kl = {"kl_nats": 0.0447524, "kl_nats_stderr": 0.0011441}
    write_metrics(folder / "quantize.json", {"bf16": {"kl_nats": 0.0}, "q4_k_m": kl})
    return folder


def rewrite(folder: Path, name: str, group: str, **values: float | bool) -> None:
    """Change some figures of a metrics file, in a group or at the top."""
    path = folder / f"{name}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    (content[group] if group else content).update(values)
    write_metrics(path, content)


@pytest.mark.parametrize(
    ("value", "error", "rounded"),
    [
        (42.601, 2.35, 43.0),
        (42.601, 0.235, 42.6),
        # An error that starts with 1 keeps two digits.
        (42.651, 1.197, 42.7),
        (0.0364152, 0.00349348, 0.036),
        (0.0447524, 0.0011441, 0.0448),
        # 0.0996 is 0.10 in two digits, so it starts with 1.
        (0.5678, 0.0996, 0.57),
        (1234.0, 210.0, 1200.0),
        (-0.5678, 0.02, -0.57),
        (2.055, 0.0, 2.055),
    ],
)
def test_a_figure_is_rounded_to_its_standard_error(
    value: float, error: float, rounded: float
) -> None:
    assert round_to_error(value, error) == rounded


def test_a_small_negative_figure_is_rounded_to_plain_zero() -> None:
    assert str(round_to_error(-0.001, 0.05)) == "0.0"


def test_the_headline_of_a_run(metrics: Path, params: Params) -> None:
    assert summarize(metrics, RESULTS, params) == {
        "base": {
            "degenerate_share": 0.0,
            # The loss of 1.34567 ± 0.0456 makes 10.44 ± 0.476.
            "perplexity": 10.4,
            "bula_contrast_acc": 0.59,
            "safety_pass_share": 0.0,
            # A quarter of the interval of 0.0245 is 0.006.
            "rougeL_f": 0.12,
            "judge_accuracy": 1.5,
        },
        "tuned": {
            # 3 of 30: the standard error is the root of 0.1 x 0.9 / 30, which is 0.055.
            "degenerate_share": 0.1,
            "perplexity": 5.2,
            "question_worth_bits": 0.051,
            "bula_contrast_acc": 0.59,
            # 20 of 40.
            "safety_pass_share": 0.5,
            "rougeL_f": 0.22,
            "judge_accuracy": 1.5,
        },
        "quantized": {
            "degenerate_share": 0.2,
            # 3.48 x 0.0456 is 0.159.
            "perplexity": 3.48,
            "bula_contrast_acc": 0.59,
            "safety_pass_share": 1.0,
            "rougeL_f": 0.32,
            "judge_accuracy": 1.5,
        },
        "tuned_minus_base": {"bits_per_character_p_holm": 2e-05, "question_worth_p_holm": 0.19},
        "quantized_minus_tuned": {"degenerate_p_holm": 1.0, "kl_nats": 0.0448},
    }


def test_shares_of_answers_have_the_error_of_the_answers(metrics: Path, params: Params) -> None:
    rewrite(metrics, "generate/base", "", items=1_000_000, failed=999_900, degenerate_share=0.1234)
    for name in ("no_dose", "harmful", "harmless"):
        rewrite(metrics, "safety/base", name, pass_share=0.0)
    rewrite(metrics, "safety/base", "emergency", items=40, failed=30, pass_share=1.0)
    found = summarize(metrics, {}, params)["base"]
    # 100 answers have the standard error 0.03.
    assert found["degenerate_share"] == 0.12
    # 10 of 40 answers passed, with the standard error 0.07.
    assert found["safety_pass_share"] == 0.25


def test_safety_counts_the_questions_of_all_slices(metrics: Path, params: Params) -> None:
    rewrite(metrics, "safety/base", "emergency", items=30, pass_share=0.333333)
    # 10 of 30, and none of three times 10: 10 / 60 = 0.167 ± 0.048.
    assert summarize(metrics, {}, params)["base"]["safety_pass_share"] == 0.17


SCORES_OF_ANSWERS = {"rougeL_f", "judge_accuracy"}


@pytest.mark.parametrize(("loops", "absent"), [(6, set()), (7, SCORES_OF_ANSWERS)])
def test_scores_of_loops_are_absent(
    loops: int, absent: set[str], metrics: Path, params: Params
) -> None:
    # The limit is 0.2, and 6 of 30 are 0.2.
    write_metrics(metrics / "generate/tuned.json", generate_figures(loops))
    found = summarize(metrics, {}, params)
    assert SCORES_OF_ANSWERS - found["tuned"].keys() == absent
    assert found["base"].keys() >= SCORES_OF_ANSWERS


def test_a_withheld_score_of_the_judge_is_absent(metrics: Path, params: Params) -> None:
    rewrite(metrics, "judge/base", "", accuracy_withheld=True)
    found = summarize(metrics, {}, params)
    assert "judge_accuracy" not in found["base"]
    assert "judge_accuracy" in found["tuned"]


def test_a_judge_that_always_abstained_has_no_score(metrics: Path, params: Params) -> None:
    path = metrics / "judge/base.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["accuracy_mean"]
    del content["accuracy_stderr"]
    write_metrics(path, content)
    found = summarize(metrics, {}, params)
    assert "judge_accuracy" not in found["base"]
    assert found["tuned"]["judge_accuracy"] == 1.5


@pytest.mark.parametrize(("share", "known"), [(0.949, True), (0.95, False)])
def test_a_task_with_nearly_one_answer_is_absent(
    share: float, known: bool, metrics: Path, params: Params
) -> None:
    rewrite(metrics, "benchmark/base", "bula_contrast", constant_answer_share=share)
    assert ("bula_contrast_acc" in summarize(metrics, {}, params)["base"]) == known


def test_only_tasks_among_the_primary_measures_are_listed(metrics: Path, params: Params) -> None:
    primary = ["bula_medmcqa_acc", "bula_contrast_acc_norm"]
    compare = params.compare.model_copy(update={"primary": primary})
    found = summarize(metrics, {}, params.model_copy(update={"compare": compare}))
    assert found["base"].keys() >= set(primary)
    assert "bula_contrast_acc" not in found["base"]


def test_borrowed_scores_of_a_task_are_absent(metrics: Path, params: Params) -> None:
    prompted = params.variants["base"].model_copy(update={"few_shot": 3})
    shared = {"variants": params.variants | {"tuned": prompted}}
    found = summarize(metrics, {}, params.model_copy(update=shared))
    assert "bula_contrast_acc" in found["base"]
    assert "bula_contrast_acc" not in found["tuned"]


def with_pairs(params: Params, *pairs: tuple[str, str]) -> Params:
    """Return the parameters with these pairs of variant and baseline."""
    found = [Pair(variant=variant, baseline=baseline) for variant, baseline in pairs]
    compare = params.compare.model_copy(update={"pairs": found})
    return params.model_copy(update={"compare": compare})


def test_a_divergence_belongs_to_the_model_that_was_quantized(
    metrics: Path, params: Params
) -> None:
    chosen = with_pairs(params, ("quantized", "base"), ("tuned", "base"))
    # No measure was tested, so these pairs have no figure at all.
    assert set(summarize(metrics, {}, chosen)) == set(VARIANTS)


def test_a_variant_outside_the_pairs_is_no_headline(metrics: Path, params: Params) -> None:
    chosen = with_pairs(params, ("tuned", "base"))
    found = summarize(metrics, RESULTS, chosen)
    assert list(found) == ["base", "tuned", "tuned_minus_base"]


@pytest.mark.parametrize(
    ("file", "group", "stage_name"),
    [
        ("likelihood/tuned", "pooled", "likelihood@tuned"),
        ("safety/base", "harmful", "safety@base"),
        ("quantize", "q4_k_m", "quantize"),
    ],
)
def test_a_missing_figure_is_named_with_its_stage(
    file: str, group: str, stage_name: str, metrics: Path, params: Params
) -> None:
    path = metrics / f"{file}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content[group]
    write_metrics(path, content)
    with pytest.raises(UserError, match=f"{file}.json: the group '{group}'.*{stage_name}"):
        summarize(metrics, {}, params)


def count(headline: dict[str, Headline]) -> int:
    """Return the number of figures."""
    return sum(len(group) for group in headline.values())


def every_test(params: Params) -> Results:
    """Return a tested difference of each primary measure of each pair."""
    results: Results = {}
    for pair in params.compare.pairs:
        for measure in params.compare.primary:
            results[f"{pair.name}__{measure}"] = {"p_holm": 0.012345}
    return results


def test_a_run_with_readable_answers_has_at_most_30_figures(metrics: Path, params: Params) -> None:
    # The default judge is withheld.
    for variant in VARIANTS:
        rewrite(metrics, f"likelihood/{variant}", "pooled", **worth_figures())
        rewrite(metrics, f"judge/{variant}", "", accuracy_withheld=True)
    # Six figures of three variants, five p-values of two pairs, and one divergence.
    assert count(summarize(metrics, every_test(params), params)) == 29


def test_the_stage_writes_the_headline(workspace: Path) -> None:
    write_inputs(workspace)
    stage.main()
    text = (workspace / "metrics/summary.json").read_text(encoding="utf-8")
    written: dict[str, Any] = json.loads(text)
    # Three primary measures of four items: no test can reach a small p-value.
    assert written["tuned_minus_base"] == {
        "bits_per_character_p_holm": 0.38,
        "degenerate_p_holm": 1.0,
        "rougeL_f_p_holm": 0.5,
    }
    assert written["tuned"]["degenerate_share"] == 0.1
    assert list(written) == sorted(written)


def test_headline_is_a_metrics_file_of_compare() -> None:
    pipeline = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    assert {"metrics/summary.json": {"cache": False}} in pipeline["stages"]["compare"]["metrics"]


@pytest.fixture
def two_runs(metrics: Path, params: Params, tmp_path: Path) -> Path:
    """Return a repository in which every headline figure differs from the last commit."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    assert run(["dvc", "init", "--quiet"], folder).returncode == 0
    (folder / "dvc.yaml").write_text("metrics: [metrics/summary.json]\n", encoding="utf-8")
    for variant in VARIANTS:
        rewrite(metrics, f"likelihood/{variant}", "pooled", **worth_figures())
    before = summarize(metrics, every_test(params), params)
    write_metrics(folder / "metrics/summary.json", before)
    commit(folder, "run")
    after = {
        name: {key: value + 0.1 for key, value in group.items()} for name, group in before.items()
    }
    write_metrics(folder / "metrics/summary.json", after)
    return folder


def test_the_difference_of_two_runs_fits_a_screen_in_one_order(two_runs: Path) -> None:
    texts = []
    for seed in ("1", "2"):
        diff = run(["dvc", "metrics", "diff", "--md"], two_runs, PYTHONHASHSEED=seed)
        assert diff.returncode == 0, diff.stderr
        texts.append(diff.stdout)
    assert texts[0] == texts[1]
    rows = [line for line in texts[0].splitlines() if line.startswith("| metrics")]
    assert len(rows) == 32
    assert len(texts[0].splitlines()) <= 40
