"""Check that ./stage passes no string of params.yaml to a shell."""

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.clones import ROOT, clone_tree, edit_params
from bula.errors import UserError
from stages import check
from tests.conftest import run

SHELLS = [shell for shell in ("dash", "bash", "zsh", "fish") if shutil.which(shell)]
STAGES: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
# A short stage that writes its arguments and its outputs.
STUB = """
import os, sys
from pathlib import Path

print("parent", os.environ.get("STAGE_PARENT", "none"), os.getppid())
Path("told").write_text(" ".join(sys.argv[1:]))
if Path("fail").exists():
    sys.exit(7)
for name in ("data/likelihood", "metrics/likelihood"):
    for ending in ("json", "jsonl"):
        Path(f"{name}/{sys.argv[-1]}.{ending}").write_text("{}")
"""


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """Return a DVC repository with ./stage and a stub of likelihood.

    The entry of likelihood is the real one, without its lists of modules.
    """
    shutil.copy(ROOT / "stage", tmp_path)
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/__init__.py").touch()
    (tmp_path / "stages/likelihood.py").write_text(STUB, encoding="utf-8")
    for folder in ("data/likelihood", "metrics/likelihood", "models/base"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "models/base/config.json").write_text("{}", encoding="utf-8")
    entry = STAGES["likelihood"]
    do = {**entry["do"], "deps": ["${item.model}"], "params": []}
    stages = {"likelihood": {**entry, "do": do}}
    write_yaml(tmp_path / "dvc.yaml", {"stages": stages})
    assert run(["dvc", "init", "--no-scm", "--quiet"], tmp_path).returncode == 0
    return tmp_path


def inner_entry(stage: str) -> Any:
    """Return the entry of a stage in dvc.yaml, without its foreach."""
    entry = STAGES[stage]
    return entry.get("do", entry)


def write_yaml(path: Path, content: Any) -> None:
    """Write a YAML file."""
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(content, file)


def write_variants(folder: Path, variants: dict[str, str]) -> None:
    """Write a params.yaml that has only variants, given by name and model."""
    models = {name: {"model": model, "engine": "transformers"} for name, model in variants.items()}
    write_yaml(folder / "params.yaml", {"variants": models})


