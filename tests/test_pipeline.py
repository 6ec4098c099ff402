"""`dvc repro` in a temporary clone, with a two-layer model: what users of DVC rely on."""

import json
import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from bench.clones import ROOT, clone_tree, commit, edit_params, git, shorten, small
from stages.compare import __main__ as compare
from tests.conftest import leftovers, run

VARIANTS = ("base", "tuned")
OFFLINE = {"HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": ""}


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


@pytest.fixture(scope="module")
def repo(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the whole pipeline has run once on the two-layer model, offline, and was committed."""
    folder = tmp_path_factory.mktemp("pipeline") / "bula"
    folder.mkdir()
    clone_tree(folder)
    # The two-layer model as base; as a GGUF file it is the judge, too.
    from stages.quantize import convert

    judge = tiny.parent / "judge.gguf"
    convert(tiny, "bf16", judge)

    def edit(params: dict) -> None:  # type: ignore[type-arg]
        small(tiny)(params)
        params["train"] |= {"gradient_accumulation": 4, "save_steps": 1}
        params["ingest"]["judge"] = {
            "kind": "directory",
            "path": str(judge),
            "license": "apache-2.0",
        }
        del params["variants"]["quantized"]

    shorten(folder / "data/demo")
    edit_params(folder / "params.yaml", edit)
    (folder / "dvc.lock").unlink(missing_ok=True)
    for name, place in (("local", "remote"), ("rows", "rows")):
        run(["dvc", "remote", "modify", name, "url", str(folder.parent / place)], folder)
    result = run(["dvc", "repro"], folder, **OFFLINE)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(stages_run(result.stdout)) == 18
    commit(folder, "run")
    return folder


def test_the_pipeline_writes_what_it_promises(repo: Path) -> None:
    metrics = sorted(
        str(p.relative_to(repo / "metrics")) for p in (repo / "metrics").rglob("*.json")
    )
    each = [
        f"{s}/{v}.json"
        for s in ("benchmark", "generate", "judge", "likelihood", "rouge")
        for v in VARIANTS
    ]
    single = [
        "calibrate.json",
        "compare.json",
        "contamination.json",
        "ingest.json",
        "merge.json",
        "preprocess.json",
        "quantize.json",
        "seeds.json",
        "template.json",
        "train.json",
    ]
    speed = ["speed/train.json", *(f"speed/generate/{v}.json" for v in VARIANTS)]
    assert metrics == sorted([*each, *single, *speed])
    report = (repo / "report/report.md").read_text(encoding="utf-8")
    assert "| | base | tuned |" in report
    assert "not trustworthy" in report
    assert "was not measured for this run" in report
    assert leftovers(repo) == []


def test_scores_of_another_kind_of_machine_are_named_in_the_report(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(repo / "metrics", tmp_path / "metrics")
    file = tmp_path / "metrics/likelihood/base.json"
    here = json.loads(file.read_text(encoding="utf-8"))
    here["settings"]["compute_dtype"] = {"bfloat16": "float32", "float32": "bfloat16"}[
        here["settings"]["compute_dtype"]
    ]
    file.write_text(json.dumps(here), encoding="utf-8")
    monkeypatch.chdir(repo)
    compare.main(
        figures=tmp_path / "metrics", report=tmp_path / "report", metrics=tmp_path / "compare.json"
    )
    assert "**likelihood was computed on machines of two kinds**" in (
        tmp_path / "report/report.md"
    ).read_text(encoding="utf-8")
    assert "two kinds" not in (repo / "report/report.md").read_text(encoding="utf-8")


def test_a_second_repro_runs_nothing(repo: Path) -> None:
    result = run(["dvc", "repro"], repo)
    assert result.returncode == 0
    assert stages_run(result.stdout) == []
    assert git(repo, "status", "--porcelain") == ""


def test_only_what_must_rerun_does_and_the_diff_reads_well(repo: Path) -> None:
    params = repo / "params.yaml"
    before = params.read_text(encoding="utf-8")

    def widen(p: dict) -> None:  # type: ignore[type-arg]
        p["rouge"]["resamples"] = 60
        p["compare"]["confidence"] = 0.8

    edit_params(params, widen)
    result = run(["dvc", "repro"], repo)
    assert sorted(stages_run(result.stdout)) == sorted(
        [*(f"rouge@{v}" for v in VARIANTS), "compare"]
    )
    diff = json.loads(run(["dvc", "metrics", "diff", "--json"], repo).stdout)
    assert set(diff) <= {"metrics/compare.json", *(f"metrics/rouge/{v}.json" for v in VARIANTS)}
    assert {key.split(".")[-1] for key in diff["metrics/compare.json"]} <= {"low", "high"}
    plots = run(["dvc", "plots", "diff", "HEAD", "--json"], repo)
    assert plots.returncode == 0, plots.stderr
    shown = json.loads(plots.stdout)["data"]
    assert "plots/rouge/tuned.json" in shown
    assert "plots/train/loss.json" in shown
    params.write_text(before, encoding="utf-8")
    # The run-cache brings the old results back without running a stage's work again.
    assert run(["dvc", "repro"], repo).returncode == 0


def test_an_edited_source_makes_ingest_stale_and_other_workers_make_nothing_stale(
    repo: Path,
) -> None:
    params, mine = repo / "params.yaml", repo / "data/sources/mine.jsonl"
    before = params.read_text(encoding="utf-8")
    edit_params(params, lambda p: p["compute"].update(workers=1))
    assert stages_run(run(["dvc", "repro", "--dry"], repo).stdout) == []
    params.write_text(before, encoding="utf-8")
    mine.write_text('{"pergunta": "Dói?", "resposta": "Sim."}\n', encoding="utf-8")
    assert "ingest" in stages_run(run(["dvc", "repro", "--dry"], repo).stdout)
    mine.unlink()
    assert stages_run(run(["dvc", "repro", "--dry"], repo).stdout) == []


def test_a_fresh_clone_pulls_everything_and_runs_nothing(repo: Path, tmp_path: Path) -> None:
    git(repo, "checkout", "--", ".")
    assert run(["dvc", "checkout", "--force"], repo).returncode == 0
    push = run(["dvc", "push"], repo)
    assert push.returncode == 0, push.stderr
    fresh = tmp_path / "fresh"
    git(tmp_path, "clone", "--quiet", str(repo), str(fresh))
    pull = run(["dvc", "pull"], fresh)
    assert pull.returncode == 0, pull.stderr
    again = run(["dvc", "repro"], fresh)
    assert again.returncode == 0
    assert stages_run(again.stdout) == []
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


@pytest.mark.parametrize("profile", ["smollm2-135m", "llama-3.2-1b"])
def test_each_profile_is_accepted(profile: str, repo: Path) -> None:
    params = repo / "params.yaml"
    before = params.read_text(encoding="utf-8")
    shutil.copy(ROOT / f"profiles/{profile}.yaml", params)
    # With --force DVC does not look into its run-cache, for which every dependency would have to exist already.
    result = run(["dvc", "repro", "--dry", "--force"], repo)
    variants = list(YAML(typ="safe").load(params.read_text(encoding="utf-8"))["variants"])
    planned = run(["dvc", "stage", "list", "--name-only"], repo).stdout.split()
    params.write_text(before, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    assert "ingest" in stages_run(result.stdout)
    assert sorted(planned) == sorted(
        [
            *(
                "check",
                "ingest",
                "preprocess",
                "train",
                "merge",
                "quantize",
                "calibrate",
                "compare",
            ),
            *(
                f"{stage}@{v}"
                for stage in ("likelihood", "generate", "benchmark", "rouge", "judge")
                for v in variants
            ),
        ]
    )


def test_a_bad_parameter_stops_the_first_stage_with_every_bad_key(tmp_path: Path) -> None:
    clone_tree(tmp_path)

    def edit(params: dict) -> None:  # type: ignore[type-arg]
        params["train"]["learning_rate"] = -1
        params["train"]["epochs"] = 3
        params["seed"] = "lucky"

    edit_params(tmp_path / "params.yaml", edit)
    (tmp_path / "dvc.lock").unlink(missing_ok=True)
    result = run(["dvc", "repro", "ingest"], tmp_path)
    assert result.returncode != 0
    assert "params.yaml: 3 bad values:" in result.stderr
    wrong = (
        "seed: Input should be a valid integer",
        "train.learning_rate: Input should be greater than 0",
        "train.epochs: Extra inputs",
    )
    for line in wrong:
        assert line in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "models/base").exists()


def test_another_seed_trains_another_model_and_compare_marks_what_luck_can_do(repo: Path) -> None:
    git(repo, "checkout", "--", ".")
    assert stages_run(run(["dvc", "repro", "--dry"], repo).stdout) == []
    seeds = run(["python", "-m", "bula", "seeds", "--count", "2"], repo, **OFFLINE)
    assert seeds.returncode == 0, seeds.stdout + seeds.stderr
    stages = (
        "train",
        "merge",
        "likelihood@tuned",
        "generate@tuned",
        "benchmark@tuned",
        "rouge@tuned",
    )
    assert re.findall(r"^seeds: seed \d+ \(2 of 2\): (\S+)$", seeds.stdout, re.MULTILINE) == list(
        stages
    )
    # Neither the pipeline's own models nor its figures are touched.
    again = run(["dvc", "repro"], repo, **OFFLINE)
    assert stages_run(again.stdout) == ["compare"], again.stdout + again.stderr
    changed = {line[3:] for line in git(repo, "status", "--porcelain").splitlines()}
    assert changed == {"dvc.lock", "metrics/compare.json", "metrics/seeds.json"}
    spread = json.loads((repo / "metrics/seeds.json").read_text(encoding="utf-8"))
    likelihood = json.loads((repo / "metrics/likelihood/tuned.json").read_text(encoding="utf-8"))
    assert spread["tuned__bits_per_character"]["first"] == pytest.approx(
        likelihood["pooled"]["bits_per_character"], rel=1e-5
    )
    assert spread["tuned__bits_per_character"]["range"] > 0
    assert spread["train__dev_loss_nats"]["range"] > 0
    rows = json.loads((repo / "metrics/compare.json").read_text(encoding="utf-8"))
    assert all(("seed_range" in row) == ("__judge_" not in name) for name, row in rows.items())
    bits = rows["tuned_minus_base__bits_per_character"]
    assert bits["seed_range"] == spread["tuned__bits_per_character"]["range"]
    assert bits["within_seed_range"] == (abs(bits["difference"]) <= bits["seed_range"])
    assert "marks the" in (repo / "report/report.md").read_text(encoding="utf-8")
