"""`dvc repro` in a temporary clone, with a two-layer model: the behaviour that users rely on."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.clones import ROOT, Edit, clone_tree, commit, edit_params, git, shorten, small
from bula.gguf_export import convert
from stages.compare import __main__ as compare
from tests.conftest import leftovers, run
from tests.stub_pipeline import STAGES

VARIANTS = ("base", "tuned")
SCORING = ("likelihood", "generate", "safety", "benchmark", "rouge", "bertscore", "judge")
SINGLE_STAGES = (
    "check",
    "models",
    "dry_run",
    "ingest",
    "preprocess",
    "train",
    "merge",
    "quantize",
    "calibrate",
    "labels",
    "compare",
    "controls",
    "bertscore_controls",
)
# `bula seeds` repeats the stages from train on.
SEEDED_STAGES = set(STAGES) - {"preprocess"}
SINGLE_METRICS = (
    "calibrate.json",
    "compare.json",
    "contamination.json",
    "dry_run.json",
    "bertscore_controls.json",
    "controls.json",
    "ingest.json",
    "labels.json",
    "merge.json",
    "models.json",
    "preprocess.json",
    "quantize.json",
    "seeds.json",
    "speed/calibrate.json",
    "speed/train.json",
    "summary.json",
    "template.json",
    "train.json",
)
OFFLINE = {"HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": ""}
IDENTITY = {
    "GIT_AUTHOR_NAME": "T",
    "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "T",
    "GIT_COMMITTER_EMAIL": "t@example.org",
}


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


def shrink(tiny: Path, judge: Path) -> Edit:
    """Return the edit that makes the two-layer model the base, and its GGUF file the judge."""

    def edit(params: dict[str, Any]) -> None:
        small(tiny)(params)
        params["train"] |= {"gradient_accumulation": 4, "save_steps": 1}
        file = {"kind": "directory", "path": str(judge), "license": "apache-2.0"}
        params["ingest"]["judge"] = file
        del params["variants"]["quantized"]
        del params["compare"]["pairs"][1]

    return edit


@pytest.fixture(scope="module")
def repo(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clone in which the pipeline ran once on the two-layer model, committed."""
    folder = tmp_path_factory.mktemp("pipeline") / "bula"
    folder.mkdir()
    clone_tree(folder)
    judge = tiny.parent / "judge.gguf"
    convert(tiny, "bf16", judge)
    shorten(folder / "data/demo")
    edit_params(folder / "params.yaml", shrink(tiny, judge))
    (folder / "dvc.lock").unlink(missing_ok=True)
    for name, place in (("local", "remote"), ("rows", "rows")):
        run(["dvc", "remote", "modify", name, "url", str(folder.parent / place)], folder)
    result = run(["dvc", "repro"], folder, **OFFLINE)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(stages_run(result.stdout)) == 27
    recorded = run(["python", "-m", "bula", "keep-runs"], folder)
    assert recorded.returncode == 0, recorded.stderr
    commit(folder, "run")
    return folder


def test_the_pipeline_writes_every_metrics_file_that_it_promises(repo: Path) -> None:
    metrics = repo / "metrics"
    written = sorted(str(path.relative_to(metrics)) for path in metrics.rglob("*.json"))
    scored = [*SCORING, "speed/generate", "speed/judge"]
    expected = [f"{stage}/{variant}.json" for stage in scored for variant in VARIANTS]
    assert written == sorted([*expected, *SINGLE_METRICS])
    assert leftovers(repo) == []


def test_the_report_has_the_table_and_names_what_was_not_measured(repo: Path) -> None:
    report = (repo / "report/report.md").read_text(encoding="utf-8")
    assert "| | base | tuned | stock answer |" in report
    assert "withheld: kappa" in report
    assert "## Safety" in report
    assert "## Contrast pairs" in report
    assert "was not measured for this run" in report


