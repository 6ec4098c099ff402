"""./stage, the one way into a stage: no string of params.yaml reaches a shell, whatever shell DVC uses."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.clones import ROOT, clone_tree, edit_params
from tests.conftest import run

SHELLS = [shell for shell in ("dash", "bash", "zsh", "fish") if shutil.which(shell)]
DVC: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
# A stage of a few lines, which writes what it was told.
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
    """A DVC repository with the real ./stage and likelihood's real entry, less its lists of modules."""
    shutil.copy(ROOT / "stage", tmp_path)
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/likelihood.py").write_text(STUB, encoding="utf-8")
    for folder in ("data/likelihood", "metrics/likelihood", "models/base"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "models/base/config.json").write_text("{}", encoding="utf-8")
    entry = DVC["stages"]["likelihood"]
    do = {**entry["do"], "deps": ["${item.model}"], "params": []}
    with (tmp_path / "dvc.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump({"stages": {"likelihood": {**entry, "do": do}}}, file)
    assert run(["dvc", "init", "--no-scm", "--quiet"], tmp_path).returncode == 0
    return tmp_path


def write_variants(folder: Path, variants: dict[str, str]) -> None:
    """Write a params.yaml that holds variants alone."""
    models = {name: {"model": model, "engine": "transformers"} for name, model in variants.items()}
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump({"variants": models}, file)


def test_the_command_of_every_stage_is_the_same_constant() -> None:
    commands = {entry.get("do", entry)["cmd"] for entry in DVC["stages"].values()}
    assert commands == {"exec ./stage"}
    assert os.access(ROOT / "stage", os.X_OK)


@pytest.mark.parametrize("shell", SHELLS)
def test_dvc_hands_name_and_key_to_the_stage_in_every_shell(stub: Path, shell: str) -> None:
    write_variants(stub, {"base": "models/base"})
    result = run(["dvc", "repro"], stub, SHELL=str(shutil.which(shell)), PYTHONPATH=str(stub))
    assert result.returncode == 0, result.stderr
    assert (stub / "told").read_text(encoding="utf-8") == "-- base"
    # ./stage and Python take the place of dvc's shell, so the stage's parent is dvc itself.
    _, told, parent = next(
        line for line in result.stdout.splitlines() if line.startswith("parent")
    ).split()
    assert told == parent
    (stub / "fail").touch()
    result = run(
        ["dvc", "repro", "--force"], stub, SHELL=str(shutil.which(shell)), PYTHONPATH=str(stub)
    )
    assert result.returncode != 0
    assert "exited with 7" in result.stderr


# The dependency of each is models/base for DVC, which works on the letters alone; a shell would run them.
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
    result = run(["dvc", "repro"], stub, SHELL=str(shutil.which(shell)), PYTHONPATH=str(stub))
    assert not list(stub.rglob("pwned"))
    # Either DVC refuses the path, or the stage runs as ever.
    assert result.returncode != 0 or (stub / "told").read_text(encoding="utf-8") == "-- base"


@pytest.mark.parametrize(
    "key", ["$(touch pwned)", "`touch pwned`", "a;touch pwned", "a b", "-h", "--clean=x"]
)
def test_a_key_is_one_argument_and_never_an_option(stub: Path, key: str) -> None:
    result = run(["./stage", "likelihood", key], stub, PYTHONPATH=str(stub))
    assert result.returncode == 1 or result.returncode == 0, result.stderr
    assert (stub / "told").read_text(encoding="utf-8") == f"-- {key}"
    assert not list(stub.rglob("pwned"))


@pytest.mark.parametrize(
    "name",
    ["", "..", "../x", "likelihood/../x", "no", "$(touch pwned)", "likelihood x", "-m", "a\nb"],
)
def test_a_name_that_is_no_stage_starts_nothing(stub: Path, name: str) -> None:
    for environment, arguments in ((name, []), ("", [name])):
        result = run(["./stage", *arguments], stub, DVC_STAGE=environment, PYTHONPATH=str(stub))
        assert result.returncode == 2
        assert result.stderr.startswith(
            ("stage: there is no stage of this name", "usage: ./stage NAME")
        )
    assert not (stub / "told").exists()
    assert not list(stub.rglob("pwned"))


def test_dvc_may_be_started_in_another_folder(stub: Path) -> None:
    write_variants(stub, {"base": "models/base"})
    (stub / "docs").mkdir()
    result = run(
        ["dvc", "repro", "../dvc.yaml:likelihood@base"], stub / "docs", PYTHONPATH=str(stub)
    )
    assert result.returncode == 0, result.stderr
    assert (stub / "told").read_text(encoding="utf-8") == "-- base"


@pytest.mark.parametrize("key", ["../../../victim/notes", "../seeds", "../../mine"])
@pytest.mark.parametrize("guarded", [True, False], ids=["after check", "without check"])
def test_a_name_of_a_variant_deletes_nothing(stub: Path, key: str, guarded: bool) -> None:
    folder = stub / "deep/bula"
    shutil.copytree(stub, folder, ignore=shutil.ignore_patterns("deep"))
    pipeline = YAML(typ="safe").load((folder / "dvc.yaml").read_text(encoding="utf-8"))
    if guarded:
        pipeline["stages"]["likelihood"]["do"]["deps"].append("data/checked.txt")
        pipeline["stages"]["check"] = {**DVC["stages"]["check"], "deps": []}
    with (folder / "dvc.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(pipeline, file)
    # The real check, beside the stub of likelihood.
    shutil.copy(ROOT / "stages/check.py", folder / "stages")
    (folder / "stages/__init__.py").touch()
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", folder / "params.yaml")
    hostile = {key: {"model": "models/base", "engine": "transformers"}}
    edit_params(folder / "params.yaml", lambda params: params["variants"].update(hostile))
    victim = Path(os.path.normpath(folder / f"metrics/likelihood/{key}.json"))
    victim.parent.mkdir(parents=True, exist_ok=True)
    victim.write_text("mine", encoding="utf-8")
    paths = os.pathsep.join([str(folder), str(ROOT)])
    result = run(["dvc", "repro", f"likelihood@{key}"], folder, PYTHONPATH=paths)
    assert result.returncode != 0 or not guarded
    # Without the check DVC removes the file before the stage starts, which shows that this test can fail.
    assert (victim.exists() and victim.read_text(encoding="utf-8") == "mine") == guarded
    assert ("params.yaml: 1 bad values" in result.stderr) == guarded


def test_what_depends_on_a_string_of_params_yaml_waits_for_its_check() -> None:
    for name, entry in DVC["stages"].items():
        inner = entry.get("do", entry)
        templated = [part for part in (*inner["deps"], *inner["outs"]) if "${" in str(part)]
        assert not templated or "data/checked.txt" in inner["deps"], name
    assert DVC["stages"]["check"]["params"] == ["variants", "train.launch", "calibrate.gold"]


def test_by_hand_the_stage_has_no_parent_that_ends_it(stub: Path) -> None:
    result = run(["./stage", "likelihood", "base"], stub, PYTHONPATH=str(stub))
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("parent none ")


@pytest.mark.parametrize(
    "hostile", ["$(touch pwned)", "a'\n\"; touch pwned; `touch pwned`", "../../pwned", "/tmp/pwned"]
)
def test_hostile_parameters_stop_a_real_run_before_anything_is_done(
    tmp_path: Path, hostile: str
) -> None:
    clone_tree(tmp_path)
    (tmp_path / "dvc.lock").unlink(missing_ok=True)

    def edit(params: dict[str, Any]) -> None:
        params["ingest"]["base"] |= {"package": hostile, "version": hostile, "member": hostile}
        params["ingest"]["sources"][0] |= {"name": hostile, "path": hostile, "license": hostile}
        params["ingest"]["benchmarks"][0]["path"] = hostile
        params["train"]["launch"] = params["judge"]["model"] = params["judge"]["base_url"] = hostile
        params["benchmark"] |= {"tasks": [hostile], "backend": {"kind": hostile}}
        params["compare"]["baseline"] = params["calibrate"]["gold"] = hostile
        params["variants"] = {"base": {"model": hostile, "engine": "transformers"}}

    edit_params(tmp_path / "params.yaml", edit)
    result = run(["dvc", "repro"], tmp_path, HF_HUB_OFFLINE="1")
    assert result.returncode != 0
    # DVC itself refuses a dependency that leads out of the repository; all else is refused by the first stage.
    assert "params.yaml: 16 bad values" in result.stderr or "Running stage" not in result.stdout
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("pwned"))
    assert not (tmp_path / "data/raw").exists()