def repro(folder: Path, *arguments: str, shell: str = "sh") -> subprocess.CompletedProcess[str]:
    """Run `dvc repro` with this shell."""
    path = str(shutil.which(shell))
    return run(["dvc", "repro", *arguments], folder, SHELL=path, PYTHONPATH=str(folder))


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `./stage` by hand."""
    return run(["./stage", *arguments], folder, PYTHONPATH=str(folder), **environment)


def told(folder: Path) -> str:
    """Return the arguments that the stub of the stage received."""
    return (folder / "told").read_text(encoding="utf-8")


def test_the_command_of_every_stage_is_the_same_constant() -> None:
    commands = [inner_entry(name)["cmd"] for name in STAGES]
    assert set(commands) == {"exec ./stage"}
    assert os.access(ROOT / "stage", os.X_OK)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_stage_receives_its_key_in_every_shell(stub: Path, shell: str) -> None:
    write_variants(stub, {"base": "models/base"})
    result = repro(stub, shell=shell)
    assert result.returncode == 0, result.stderr
    assert told(stub) == "-- base"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_parent_of_the_stage_is_dvc_in_every_shell(stub: Path, shell: str) -> None:
    write_variants(stub, {"base": "models/base"})
    result = repro(stub, shell=shell)
    # ./stage and Python replace dvc's shell by exec, so no process stays between dvc and the stage.
    lines = [line for line in result.stdout.splitlines() if line.startswith("parent")]
    _, stage_parent, parent = lines[0].split()
    assert stage_parent == parent


@pytest.mark.parametrize("shell", SHELLS)
def test_the_exit_code_of_the_stage_reaches_dvc_in_every_shell(stub: Path, shell: str) -> None:
    write_variants(stub, {"base": "models/base"})
    (stub / "fail").touch()
    result = repro(stub, shell=shell)
    assert result.returncode != 0
    assert "exited with 7" in result.stderr


# DVC resolves each path to models/base without a shell; a shell would run the inner command.
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    "model",
    [
        "models/$(touch pwned; echo base)/../base",
        "models/`touch pwned`/../base",
        "models/; touch pwned; /../base",
        "models/'; touch pwned; '/../base",
        'models/"; touch pwned; "/../base',
        "models/\ntouch pwned\n/../base",
        "models/(touch pwned)/../base",
        "models/| touch pwned/../base",
    ],
)
def test_no_string_of_params_yaml_reaches_a_shell(stub: Path, shell: str, model: str) -> None:
    write_variants(stub, {"base": model})
    result = repro(stub, shell=shell)
    assert not list(stub.rglob("pwned"))
    # Either DVC refuses the path, or the stage runs as usual.
    assert result.returncode != 0 or told(stub) == "-- base"


@pytest.mark.parametrize(
    "key",
    [
        "$(touch pwned)",
        "`touch pwned`",
        "a;touch pwned",
        "a b",
        "-h",
        "--clean=x",
    ],
)
def test_a_key_is_one_argument_and_never_an_option(stub: Path, key: str) -> None:
    result = start(stub, "likelihood", key)
    assert result.returncode in (0, 1), result.stderr
    assert told(stub) == f"-- {key}"
    assert not list(stub.rglob("pwned"))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../x",
        "likelihood/../x",
        "no",
        "$(touch pwned)",
        "likelihood x",
        "__init__",
        "-m",
        "a\nb",
    ],
)
@pytest.mark.parametrize("from_dvc", [True, False], ids=["in DVC_STAGE", "as argument"])
def test_an_unknown_stage_name_is_refused(stub: Path, name: str, from_dvc: bool) -> None:
    arguments = [] if from_dvc else [name]
    variable = name if from_dvc else ""
    result = start(stub, *arguments, DVC_STAGE=variable)
    assert result.returncode == 2
    expected = ("stage: there is no stage of this name", "usage: ./stage NAME")
    assert result.stderr.startswith(expected)
    assert not (stub / "told").exists()
    assert not list(stub.rglob("pwned"))


def test_the_name_of_a_stage_may_have_an_underscore(stub: Path) -> None:
    (stub / "stages/dry_run.py").write_text(STUB, encoding="utf-8")
    result = start(stub, DVC_STAGE="dry_run@base")
    assert result.returncode == 0, result.stderr
    assert told(stub) == "-- base"


def test_dvc_may_be_started_in_another_folder(stub: Path) -> None:
    write_variants(stub, {"base": "models/base"})
    (stub / "docs").mkdir()
    result = run(
        ["dvc", "repro", "../dvc.yaml:likelihood@base"], stub / "docs", PYTHONPATH=str(stub)
    )
    assert result.returncode == 0, result.stderr
    assert told(stub) == "-- base"


def copy_with_check(stub: Path, folder: Path, *, guarded: bool) -> None:
    """Copy the stub to a folder, and add the real stage `check`.

    Only with `guarded`, likelihood depends on the check.
    """
    shutil.copytree(stub, folder, ignore=shutil.ignore_patterns("deep"))
    shutil.copy(ROOT / "stages/check.py", folder / "stages")
    if guarded:
        pipeline = YAML(typ="safe").load(folder / "dvc.yaml")
        stages = pipeline["stages"]
        stages["likelihood"]["do"]["deps"].append("data/checked.txt")
        stages["check"] = {**STAGES["check"], "deps": []}
        write_yaml(folder / "dvc.yaml", pipeline)


@pytest.mark.parametrize("key", ["../../../victim/notes", "../seeds", "../../mine"])
@pytest.mark.parametrize("guarded", [True, False], ids=["after check", "without check"])
def test_the_name_of_a_variant_cannot_delete_a_file(stub: Path, key: str, guarded: bool) -> None:
    folder = stub / "deep/bula"
    copy_with_check(stub, folder, guarded=guarded)
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", folder / "params.yaml")
    hostile = {key: {"model": "models/base", "engine": "transformers"}}
    edit_params(folder / "params.yaml", lambda params: params["variants"].update(hostile))
    victim = Path(os.path.normpath(folder / f"metrics/likelihood/{key}.json"))
    victim.parent.mkdir(parents=True, exist_ok=True)
    victim.write_text("mine", encoding="utf-8")
    paths = os.pathsep.join([str(folder), str(ROOT)])
    result = run(["dvc", "repro", f"likelihood@{key}"], folder, PYTHONPATH=paths)
    assert result.returncode != 0 or not guarded
    # Without the check DVC removes the file before the stage starts, so this test can fail.
    is_kept = victim.exists() and victim.read_text(encoding="utf-8") == "mine"
    assert is_kept == guarded
    assert ("params.yaml: 1 bad value:" in result.stderr) == guarded


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_with_a_path_from_params_yaml_waits_for_the_check(stage: str) -> None:
    entry = inner_entry(stage)
    paths = map(str, [*entry["deps"], *entry["outs"]])
    has_template = any("${" in path for path in paths)
    assert not has_template or "data/checked.txt" in entry["deps"]


def test_the_check_runs_again_when_a_path_in_params_yaml_changes() -> None:
    paths = {"calibrate.attacks", "calibrate.gold", "ingest.benchmarks", "ingest.sources"}
    paths |= {"safety.labels", "safety.questions", "train.launch", "variants"}
    paths |= {"labels.files", "prefer"}
    paths |= {"bertscore.encoder", "ingest.base", "ingest.chat_template", "ingest.judge"}
    others = {"benchmark.tasks", "compare.primary", "device", "dtype", "generate.decoding"}
    assert set(STAGES["check"]["params"]) == paths | others


def name_path(key: str, path: str, params: dict[str, Any]) -> None:
    """Let the first source, or the first benchmark, read another path."""
    params["ingest"][key][0]["path"] = path


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("sources", "data/sources/wrong"),
        ("sources", "data/sources/folder/wrong.csv"),
        ("benchmarks", "data/demo/benchmarks/wrong.jsonl"),
    ],
)
def test_a_source_that_does_not_exist_is_refused_by_the_check(
    key: str, path: str, workspace: Path
) -> None:
    (workspace / "accelerate").symlink_to(ROOT / "accelerate")
    edit_params(workspace / "params.yaml", partial(name_path, key, path))
    name = {"sources": "demo", "benchmarks": "bula_medmcqa"}[key]
    message = rf"{path}: it does not exist\. Correct `path` of {name} in params\.yaml"
    with pytest.raises(UserError, match=message):
        check.main()
    assert not (workspace / "data/checked.txt").exists()


@pytest.mark.parametrize("tracked", ["data/sources/folder", "data/sources/folder/rows.csv"])
def test_a_source_that_dvc_can_fetch_passes_the_check(tracked: str, workspace: Path) -> None:
    (workspace / "accelerate").symlink_to(ROOT / "accelerate")
    edit = partial(name_path, "sources", "data/sources/folder/rows.csv")
    edit_params(workspace / "params.yaml", edit)
    pointer = workspace / f"{tracked}.dvc"
    pointer.parent.mkdir(parents=True)
    pointer.touch()
    shutil.copy(ROOT / "dvc.yaml", workspace)
    check.main()
    assert (workspace / "data/checked.txt").exists()


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("calibrate", {"gold": "data/demo/golds.jsonl"}, r"golds\.jsonl: it does not exist"),
        ("safety", {"labels": "data/demo/none.jsonl"}, r"none\.jsonl: it does not exist"),
        ("benchmark", {"tasks": ["bula_typo"], "task_limits": {}}, "names bula_typo, neither in"),
        ("compare", {"primary": ["rougel"]}, "compare.primary has 'rougel', which no variant"),
        (
            "variants",
            {"tuned": {"model": "models/mergd", "engine": "transformers"}},
            "models/mergd: it does not exist. No stage writes it",
        ),
    ],
)
def test_a_name_without_a_file_or_a_task_stops_the_check(
    section: str, change: dict[str, Any], message: str, workspace: Path
) -> None:
    (workspace / "accelerate").symlink_to(ROOT / "accelerate")
    edit_params(workspace / "params.yaml", lambda params: params[section].update(change))
    with pytest.raises(UserError, match=message):
        check.main(tasks=ROOT / "tasks")
    assert not (workspace / "data/checked.txt").exists()


def test_a_stage_that_was_started_by_hand_watches_no_parent(stub: Path) -> None:
    result = start(stub, "likelihood", "base")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("parent none ")


def make_hostile(params: dict[str, Any], hostile: str) -> None:
    """Put one hostile text into 19 values of the parameters."""
    ingest = params["ingest"]
    ingest["base"].update(package=hostile, version=hostile, member=hostile)
    ingest["sources"][0].update(name=hostile, path=hostile, license=hostile)
    ingest["benchmarks"][0]["path"] = hostile
    params["train"]["launch"] = hostile
    params["judge"].update(model=hostile, base_url=hostile)
    params["benchmark"].update(tasks=[hostile], backend={"kind": hostile})
    params["compare"]["pairs"] = [{"variant": hostile, "baseline": hostile}]
    params["calibrate"].update(gold=hostile, attacks=hostile)
    params["safety"].update(questions=hostile, labels=hostile)
    params["variants"] = {"base": {"model": hostile, "engine": "transformers"}}


@pytest.mark.parametrize(
    "hostile", ["$(touch pwned)", "a'\n\"; touch pwned; `touch pwned`", "../../pwned", "/tmp/pwned"]
)
def test_hostile_parameters_stop_dvc_before_a_stage_writes(tmp_path: Path, hostile: str) -> None:
    clone_tree(tmp_path)
    (tmp_path / "dvc.lock").unlink(missing_ok=True)
    edit_params(tmp_path / "params.yaml", lambda params: make_hostile(params, hostile))
    result = run(["dvc", "repro"], tmp_path, HF_HUB_OFFLINE="1")
    assert result.returncode != 0
    # One more: bula_contrast of benchmark.task_limits is no longer a task.
    # DVC refuses a dependency outside the repository, and the first stage refuses the others.
    assert "params.yaml: 19 bad values" in result.stderr or "Running stage" not in result.stdout
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("pwned"))
    assert not (tmp_path / "data/raw").exists()
