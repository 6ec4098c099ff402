"""Build a repository whose stages are a few lines of Python.

`bula seeds`, `bula sweep` and `bula profile` are tested in it.
"""

import shutil
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bench.clones import ROOT, commit, edit_params, git
from tests.conftest import run

SEED = 20261122
STAGES = (
    "preprocess",
    "train",
    "merge",
    "likelihood@tuned",
    "generate@tuned",
    "benchmark@tuned",
    "rouge@tuned",
)

# One module stands for all stages. Its outputs depend on the seed, the learning rate and earlier
# outputs. The environment names the folder of the log, because DVC runs an experiment in a copy.
WORK = """
import json, math, os, sys
from pathlib import Path
from ruamel.yaml import YAML

stage, _, variant = sys.argv[1].partition("@")
root = Path(os.environ["STUB_ROOT"])
params = YAML(typ="safe").load(Path("params.yaml").read_text())
seed, rate = params["seed"], params["train"]["learning_rate"]
OWN_RATE = 0.001
with (root / "log").open("a") as log:
    log.write(f"{seed} {os.environ['DVC_STAGE']}\\n")
Path(".bula").mkdir(exist_ok=True)
Path(".bula/dvc_root").write_text(os.environ["DVC_ROOT"])
if (root / "broken").exists() and stage == "benchmark":
    sys.exit(3)
if stage == "train" and rate > 100:
    sys.exit("training diverged")

def read(path):
    return Path(path).read_text().strip()

def write(path, value):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(value) + "\\n")

elsewhere = root / "elsewhere"
here = elsewhere.read_text() if elsewhere.exists() else "float32"
if stage in ("likelihood", "generate", "benchmark", "rouge"):
    write(f"metrics/{stage}/{variant}.json", {"settings": {"compute_dtype": here}})
# 2, 1.99 and 2.015 bits per character.
bits = {20261122: 2.0, 20261123: 1.99, 20261124: 2.015}[seed]
if stage == "preprocess":
    write("data/clean", sorted(path.name for path in Path("data/sources").iterdir()))
elif stage == "train":
    write("models/adapter", seed)
    # A tenfold rate costs 1 nat, and a tenth of the rate does.
    loss = bits + 1 + abs(math.log10(rate / OWN_RATE))
    write("metrics/train.json", {"dev": {"loss_nats": loss}, "run": {"compute_dtype": here}})
elif stage == "merge":
    write("models/merged", int(read("models/adapter")))
    write("metrics/merge.json", {"weights": {"matrices": 1}})
elif stage == "likelihood":
    assert int(read("models/merged")) == seed
    # The base has 2.5 bits per character.
    found = bits if variant == "tuned" else 2.5
    row = {"id": "a", "nats": 10 * found * math.log(2), "characters": 10}
    write(f"data/likelihood/{variant}.jsonl", row)
elif stage == "generate":
    write(f"data/answers/{variant}.jsonl", {"id": "a", "degenerate": False})
elif stage == "benchmark":
    row = {"task": "t", "document": "a", "scores": {"acc": float(seed % 2)}}
    write(f"data/samples/{variant}.jsonl", row)
elif stage == "rouge":
    row = {"id": "a", "rouge1_f": 0.1, "rouge2_f": 0.0, "rougeL_f": 0.1}
    write(f"data/scores/{variant}.jsonl", row)
    # The real stage compare writes it.
    write("report/headline.md", "table")
"""


def entry(deps: list[str], outs: list[str], metrics: str = "") -> dict[str, Any]:
    """Return a stage whose metrics file git has and DVC does not show, as in dvc.yaml."""
    stage: dict[str, Any] = {
        "cmd": "exec ./stage",
        "deps": ["work.py", *deps],
        "params": ["seed"],
        "outs": outs,
    }
    if outs == ["data/clean"]:
        del stage["params"]
    if outs == ["models/adapter"]:
        stage["params"].append("train.learning_rate")
    if metrics:
        stage["outs"] = [*outs, {metrics: {"cache": False}}]
    return stage


def pipeline() -> dict[str, Any]:
    """Return the stages that `bula seeds` repeats, as dvc.yaml has them."""
    merged = ["models/merged"]
    answers = ["data/answers/${key}.jsonl"]
    scoring = {
        "likelihood": (merged, ["data/likelihood/${key}.jsonl"]),
        "generate": (merged, answers),
        "benchmark": (merged, ["data/samples/${key}.jsonl"]),
        "rouge": (answers, ["data/scores/${key}.jsonl"]),
    }
    stages = {
        "preprocess": entry(["data/sources"], ["data/clean"]),
        "train": entry(["data/clean"], ["models/adapter"], "metrics/train.json"),
        "merge": entry(["models/adapter"], merged, "metrics/merge.json"),
    }
    for name, (deps, outs) in scoring.items():
        do = entry(deps, outs, f"metrics/{name}/${{key}}.json")
        stages[name] = {"foreach": "${variants}", "do": do}
    return {"stages": stages}


def write_repository(folder: Path) -> None:
    """Write and commit a Git and DVC repository with that pipeline."""
    with (folder / "dvc.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(pipeline(), file)
    (folder / "work.py").write_text(WORK, encoding="utf-8")
    script = '#!/bin/sh\nexec python work.py "$DVC_STAGE"\n'
    (folder / "stage").write_text(script, encoding="utf-8")
    (folder / "stage").chmod(0o755)
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", folder / "params.yaml")
    edit_params(folder / "params.yaml", lambda params: params.update(seed=SEED, dtype="float32"))
    shutil.copytree(ROOT / "accelerate", folder / "accelerate")
    (folder / "data/sources").mkdir(parents=True)
    (folder / "data/sources/rows.jsonl").write_text("{}\n", encoding="utf-8")
    ignored = "/.bula\n/.env\n/report\n/log\n/broken\n/elsewhere\n/data/sources/secret.jsonl\n"
    (folder / ".gitignore").write_text(ignored, encoding="utf-8")
    (folder / ".dvcignore").write_text("/.bula\n", encoding="utf-8")
    git(folder, "init", "--quiet")
    assert run(["dvc", "init", "--quiet"], folder).returncode == 0
    commit(folder, "start")


def log_of(repo: Path) -> list[str]:
    """Return the seed and the name of each stage that ran since the last call."""
    log = repo / "log"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines
