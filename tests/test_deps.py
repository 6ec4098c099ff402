"""Check that dvc.yaml lists the modules that the stages import."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from bench.clones import ROOT
from bula.__main__ import app
from bula.commands.deps import (
    UNLISTED,
    closure,
    imported_files,
    module_files,
    stage_file,
    with_modules,
)
from bula.errors import UserError
from tests.conftest import run

PIPELINE = """\
# A comment at the top.
stages:
  one:
    cmd: 'exec ./stage'   # A comment behind a command.
    deps:
    - bula/data.py
    - data/raw
    - stages/one.py
    desc: "words in double quotes"

  two:
    foreach: ${variants}
    do:
      cmd: exec ./stage
      deps:
      - ${item.model}
      - bula/data.py
      - stages/two/__init__.py
      - stages/two/__main__.py
"""
FILES = {
    "bula/__init__.py": "",
    "bula/data.py": "import json\n\nfrom bula.errors import UserError\n",
    "bula/errors.py": "from bula.hidden import nothing\n",
    "bula/hidden.py": "",
    "bula/params.py": "from bula.hidden import nothing\n",
    "stages/__init__.py": "",
    "stages/one.py": "from bula.data import read\nfrom bula.params import load_params\n",
    "stages/two/__init__.py": "",
    "stages/two/__main__.py": "def main():\n    from bula import data\n",
    "dvc.yaml": PIPELINE,
}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small repository with a correct dvc.yaml, as current directory."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# The closure of a small repository


def test_closure_contains_direct_imports_but_no_unlisted_module(repository: Path) -> None:
    assert closure(repository, "one") == {"stages/one.py", "bula/data.py"}


def test_closure_of_a_package_contains_its_init_and_imports_inside_functions(
    repository: Path,
) -> None:
    package = {"stages/two/__init__.py", "stages/two/__main__.py"}
    assert closure(repository, "two") == package | {"bula/data.py"}


def test_closure_follows_imports_through_modules_and_packages(repository: Path) -> None:
    (repository / "bula/data.py").write_text("from bula.deep.inner import x\n", encoding="utf-8")
    (repository / "bula/deep").mkdir()
    (repository / "bula/deep/__init__.py").write_text("", encoding="utf-8")
    text = "from bula import hidden\n"
    (repository / "bula/deep/inner.py").write_text(text, encoding="utf-8")
    deep = {"bula/deep/__init__.py", "bula/deep/inner.py", "bula/hidden.py"}
    assert closure(repository, "one") == deep | {"stages/one.py", "bula/data.py"}


@pytest.mark.parametrize(
    ("statement", "files"),
    [
        ("import bula.data", {"bula/__init__.py", "bula/data.py"}),
        ("import bula.data as d", {"bula/__init__.py", "bula/data.py"}),
        ("from bula import data", {"bula/__init__.py", "bula/data.py"}),
        ("from bula.data import read", {"bula/__init__.py", "bula/data.py"}),
        ("from bula import VERSION", {"bula/__init__.py"}),
        ("import json, pathlib", set()),
        ("from pathlib import Path", set()),
        ("from bulaco.data import read", set()),
    ],
)
def test_each_form_of_import_leads_to_its_files(
    repository: Path, statement: str, files: set[str]
) -> None:
    (repository / "stages/one.py").write_text(f"{statement}\n", encoding="utf-8")
    assert imported_files(repository, "stages/one.py") == files


def test_files_of_a_package_are_its_init_and_those_of_its_parents(repository: Path) -> None:
    packages = {"stages/__init__.py", "stages/two/__init__.py"}
    assert module_files(repository, "stages.two") == packages
    assert module_files(repository, "stages.two.__main__") == packages | {"stages/two/__main__.py"}


# The command


def test_a_correct_pipeline_is_up_to_date_and_unchanged(repository: Path) -> None:
    result = CliRunner().invoke(app, ["deps"])
    assert (result.exit_code, result.output) == (0, "deps: dvc.yaml is up to date\n")
    assert (repository / "dvc.yaml").read_text(encoding="utf-8") == PIPELINE


@pytest.mark.parametrize(
    "wrong",
    [
        PIPELINE.replace("    - bula/data.py\n", "", 1),
        PIPELINE.replace("    - data/raw\n", "    - data/raw\n    - stages/gone.py\n"),
    ],
    ids=["missing module", "superfluous module"],
)
def test_a_wrong_list_is_reported_with_the_fix_and_write_corrects_it(
    repository: Path, wrong: str
) -> None:
    (repository / "dvc.yaml").write_text(wrong, encoding="utf-8")
    result = CliRunner().invoke(app, ["deps"])
    assert isinstance(result.exception, UserError)
    assert str(result.exception).endswith("Run `python -m bula deps --write`.")
    assert (repository / "dvc.yaml").read_text(encoding="utf-8") == wrong
    result = CliRunner().invoke(app, ["deps", "--write"])
    assert (result.exit_code, result.output) == (0, "deps: dvc.yaml was written\n")
    # Comments, quotes, blank lines and other dependencies stay.
    assert (repository / "dvc.yaml").read_text(encoding="utf-8") == PIPELINE


def test_a_new_import_reaches_the_list_of_every_stage_that_needs_it(repository: Path) -> None:
    (repository / "bula/data.py").write_text("from bula import hidden\n", encoding="utf-8")
    text = with_modules(PIPELINE, repository)
    stages = YAML(typ="safe").load(text)["stages"]
    assert stages["one"]["deps"] == ["bula/data.py", "bula/hidden.py", "data/raw", "stages/one.py"]
    assert stages["two"]["do"]["deps"][:3] == ["${item.model}", "bula/data.py", "bula/hidden.py"]


# The real pipeline

DVC: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))


def test_dvc_yaml_lists_exactly_the_modules_that_the_stages_import() -> None:
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert with_modules(text, ROOT) == text


@pytest.mark.parametrize("stage", sorted(DVC["stages"]))
def test_no_stage_lists_modules_that_only_define_parameters_or_format(stage: str) -> None:
    unlisted = {
        "bula/errors.py",
        "bula/param_types.py",
        "bula/params.py",
        "bula/reports.py",
    }
    assert unlisted <= UNLISTED
    assert closure(ROOT, stage).isdisjoint(unlisted)


def loaded_files(statement: str) -> set[str]:
    """Return the project's files that a new process loads for an import."""
    code = f"""
import sys
{statement}
for module in list(sys.modules.values()):
    print(getattr(module, "__file__", None) or "")
"""
    result: subprocess.CompletedProcess[str] = run([sys.executable, "-c", code], ROOT)
    assert result.returncode == 0, result.stderr
    paths = [Path(line) for line in result.stdout.splitlines() if line]
    ours = [path.relative_to(ROOT) for path in paths if path.is_relative_to(ROOT)]
    return {str(path) for path in ours if path.parts[0] in ("bula", "stages")}


# These stages import neither torch nor another slow library at the top of their modules.
@pytest.mark.parametrize("stage", ["check", "rouge", "compare"])
def test_closure_agrees_with_the_modules_that_python_loads(stage: str) -> None:
    module = stage_file(ROOT, stage).removesuffix(".py").replace("/", ".")
    # check imports bula.hardware, and so torch, only for device: cuda.
    later = ", bula.hardware" if stage == "check" else ""
    loaded = loaded_files(f"import {module}{later}")
    unlisted = loaded_files("import bula.params, bula.reports, bula.errors, stages")
    expected = closure(ROOT, stage)
    # Python also loads the unlisted modules, with their own imports.
    assert loaded - unlisted <= expected
    assert expected <= loaded