def test_report_names_the_stages_with_mixed_precisions(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(repo / "metrics", tmp_path / "metrics")
    file = tmp_path / "metrics/likelihood/base.json"
    here = json.loads(file.read_text(encoding="utf-8"))
    other = {"bfloat16": "float32", "float32": "bfloat16"}
    here["settings"]["compute_dtype"] = other[here["settings"]["compute_dtype"]]
    file.write_text(json.dumps(here), encoding="utf-8")
    monkeypatch.chdir(repo)
    report, metrics = tmp_path / "report", tmp_path / "compare.json"
    summary = tmp_path / "summary.json"
    compare.main(figures=tmp_path / "metrics", report=report, metrics=metrics, summary=summary)
    warned = (report / "report.md").read_text(encoding="utf-8")
    assert "**likelihood mixes two compute precisions**" in warned
    assert "two compute precisions" not in (repo / "report/report.md").read_text(encoding="utf-8")


def test_a_second_repro_runs_nothing(repo: Path) -> None:
    result = run(["dvc", "repro"], repo)
    assert result.returncode == 0
    assert stages_run(result.stdout) == []
    assert git(repo, "status", "--porcelain") == ""


@pytest.fixture(scope="module")
def widened(repo: Path) -> Iterator[tuple[Path, str]]:
    """Yield the repository after a change of two parameters, and what its second run printed."""
    params = repo / "params.yaml"
    before = params.read_text(encoding="utf-8")

    def widen(values: dict[str, Any]) -> None:
        values["rouge"]["resamples"] = 60
        values["compare"]["confidence"] = 0.8

    edit_params(params, widen)
    yield repo, run(["dvc", "repro"], repo).stdout
    params.write_text(before, encoding="utf-8")
    back = run(["dvc", "repro"], repo)
    assert back.returncode == 0
    # `keep-runs` recorded the first run, so no stage's work runs again.
    assert stages_run(back.stdout) == []


def test_only_the_stages_that_read_a_changed_parameter_run(widened: tuple[Path, str]) -> None:
    _, output = widened
    assert sorted(stages_run(output)) == sorted(
        ["rouge@base", "rouge@tuned", "controls", "compare"]
    )


def metrics_diff(repo: Path, *options: str) -> dict[str, Any]:
    """Return the changed figures by file."""
    diff = run(["dvc", "metrics", "diff", "--json", *options], repo)
    assert diff.returncode == 0, diff.stderr
    found: dict[str, Any] = json.loads(diff.stdout)
    return found


def test_the_metrics_diff_shows_the_headline_only(widened: tuple[Path, str]) -> None:
    repo, _ = widened
    headline = metrics_diff(repo, "--all")
    assert set(headline) == {"metrics/summary.json"}
    assert "tuned.perplexity" in headline["metrics/summary.json"]
    # More resamples move no figure but an interval of ROUGE, whose width rounds it.
    changed = metrics_diff(repo).get("metrics/summary.json", {})
    assert {key.split(".")[-1] for key in changed} <= {"rougeL_f"}


def test_the_metrics_diff_shows_a_file_that_is_named(widened: tuple[Path, str]) -> None:
    repo, _ = widened
    files = {"metrics/rouge/base.json", "metrics/rouge/tuned.json", "metrics/compare.json"}
    assert set(metrics_diff(repo, "--all", "--targets", *sorted(files))) == files
    # So few items have no interval, and more resamples change nothing else in compare.json.
    changed = metrics_diff(repo, "--targets", *sorted(files)).get("metrics/compare.json", {})
    assert {key.split(".")[-1] for key in changed} <= {"low", "high"}


def test_the_plots_diff_shows_the_curves(widened: tuple[Path, str]) -> None:
    repo, _ = widened
    plots = run(["dvc", "plots", "diff", "HEAD", "--json"], repo)
    assert plots.returncode == 0, plots.stderr
    assert {"plots/rouge/tuned.json", "plots/train/loss.json"} <= set(
        json.loads(plots.stdout)["data"]
    )


def test_another_number_of_workers_makes_no_stage_stale(repo: Path) -> None:
    params = repo / "params.yaml"
    before = params.read_text(encoding="utf-8")
    edit_params(params, lambda values: values["compute"].update(workers=1))
    assert stages_run(run(["dvc", "repro", "--dry"], repo).stdout) == []
    params.write_text(before, encoding="utf-8")


def test_an_edited_source_makes_ingest_stale(repo: Path) -> None:
    mine = repo / "data/sources/mine.jsonl"
    mine.write_text('{"pergunta": "Dói?", "resposta": "Sim."}\n', encoding="utf-8")
    assert "ingest" in stages_run(run(["dvc", "repro", "--dry"], repo).stdout)
    mine.unlink()
    assert stages_run(run(["dvc", "repro", "--dry"], repo).stdout) == []


def test_another_gguf_type_repeats_the_dry_run_and_fetches_no_model(repo: Path) -> None:
    params = repo / "params.yaml"
    before = params.read_text(encoding="utf-8")
    edit_params(params, lambda values: values["quantize"]["types"].append("q6_k"))
    stale = stages_run(run(["dvc", "repro", "--dry"], repo).stdout)
    params.write_text(before, encoding="utf-8")
    assert {"dry_run", "quantize"} <= set(stale)
    assert "models" not in stale


def test_a_fresh_clone_pulls_everything_and_runs_nothing(repo: Path, tmp_path: Path) -> None:
    git(repo, "checkout", "--", ".")
    assert run(["dvc", "checkout", "--force"], repo).returncode == 0
    push = run(["dvc", "push"], repo)
    assert push.returncode == 0, push.stderr
    fresh = tmp_path / "fresh"
    git(tmp_path, "clone", "--quiet", str(repo), str(fresh))
    pull = run(["dvc", "pull"], fresh)
    assert pull.returncode == 0, pull.stderr
    assert stages_run(run(["dvc", "repro"], fresh).stdout) == []
    assert git(fresh, "status", "--porcelain") == ""


def test_a_short_file_on_the_remote_makes_pull_fail(repo: Path, tmp_path: Path) -> None:
    assert run(["dvc", "push"], repo).returncode == 0
    damaged = max(
        (p for p in (repo.parent / "remote/files/md5").rglob("*") if p.is_file()),
        key=lambda p: p.stat().st_size,
    )
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-10])
    fresh = tmp_path / "fresh"
    git(tmp_path, "clone", "--quiet", str(repo), str(fresh))
    pull = run(["dvc", "pull"], fresh)
    assert pull.returncode != 0
    assert "Checkout failed" in pull.stderr


