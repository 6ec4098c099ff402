"""Test `bula seeds`, and the marks that compare derives from it.

Here the stages are stubs (tests/stub_pipeline.py); tests/test_pipeline.py runs the real ones.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.clones import ROOT, Edit, edit_params
from bula import hardware
from bula.__main__ import app
from bula.commands.seeds import (
    common_spreads,
    fixed_variants,
    here,
    note_of_preferences,
    seed_pairs,
    trained_variants,
)
from bula.errors import UserError
from bula.paired import Difference
from bula.params import Pair, load_params
from bula.records import read_rows, write_rows
from bula.reports import write_metrics
from bula.runs import read_differences, refuse_other_conditions
from bula.stats import spread
from stages.compare import pairs
from stages.compare import seeds as marks
from tests.conftest import run
from tests.stub_pipeline import SEED, STAGES, log_of, write_repository
from tests.test_compare import few_primary, fill, two_variants

SPREAD = {
    "seeds": 3,
    "first": 2.0,
    "mean": 2.00167,
    "lowest": 1.99,
    "highest": 2.015,
    "range": 0.025,
    "stdev": 0.0125831,
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the repository that each test copies."""
    folder = tmp_path_factory.mktemp("start")
    write_repository(folder)
    return folder


@pytest.fixture
def repo(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the small repository, the current directory."""
    folder = tmp_path / "repo"
    shutil.copytree(start, folder)
    monkeypatch.setenv("STUB_ROOT", str(folder))
    monkeypatch.chdir(folder)
    return folder


def seeds(repo: Path, count: int) -> tuple[int, str, list[str]]:
    """Run `bula seeds`, and return its exit code, its output, and the stages that ran."""
    identity = {"GIT_AUTHOR_NAME": "T", "GIT_AUTHOR_EMAIL": "t@example.org"}
    identity |= {"GIT_COMMITTER_NAME": "T", "GIT_COMMITTER_EMAIL": "t@example.org"}
    result = run(["python", "-m", "bula", "seeds", "--count", str(count)], repo, **identity)
    return result.returncode, result.stdout + result.stderr, log_of(repo)


def stages_of(*numbers: int) -> list[str]:
    """Return the lines of the log.

    Only the workspace's own run computes the data, and scores the base.
    """
    base = [stage.replace("@tuned", "@base") for stage in STAGES if "@" in stage]
    lines = [f"{number} {stage}" for number in numbers for stage in [*STAGES, *base]]
    own = ("preprocess", "@base")
    return sorted(
        line for line in lines if str(SEED) in line or not any(name in line for name in own)
    )


def test_a_spread_worked_by_hand_as_in_docs_metrics() -> None:
    # Deviations -0.00167, -0.01167, 0.01333; their squares sum to 0.000316667, half is 0.000158333.
    exact = {"mean": 2.0016667, "stdev": 0.01258306}
    assert spread([2.0, 1.99, 2.015]) == pytest.approx(SPREAD | exact)


def test_the_conditions_in_which_runs_differ_are_named() -> None:
    own = {"train": "float32", "outputs of ingest": ["a"], "generate@tuned": "float32"}
    refuse_other_conditions("a", own, own)
    other = own | {"train": "bfloat16", "outputs of ingest": ["b"]}
    with pytest.raises(UserError, match=r"a: .* differ \(outputs of ingest, train\)"):
        refuse_other_conditions("a", other, own)


def test_a_condition_that_only_one_run_has_differs() -> None:
    own = {"train": "float32", "generate@tuned": "float32"}
    with pytest.raises(UserError, match=r"differ \(generate@tuned\)"):
        refuse_other_conditions("a", {"train": "float32"}, own)


def test_a_folder_without_git_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    result = CliRunner().invoke(app, ["seeds", "--count", "2"])
    assert isinstance(result.exception, UserError)
    assert "git cannot list its files" in str(result.exception)


@pytest.mark.parametrize(("device", "computed"), [("cpu", "float32"), ("cuda", "bfloat16")])
def test_a_run_has_the_precision_of_the_device_in_params_whatever_torch_sees(
    device: str, computed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"cpu": "cuda", "cuda": "cpu"}
    monkeypatch.setattr(hardware, "device", lambda: other[device])
    monkeypatch.setattr(hardware, "has_bfloat16_matmul", lambda: False)
    params = load_params(ROOT / "profiles/smollm2-135m.yaml").model_copy(update={"device": device})
    found = here({"train": "", "likelihood@tuned": "", "outputs of ingest": ["a"]}, params)
    assert found == {"train": computed, "likelihood@tuned": computed, "outputs of ingest": ["a"]}


def test_a_run_of_another_kind_of_machine_is_refused_before_a_seed_runs(repo: Path) -> None:
    (repo / "elsewhere").write_text("bfloat16", encoding="utf-8")
    code, said, log = seeds(repo, 2)
    assert code == 1
    assert "metrics: its models, its data or its precision of computing differ (" in said
    assert "benchmark@tuned, " in said
    assert sorted(log) == stages_of(SEED)


def test_an_input_that_git_does_not_track_is_refused(repo: Path) -> None:
    (repo / "data/sources/new.jsonl").write_text("{}\n", encoding="utf-8")
    code, said, log = seeds(repo, 2)
    assert (code, log) == (1, [])
    assert "data/sources/new.jsonl: git does not track this file, so an experiment would" in said


def test_an_experiment_on_other_data_is_refused(repo: Path) -> None:
    # git ignores this file, so DVC's copy of the repository has no such row.
    (repo / "data/sources/secret.jsonl").write_text("{}\n", encoding="utf-8")
    code, said, _ = seeds(repo, 2)
    assert code == 1
    assert "differ (outputs of preprocess)" in said
    assert not (repo / "metrics/seeds.json").exists()


def test_each_seed_is_an_experiment_that_runs_every_stage_once(repo: Path) -> None:
    code, said, log = seeds(repo, 3)
    assert code == 0, said
    assert sorted(log) == stages_of(SEED, SEED + 1, SEED + 2)
    listed = run(["dvc", "exp", "list", "--name-only"], repo).stdout.split()
    assert sorted(name.rpartition("-")[0] for name in listed) == [
        f"seed-{SEED + 1}",
        f"seed-{SEED + 2}",
    ]
    # The workspace keeps the pipeline's own model.
    assert (repo / "models/merged").read_text(encoding="utf-8") == f"{SEED}\n"
    # A second call finds the finished experiments.
    assert seeds(repo, 3)[::2] == (0, [])

    assert_spreads(repo)


def assert_spreads(repo: Path) -> None:
    """Check the spread of every figure over three seeds."""
    written = json.loads((repo / "metrics/seeds.json").read_text(encoding="utf-8"))
    assert written.pop("seeds") == 3
    loss = {"first": 3.0, "mean": 3.00167, "lowest": 2.99, "highest": 3.015}
    assert written.pop("train__dev_loss_nats") == SPREAD | loss
    assert written.pop("tuned__bits_per_character") == SPREAD
    # Accuracies 0, 1 and 0: deviations -1/3, 2/3, -1/3, whose squares sum to 2/3.
    assert written.pop("tuned__t_acc")["stdev"] == pytest.approx(0.57735)
    # Each seed's difference from the base's 2.5 bits: -0.5, -0.51 and -0.485. Their mean is
    # -1.495 / 3, and the deviations are those of the tuned model.
    bits = {"first": -0.5, "mean": -0.498333, "lowest": -0.51, "highest": -0.485}
    assert written.pop("tuned_minus_base__bits_per_character") == SPREAD | bits
    others = ("degenerate", "rouge1_f", "rouge2_f", "rougeL_f")
    expected = {f"tuned__{name}" for name in others}
    expected |= {f"tuned_minus_base__{name}" for name in (*others, "t_acc")}
    assert set(written) == expected


def seeds_of_a_broken_pipeline(repo: Path) -> list[str]:
    """Check the message of a seed that fails in benchmark, and return the log."""
    (repo / "broken").touch()
    code, said, log = seeds(repo, 2)
    (repo / "broken").unlink()
    assert code == 1
    assert f"dvc exp run --temp --name seed-{SEED + 1}-" in said
    assert "it failed. Read its messages above." in said
    return log


def test_an_experiment_that_failed_starts_again(repo: Path) -> None:
    base = [stage.replace("@tuned", "@base") for stage in STAGES if "@" in stage]
    assert run(["dvc", "repro", *STAGES, *base], repo).returncode == 0
    (repo / "log").unlink()
    assert f"{SEED + 1} train" in seeds_of_a_broken_pipeline(repo)
    assert not (repo / "metrics/seeds.json").exists()
    code, said, after = seeds(repo, 2)
    assert code == 0, said
    # The pipeline's own run is complete, and DVC keeps nothing of a failed experiment.
    assert sorted(after) == stages_of(SEED + 1)


def with_seed(seed: int) -> Edit:
    """Return the edit that sets the training seed."""

    def edit(params: dict[str, Any]) -> None:
        params["seed"] = seed

    return edit


def test_a_recorded_run_is_restored_and_another_one_runs_again(repo: Path) -> None:
    params = repo / "params.yaml"
    assert run(["dvc", "repro"], repo).returncode == 0
    assert run(["python", "-m", "bula", "keep-runs"], repo).returncode == 0
    for seed, recorded in ((SEED + 1, False), (SEED, True), (SEED + 1, False)):
        log_of(repo)
        edit_params(params, with_seed(seed))
        assert run(["dvc", "repro", "train"], repo).returncode == 0
        assert log_of(repo) == ([] if recorded else [f"{seed} train"])
        loss = json.loads((repo / "metrics/train.json").read_text(encoding="utf-8"))["dev"]
        assert loss["loss_nats"] == {SEED: 3.0, SEED + 1: 2.99}[seed]


def test_a_failed_run_of_the_pipeline_is_refused(repo: Path) -> None:
    (repo / "broken").touch()
    code, said, _ = seeds(repo, 2)
    assert code == 1
    assert "it failed. Read its messages above." in said


def test_a_single_seed_is_refused() -> None:
    assert CliRunner().invoke(app, ["seeds", "--count", "1"]).exit_code == 2


def test_a_path_in_which_experiments_do_not_start_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ação").mkdir()
    monkeypatch.chdir(tmp_path / "ação")
    result = CliRunner().invoke(app, ["seeds", "--count", "2"])
    assert isinstance(result.exception, UserError)
    assert "DVC's experiments do not start in this folder" in str(result.exception)


def test_variants_are_found_by_their_model() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    assert trained_variants(params) == ["tuned"]
    only_base = params.model_copy(update={"variants": {"base": params.variants["base"]}})
    with pytest.raises(UserError, match="has the model models/merged"):
        trained_variants(only_base)


def test_only_differences_that_every_seed_measures_are_spread() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    found = seed_pairs(params, ["tuned"])
    # No seed exports the quantized file, so its difference from tuned is unknown.
    assert [pair.name for pair in found] == ["tuned_minus_base"]
    assert fixed_variants(found, ["tuned"]) == ["base"]
    # A second variant of the merged model is scored for each seed, too.
    variants = params.variants | {"quantized": params.variants["tuned"]}
    both = params.model_copy(update={"variants": variants})
    names = [pair.name for pair in seed_pairs(both, ["tuned", "quantized"])]
    assert names == ["tuned_minus_base", "quantized_minus_tuned"]


def few_shot_pair(params: dict[str, Any]) -> None:
    """Compare tuned with base, and with a variant of the same model as base."""
    two_variants(params)
    params["variants"]["few"] = params["variants"]["base"] | {"few_shot": 2}
    params["compare"]["pairs"].append({"baseline": "few", "variant": "tuned"})


def test_a_preferred_model_is_of_one_seed_and_the_command_says_so() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    assert note_of_preferences(params) == ""
    preferred = params.variants["tuned"].model_copy(update={"model": "models/prefer/a/merged"})
    pair = Pair(variant="preferred", baseline="tuned")
    compare = params.compare.model_copy(update={"pairs": [pair]})
    variants = params.variants | {"preferred": preferred}
    update = {"variants": variants, "compare": compare, "prefer": {"a": object()}}
    params = params.model_copy(update=update)
    assert trained_variants(params) == ["tuned"]
    # The preferred model continues the adapter of the pipeline's own seed.
    assert seed_pairs(params, ["tuned"]) == []
    assert note_of_preferences(params).startswith("seeds: prefer@a and the variants of its")


def test_differences_from_borrowed_benchmark_scores_are_left_out(workspace: Path) -> None:
    edit_params(workspace / "params.yaml", few_shot_pair)
    for variant, shift in (("base", 0.0), ("tuned", 0.1), ("few", 0.05)):
        fill(workspace, variant, shift)
    params = load_params()
    found = read_differences(Path(), params.compare.pairs, ["tuned"], params)
    without = {name.removeprefix("tuned_minus_few__") for name in found if "_few__" in name}
    every = {name.removeprefix("tuned_minus_base__") for name in found if "_base__" in name}
    assert every - without == {"t_acc"}
    # ROUGE-1 is 0.1 + shift.
    assert found["tuned_minus_few__rouge1_f"] == pytest.approx(0.05)
    # metrics/compare.json has the same measures.
    results = pairs.compare_all(Path("data"), {}, params)
    assert "tuned_minus_few__t_acc" not in results
    assert found.keys() <= results.keys()


def test_a_measure_without_shared_items_has_no_difference(workspace: Path) -> None:
    edit_params(workspace / "params.yaml", two_variants)
    fill(workspace, "base", 0.0)
    fill(workspace, "tuned", 0.1)
    path = workspace / "data/scores/tuned.jsonl"
    write_rows(path, [row | {"id": f"other-{row['id']}"} for row in read_rows(path)])
    params = load_params()
    found = read_differences(Path(), params.compare.pairs, ["tuned"], params)
    assert "tuned_minus_base__rouge1_f" not in found
    assert "tuned_minus_base__t_acc" in found


def test_only_figures_of_all_runs_have_a_spread() -> None:
    found = common_spreads([{"a": 1.0, "b": 2.0}, {"a": 3.0}, {"a": 2.0, "c": 5.0}])
    assert list(found) == ["a"]
    assert (found["a"]["first"], found["a"]["mean"]) == (1.0, 2.0)


# What compare makes of it


def spread_of(first: float, width: float) -> dict[str, float]:
    """Return a spread with this first value and range; the first value is the lowest."""
    return {
        "first": first,
        "mean": first + width / 2,
        "lowest": first,
        "highest": first + width,
        "range": width,
        "stdev": width / 4,
    }


def write_spread(workspace: Path, **groups: tuple[float, float]) -> Path:
    """Write seeds.json with the given first value and range of each figure."""
    file = workspace / "metrics/seeds.json"
    spreads = {name: spread_of(first, width) for name, (first, width) in groups.items()}
    write_metrics(file, {"seeds": 3, **spreads})
    return file


@pytest.fixture
def three(workspace: Path) -> Path:
    """Rows of base, tuned and quantized.

    The differences of tuned and base are ROUGE-1 0.1 and ROUGE-L 0.15. Those of quantized and tuned
    are half of them.
    """
    edit_params(workspace / "params.yaml", few_primary)
    for variant, shift in (("base", 0.0), ("tuned", 0.1), ("quantized", 0.15)):
        fill(workspace, variant, shift)
    return workspace


def marked(workspace: Path, file: Path) -> pairs.Results:
    params = load_params()
    results = pairs.compare_all(workspace / "data", {}, params)
    marks.mark_seeds(results, json.loads(file.read_text(encoding="utf-8")), params)
    return results


def test_a_difference_within_its_range_over_seeds_is_marked(three: Path) -> None:
    results = marked(
        three,
        write_spread(
            three,
            tuned_minus_base__rouge1_f=(0.1, 0.1),
            tuned_minus_base__rougeL_f=(0.15, 0.14),
            # The spread of tuned alone says nothing about quantized against tuned.
            tuned__rouge1_f=(0.2, 0.1),
        ),
    )
    found = {
        key: (row["seeds"], row["seed_mean"], row["seed_stdev"], row["within_seed_range"])
        for key, row in results.items()
        if "seeds" in row
    }
    assert found == {
        # 0.1 within 0.1, whatever the last binary digit says.
        "tuned_minus_base__rouge1_f": (3, 0.15, 0.025, True),
        "tuned_minus_base__rougeL_f": (3, 0.22, 0.035, False),
    }
    note = marks.seed_note(results)
    assert "over 3 runs" in note
    assert "marks the 1 of 2 differences that are no larger than the range" in note
    assert "(0 of them are 0)" in note


def test_the_spread_of_another_run_is_not_used(three: Path) -> None:
    # ROUGE-1 is the same by chance, ROUGE-L is not: none of the two is this run's.
    file = write_spread(
        three, tuned_minus_base__rouge1_f=(0.1, 0.1), tuned_minus_base__rougeL_f=(0.150001, 0.2)
    )
    results = marked(three, file)
    assert not any("seeds" in row or "within_seed_range" in row for row in results.values())
    assert "was not measured for this run" in marks.seed_note(results)


def test_seed_ranges_are_compared_after_rounding_to_six_digits(workspace: Path) -> None:
    edit_params(workspace / "params.yaml", two_variants)
    fill(workspace, "base", 0.0)
    fill(workspace, "tuned", 1 / 30)
    # The difference is 0.0333333..., and a range of just that was written as 0.0333333.
    file = write_spread(workspace, tuned_minus_base__rouge1_f=(0.0333333, 0.0333333))
    assert marked(workspace, file)["tuned_minus_base__rouge1_f"]["within_seed_range"] is True


def test_without_seed_runs_no_difference_is_marked(three: Path) -> None:
    file = three / "metrics/seeds.json"
    write_metrics(file, {"seeds": 0})
    results = marked(three, file)
    assert not any("seeds" in row for row in results.values())
    assert marks.seeds_table(three / "data", {"seeds": 0}, load_params()) == ""


def test_seed_note_counts_only_meaningful_differences() -> None:
    row: Difference = {"difference": 0.1, "seeds": 3, "within_seed_range": True}
    results = {"a": row | {"meaningful": True}, "b": row | {"meaningful": False}}
    assert "marks the 1 of 1 differences" in marks.seed_note(results)


def test_seed_note_says_what_another_machine_changes() -> None:
    machine = "On another kind of CPU, the ROUGE-L F1 of the untrained base moved by 0.012"
    assert machine in marks.seed_note({})


def test_table_shows_the_figures_of_each_variant_over_seeds(three: Path) -> None:
    file = write_spread(three, tuned__rouge1_f=(0.2, 0.1), tuned__rougeL_f=(0.35, 0.2))
    spreads = json.loads(file.read_text(encoding="utf-8"))
    assert marks.seeds_table(three / "data", spreads, load_params()).splitlines() == [
        "| figure | this run | mean ± standard deviation | lowest to highest |",
        "|---|---|---|---|",
        "| tuned: rouge1_f ↑ | 0.2000 | 0.2500 ± 0.0250 | 0.2000 to 0.3000 |",
        "| tuned: rougeL_f ↑ | 0.3500 | 0.4500 ± 0.0500 | 0.3500 to 0.5500 |",
    ]
