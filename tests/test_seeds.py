"""`make seeds`: runs under other seeds in folders of their own, their spread, and what compare makes of it.

Here the stages are a few lines of Python; tests/test_pipeline.py runs the real ones.
"""

import fcntl
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from bench.clones import ROOT, edit_params
from bula.__main__ import app
from bula.commands.seeds import (
    check_precision,
    read_lock,
    spread,
    to_link,
    trained,
    trains_on_cpu,
    work_folder,
)
from bula.errors import UserError
from bula.params import load_params
from bula.reports import write_metrics
from stages.compare import pairs, report
from tests.conftest import run
from tests.test_compare import fill, two_variants

SEED = 20261122
STAGES = ("train", "merge", "likelihood@tuned", "generate@tuned", "benchmark@tuned", "rouge@tuned")

# One module for all stages; what it writes depends on the seed, and on what the stages before it wrote, as with the real ones.
WORK = """
import json, math, os, sys
from pathlib import Path
from ruamel.yaml import YAML

stage, root = sys.argv[1], Path(__file__).parent
seed = YAML(typ="safe").load(Path("params.yaml").read_text())["seed"]
with (root / "log").open("a") as log:
    log.write(f"{seed} {os.environ['DVC_STAGE']}\\n")
if (root / "broken").exists() and stage == "benchmark":
    sys.exit(3)

def read(path):
    return Path(path).read_text().strip()

def write(path, value):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(value) + "\\n")

elsewhere = root / "elsewhere"
here = "bfloat16" if elsewhere.exists() and elsewhere.read_text() == stage else "float32"
if stage in ("likelihood", "benchmark"):
    write(f"metrics/{stage}/tuned.json", {"settings": {"compute_dtype": here}})
if stage == "generate":
    write("metrics/generate/tuned.json", {"settings": {"compute_dtype": "the engine's own"}})

# 2, 1.99 and 2.015 bits a character.
bits = {20261122: 2.0, 20261123: 1.99, 20261124: 2.015}[seed]
if stage == "train":
    assert read("data/clean/train.jsonl") == "rows" and read("models/base/weights") == "base"
    write("models/adapter/seed", seed)
    write("metrics/train.json", {"dev": {"loss_nats": bits + 1}, "run": {"compute_dtype": here}})
elif stage == "merge":
    write("models/merged/seed", int(read("models/adapter/seed")))
elif stage == "likelihood":
    assert int(read("models/merged/seed")) == seed
    write("data/likelihood/tuned.jsonl", {"id": "a", "nats": 10 * bits * math.log(2), "characters": 10})
elif stage == "generate":
    write("data/answers/tuned.jsonl", {"id": "a", "degenerate": False})
elif stage == "benchmark":
    write("data/samples/tuned.jsonl", {"task": "t", "document": "a", "scores": {"acc": float(seed % 2)}})
elif stage == "rouge":
    assert read("data/answers/tuned.jsonl")
    write("data/scores/tuned.jsonl", {"id": "a", "rouge1_f": 0.1, "rouge2_f": 0.0, "rougeL_f": 0.1})
"""