@pytest.mark.parametrize("profile", ["smollm2-135m", "llama-3.2-1b", "gemma-3-270m"])
def test_each_profile_is_accepted(profile: str, repo: Path) -> None:
    params = repo / "params.yaml"
    before = params.read_text(encoding="utf-8")
    shutil.copy(ROOT / f"profiles/{profile}.yaml", params)
    # Without --force DVC searches its run-cache, which needs every dependency to exist.
    result = run(["dvc", "repro", "--dry", "--force"], repo)
    variants = list(YAML(typ="safe").load(params.read_text(encoding="utf-8"))["variants"])
    planned = run(["dvc", "stage", "list", "--name-only"], repo).stdout.split()
    params.write_text(before, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    assert {"models", "dry_run", "ingest"} <= set(stages_run(result.stdout))
    per_variant = [f"{stage}@{variant}" for stage in SCORING for variant in variants]
    assert sorted(planned) == sorted([*SINGLE_STAGES, *per_variant])


def test_a_bad_parameter_stops_the_first_stage_with_every_bad_key(tmp_path: Path) -> None:
    clone_tree(tmp_path)

    def edit(params: dict[str, Any]) -> None:
        params["train"]["learning_rate"] = -1
        params["train"]["epochs"] = 3
        params["seed"] = "many"

    edit_params(tmp_path / "params.yaml", edit)
    (tmp_path / "dvc.lock").unlink(missing_ok=True)
    result = run(["dvc", "repro", "ingest"], tmp_path)
    assert result.returncode != 0
    found = re.findall(r"^  ([\w.]+): (\w+ \w+)", result.stderr, re.MULTILINE)
    assert dict(found) == {
        "seed": "Input should",
        "train.learning_rate": "Input should",
        "train.epochs": "there is",
    }
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "models/base").exists()


def test_a_queued_grid_is_trained_and_shows_only_what_changed(repo: Path) -> None:
    git(repo, "checkout", "--", ".")
    grid = ["-S", "train.learning_rate=0.002,0.004", "train"]
    queued = run(["dvc", "exp", "run", "--queue", *grid], repo, **OFFLINE, **IDENTITY)
    assert queued.stdout.count("Queued experiment") == 2, queued.stderr
    done = run(["dvc", "exp", "run", "--run-all"], repo, **OFFLINE, **IDENTITY)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = shown_experiments(repo)
    assert sorted(row["train.learning_rate"] for row in rows) == ["0.002", "0.004"]
    assert {row["State"] for row in rows} == {"Success"}
    assert "train.lora.r" not in rows[0]
    losses = set()
    for row in rows:
        # The cell has the commit, and the name of the experiment in brackets.
        name = row["Experiment"].split("[")[1].strip("]")
        diff = metrics_diff(repo, "HEAD", name, "--targets", "metrics/train.json")
        losses.add(diff["metrics/train.json"]["dev.loss_nats"]["new"])
    assert len(losses) == 2
    # The workspace and its lock stay as they were.
    assert git(repo, "status", "--porcelain") == ""