def entry(name: str, deps: list[str], outs: list[str]) -> dict[str, Any]:
    return {"cmd": "exec ./stage", "deps": ["work.py", *deps], "params": ["seed"], "outs": outs}


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository with the stages that `bula seeds` repeats, as the current directory."""
    scoring = {
        "likelihood": entry("likelihood", ["models/merged"], ["data/likelihood/${key}.jsonl"]),
        "generate": entry("generate", ["models/merged"], ["data/answers/${key}.jsonl"]),
        "benchmark": entry("benchmark", ["models/merged"], ["data/samples/${key}.jsonl"]),
        "rouge": entry("rouge", ["data/answers/${key}.jsonl"], ["data/scores/${key}.jsonl"]),
    }
    stages: dict[str, Any] = {
        "train": entry(
            "train",
            ["data/clean/train.jsonl", "models/base"],
            ["models/adapter", "metrics/train.json"],
        ),
        "merge": entry("merge", ["models/adapter", "models/base"], ["models/merged"]),
    } | {name: {"foreach": "${variants}", "do": do} for name, do in scoring.items()}
    with (tmp_path / "dvc.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump({"stages": stages}, file)
    (tmp_path / "work.py").write_text(WORK, encoding="utf-8")
    (tmp_path / "stage").write_text(
        '#!/bin/sh\nexec python -m work "${DVC_STAGE%%@*}"\n', encoding="utf-8"
    )
    (tmp_path / "stage").chmod(0o755)
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", tmp_path / "params.yaml")
    shutil.copytree(ROOT / "accelerate", tmp_path / "accelerate")
    edit_params(tmp_path / "params.yaml", lambda params: params.update(seed=SEED, dtype="float32"))
    for path, content in (("data/clean/train.jsonl", "rows"), ("models/base/weights", "base")):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(content, encoding="utf-8")
    assert run(["dvc", "init", "--no-scm", "--quiet"], tmp_path).returncode == 0
    monkeypatch.chdir(tmp_path)
    return tmp_path


def seeds(repo: Path, count: int) -> tuple[int, str, list[str]]:
    """Run `bula seeds` and give its exit code, what a person reads, and the stages that ran."""
    (repo / "log").unlink(missing_ok=True)
    result = run(["python", "-m", "bula", "seeds", "--count", str(count)], repo)
    log = (repo / "log").read_text(encoding="utf-8").splitlines() if (repo / "log").exists() else []
    return result.returncode, result.stdout + result.stderr, log


def stages_of(*numbers: int) -> list[str]:
    return [f"{number} {stage}" for number in numbers for stage in STAGES]


def test_a_spread_worked_by_hand_as_in_docs_metrics() -> None:
    found = spread([2.0, 1.99, 2.015])
    # Deviations -0.00167, -0.01167, 0.01333; their squares sum to 0.000316667, half of it is 0.000158333.
    assert found == pytest.approx(
        {
            "seeds": 3,
            "first": 2.0,
            "mean": 2.0016667,
            "lowest": 1.99,
            "highest": 2.015,
            "range": 0.025,
            "stdev": 0.01258306,
        }
    )
    with pytest.raises(ValueError, match="two seeds"):
        spread([2.0])


def test_training_on_the_cpu_of_a_machine_with_a_gpu_is_that_machines_own_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "accelerate", "accelerate")
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    assert trains_on_cpu(params)
    assert not trains_on_cpu(
        params.model_copy(update={"train": params.train.model_copy(update={"launch": "gpu"})})
    )
    told = {
        name: {"settings": {"compute_dtype": "bfloat16"}}
        for name in ("likelihood/v", "generate/v", "benchmark/v")
    }
    for name, figures in (told | {"train": {"run": {"compute_dtype": "float32"}}}).items():
        Path(f"metrics/{name}.json").parent.mkdir(parents=True, exist_ok=True)
        Path(f"metrics/{name}.json").write_text(json.dumps(figures), encoding="utf-8")
    check_precision("bfloat16", "float32", ["v"])
    with pytest.raises(UserError, match="train in float32; this one"):
        check_precision("bfloat16", "bfloat16", ["v"])


@pytest.mark.parametrize(("stage", "name"), [("train", "train"), ("benchmark", "benchmark/tuned")])
def test_a_run_of_another_kind_of_machine_is_refused_before_a_seed_runs(
    stage: str, name: str, repo: Path
) -> None:
    (repo / "elsewhere").write_text(stage, encoding="utf-8")
    code, said, log = seeds(repo, 2)
    assert code == 1
    assert f"({name} in bfloat16; this one computes in float32)" in said
    assert "Traceback" not in said
    assert sorted(log) == sorted(stages_of(SEED))


def test_each_seed_runs_every_stage_once_in_its_own_folder_and_never_again(repo: Path) -> None:
    code, said, log = seeds(repo, 3)
    assert code == 0, said
    assert sorted(log[:6]) == sorted(stages_of(SEED))
    assert log[6:] == stages_of(SEED + 1, SEED + 2)
    assert f"seeds: seed {SEED + 1} (2 of 3): likelihood@tuned" in said
    assert "seeds: 3 seeds, the spread of 7 figures in metrics/seeds.json" in said
    written = json.loads((repo / "metrics/seeds.json").read_text(encoding="utf-8"))
    assert written["seeds"] == 3
    figures = {
        "seeds": 3,
        "first": 2.0,
        "mean": 2.00167,
        "lowest": 1.99,
        "highest": 2.015,
        "range": 0.025,
        "stdev": 0.0125831,
    }
    assert written["tuned__bits_per_character"] == figures
    assert written["train__dev_loss_nats"] == figures | {
        "first": 3.0,
        "mean": 3.00167,
        "lowest": 2.99,
        "highest": 3.015,
    }
    # 0, 1 and 0 right: deviations -1/3, 2/3, -1/3, whose squares sum to 2/3.
    assert written["tuned__t_acc"]["stdev"] == pytest.approx(0.57735)
    assert set(written) - {"seeds"} == {
        "train__dev_loss_nats",
        *(
            f"tuned__{name}"
            for name in (
                "degenerate",
                "bits_per_character",
                "rouge1_f",
                "rouge2_f",
                "rougeL_f",
                "t_acc",
            )
        ),
    }
    folder = repo / work_folder(read_lock(["tuned"]), SEED + 1, "float32")
    assert load_params(folder / "params.yaml") == load_params().model_copy(
        update={"seed": SEED + 1}
    )
    assert (folder / "data/clean/train.jsonl").resolve() == repo / "data/clean/train.jsonl"
    # The models of other seeds go, the pipeline's own and its base stay.
    assert not (folder / "models").exists()
    assert (repo / "models/base/weights").exists()
    assert (repo / "models/merged/seed").read_text(encoding="utf-8") == f"{SEED}\n"

    code, said, log = seeds(repo, 3)
    assert (code, log) == (0, [])
    assert f"seeds: seed {SEED + 2} (3 of 3): done before" in said
    (repo / "data/clean/train.jsonl").write_text("rows\n\n", encoding="utf-8")
    code, said, log = seeds(repo, 2)
    assert code == 0, said
    assert [line for line in log if line.startswith(str(SEED + 1))] == stages_of(SEED + 1)


def test_what_finished_before_a_failure_is_kept(repo: Path) -> None:
    assert run(["dvc", "repro", *STAGES], repo).returncode == 0
    (repo / "broken").touch()
    code, said, log = seeds(repo, 2)
    assert code == 1
    assert (
        f"benchmark@tuned under seed {SEED + 1} exited with code 3; what finished is kept" in said
    )
    assert "Traceback" not in said
    assert log == stages_of(SEED + 1)[:5]
    assert not (repo / "metrics/seeds.json").exists()
    (repo / "broken").unlink()
    code, said, log = seeds(repo, 2)
    assert (code, log) == (0, stages_of(SEED + 1)[4:])


def test_a_second_run_on_a_seed_is_refused_while_the_first_one_works(repo: Path) -> None:
    assert run(["dvc", "repro", *STAGES], repo).returncode == 0
    folder = work_folder(read_lock(["tuned"]), SEED + 1, "float32")
    folder.mkdir(parents=True)
    with (folder / "lock").open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, said, log = seeds(repo, 2)
    assert (code, log) == (1, [])
    assert f"{folder}: another run works there right now" in said


def test_a_failed_run_of_the_pipeline_and_a_single_seed_are_refused(repo: Path) -> None:
    (repo / "broken").touch()
    code, said, _ = seeds(repo, 2)
    assert code == 1
    assert "the pipeline's own run failed. Read dvc's words above." in said
    result = CliRunner().invoke(app, ["seeds", "--count", "1"])
    assert result.exit_code == 2


def test_variants_are_found_by_their_model() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    assert trained(params) == ["tuned"]
    with pytest.raises(UserError, match="has the model models/merged"):
        trained(params.model_copy(update={"variants": {"base": params.variants["base"]}}))


def test_nothing_is_linked_below_another_link() -> None:
    assert to_link(["data/clean/dev.jsonl", "data/clean", "models/base", "stages/merge.py"]) == [
        "data/clean",
        "models/base",
    ]


# What compare makes of it


def write_spread(workspace: Path, **groups: tuple[float, float]) -> Path:
    """A seeds.json with the given first value and range of each figure."""
    file = workspace / "metrics/seeds.json"
    write_metrics(
        file,
        {"seeds": 3}
        | {name: {"first": first, "range": width} for name, (first, width) in groups.items()},
    )
    return file


@pytest.fixture
def three(workspace: Path) -> Path:
    """Rows of base, tuned and quantized. Means of tuned: ROUGE-1 0.2, ROUGE-L 0.35; of quantized: 0.25 and 0.425."""
    for variant, shift in (("base", 0.0), ("tuned", 0.1), ("quantized", 0.15)):
        fill(workspace, variant, shift)
    return workspace


def marked(workspace: Path, file: Path) -> pairs.Results:
    params = load_params()
    results = pairs.compare_all(workspace / "data", params)
    pairs.mark_seed_ranges(
        results,
        pairs.seed_ranges(json.loads(file.read_text(encoding="utf-8")), workspace / "data", params),
        params,
    )
    return results


def test_a_difference_within_the_range_over_seeds_is_marked(three: Path) -> None:
    results = marked(
        three, write_spread(three, tuned__rouge1_f=(0.2, 0.1), tuned__rougeL_f=(0.35, 0.2))
    )
    found = {
        key: (row["seed_range"], row["within_seed_range"])
        for key, row in results.items()
        if "seed_range" in row
    }
    assert found == {
        # 0.1 within 0.1, whatever the last binary digit says.
        "tuned_minus_base__rouge1_f": (0.1, True),
        "tuned_minus_base__rougeL_f": (0.2, True),
        # No seed trained this variant: the tuned one's range stands for it. 0.15 exceeds 0.1; 0.225 exceeds 0.2.
        "quantized_minus_base__rouge1_f": (0.1, False),
        "quantized_minus_base__rougeL_f": (0.2, False),
    }
    note = report.seed_note(results, 3)
    assert "over 3 runs" in note
    assert "marks the 2 of 4 differences that are no larger, 0 of them 0" in note


def test_a_variants_own_range_goes_before_a_larger_one_of_another(three: Path) -> None:
    results = marked(
        three, write_spread(three, tuned__rouge1_f=(0.2, 0.4), quantized__rouge1_f=(0.25, 0.1))
    )
    assert results["quantized_minus_base__rouge1_f"]["seed_range"] == 0.1
    assert results["tuned_minus_base__rouge1_f"]["seed_range"] == 0.4


def test_the_spread_of_another_run_is_not_used(three: Path) -> None:
    # ROUGE-1 is the same by chance, ROUGE-L is not: none of the two is this run's.
    results = marked(
        three, write_spread(three, tuned__rouge1_f=(0.2, 0.1), tuned__rougeL_f=(0.350001, 0.2))
    )
    assert not any("seed_range" in row or "within_seed_range" in row for row in results.values())
    assert "was not measured for this run" in report.seed_note(results, 3)


def test_six_significant_digits_decide(workspace: Path) -> None:
    edit_params(workspace / "params.yaml", two_variants)
    fill(workspace, "base", 0.0)
    fill(workspace, "tuned", 1 / 30)
    # The difference is 0.0333333..., and a range of just that was written as 0.0333333.
    results = marked(workspace, write_spread(workspace, tuned__rouge1_f=(0.133333, 0.0333333)))
    assert results["tuned_minus_base__rouge1_f"]["within_seed_range"] is True


def test_before_any_seed_ran_nothing_is_marked(three: Path) -> None:
    file = three / "metrics/seeds.json"
    write_metrics(file, {"seeds": 0})
    results = marked(three, file)
    assert not any("seed_range" in row for row in results.values())
    with pytest.raises(FileNotFoundError, match="missing"):
        marked(three, three / "metrics/missing.json")