def test_a_received_adapter_is_scored_beside_the_base_without_training(repo: Path) -> None:
    git(repo, "checkout", "--", ".")
    result = run(["python", "-m", "bula", "evaluate", "models/adapter", "--name", "friend"], repo)
    assert result.returncode == 0, result.stdout + result.stderr
    stages = stages_run(result.stdout)
    assert {"likelihood@friend", "judge@friend", "compare"} <= set(stages)
    assert not {"train", "merge", "quantize", "likelihood@base"} & set(stages)
    clone = repo / ".bula/profiles/evaluate-friend"
    friend = (clone / "metrics/likelihood/friend.json").read_bytes()
    assert friend == (repo / "metrics/likelihood/tuned.json").read_bytes()
    report = (clone / "report/report.md").read_text(encoding="utf-8")
    assert "- training: none in this run" in report
    assert "## From adapter to quantized file" not in report
    assert git(repo, "status", "--porcelain") == ""


def shown_experiments(repo: Path) -> list[dict[str, str]]:
    """Return the rows of the experiments that `dvc exp show --only-changed` prints."""
    shown = run(["dvc", "exp", "show", "--only-changed", "--md", "--no-pager"], repo).stdout
    table = []
    for line in shown.splitlines():
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
    header, _, *rows = table
    experiments = [row for row in rows if "──" in row[0]]
    return [dict(zip(header, row, strict=True)) for row in experiments]


@pytest.fixture(scope="module")
def seeded(repo: Path) -> Path:
    """Return the repository after `bula seeds` with one further seed and another `dvc repro`."""
    git(repo, "checkout", "--", ".")
    assert stages_run(run(["dvc", "repro", "--dry"], repo).stdout) == []
    seeds = run(["python", "-m", "bula", "seeds", "--count", "2"], repo, **OFFLINE, **IDENTITY)
    assert seeds.returncode == 0, seeds.stdout + seeds.stderr
    assert set(stages_run(seeds.stdout)) == SEEDED_STAGES
    again = run(["dvc", "repro"], repo, **OFFLINE)
    assert stages_run(again.stdout) == ["compare"], again.stdout + again.stderr
    return repo


def read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_seeds_change_no_output_of_the_pipelines_own_run(seeded: Path) -> None:
    changed = {line[3:] for line in git(seeded, "status", "--porcelain").splitlines()}
    assert changed == {"dvc.lock", "metrics/compare.json", "metrics/seeds.json"}


def test_another_seed_trains_another_model(seeded: Path) -> None:
    spread = read_json(seeded / "metrics/seeds.json")
    pooled = read_json(seeded / "metrics/likelihood/tuned.json")["pooled"]
    bits = spread["tuned__bits_per_character"]
    assert bits["first"] == pytest.approx(pooled["bits_per_character"], rel=1e-5)
    assert bits["range"] > 0
    assert spread["train__dev_loss_nats"]["range"] > 0


def test_compare_marks_differences_that_seed_variance_explains(seeded: Path) -> None:
    spread = read_json(seeded / "metrics/seeds.json")
    rows = read_json(seeded / "metrics/compare.json")
    # No seed repeats the judge, the safety questions or the controls.
    unmeasured = re.compile("__judge_|__safety_|_minus_stock_answer__|_minus_character_6gram__")
    assert all(("seed_range" in row) == (not unmeasured.search(name)) for name, row in rows.items())
    bits = rows["tuned_minus_base__bits_per_character"]
    own = spread["tuned_minus_base__bits_per_character"]
    assert (bits["seed_range"], bits["seed_mean"]) == (own["range"], own["mean"])
    # The base is equal under every seed.
    tuned = spread["tuned__bits_per_character"]
    assert own["range"] == pytest.approx(tuned["range"], rel=1e-4)
    assert bits["within_seed_range"] == (abs(bits["difference"]) <= bits["seed_range"])
    assert "marks the" in (seeded / "report/report.md").read_text(encoding="utf-8")
