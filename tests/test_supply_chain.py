"""Check the lock, torch, NOTICE and the actions of CI."""

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from bench.clones import ROOT
from bula.commands.licenses import (
    END,
    START,
    installed,
    pinned,
    section,
    stated_license,
    with_section,
)
from bula.errors import UserError

LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
NOTICE = (ROOT / "NOTICE").read_text(encoding="utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = tomllib.loads(PYPROJECT)
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PINS = pinned(LOCK, MAKEFILE)


def applies(requirement: Requirement, extras: set[str]) -> bool:
    """Return whether a requirement applies to this platform with these extras."""
    marker = requirement.marker
    if marker is None:
        return True
    return any(marker.evaluate({"extra": extra}) for extra in {"", *extras})


def active(lines: list[str], extras: set[str]) -> dict[str, Requirement]:
    """Return the requirements that apply, by normalized name."""
    found: dict[str, Requirement] = {}
    for line in lines:
        requirement = Requirement(line)
        if applies(requirement, extras):
            found[canonicalize_name(requirement.name)] = requirement
    return found


def fits(name: str, requirement: Requirement) -> bool:
    """Return whether the pinned version of a package satisfies a requirement."""
    return name in PINS and requirement.specifier.contains(PINS[name])


def unmet(requirements: dict[str, Requirement]) -> list[str]:
    """Return the requirements that the pins do not satisfy."""
    return [str(line) for name, line in requirements.items() if not fits(name, line)]


def test_pins_satisfy_the_ranges_of_pyproject() -> None:
    project = PROJECT["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    assert unmet(active(lines, set())) == []


def test_lock_contains_the_requirements_of_every_locked_package() -> None:
    # `make setup` installs only the packages in the lock, without resolving dependencies.
    extras = {"lm-eval": {"api"}}
    # The build of torch brings its accelerator libraries.
    for name in PINS.keys() - {"torch"}:
        lines = metadata.requires(name) or []
        requirements = active(lines, extras.get(name, set()))
        assert unmet(requirements) == [], name


def test_torch_has_one_version_in_makefile_and_pyproject() -> None:
    torch = f"torch=={PINS['torch']}"
    (known,) = PROJECT["tool"]["uv"]["dependency-metadata"]
    assert torch in PROJECT["project"]["dependencies"]
    assert torch == f"{known['name']}=={known['version']}"


def test_metadata_for_the_lock_lists_the_requirements_of_torch() -> None:
    (known,) = PROJECT["tool"]["uv"]["dependency-metadata"]
    stated = active(known["requires-dist"], set())
    required = active(metadata.requires("torch") or [], set())
    accelerators = ("nvidia-", "cuda-", "triton", "intel-", "pytorch-triton")
    assert {name for name in required if not name.startswith(accelerators)} == set(stated)


def test_lock_has_no_index_no_torch_and_no_accelerator() -> None:
    assert "://" not in LOCK
    assert "index-url" not in LOCK
    accelerators = ("nvidia", "triton", "torch")
    assert [name for name in pinned(LOCK) if name.startswith(accelerators)] == []


def test_setup_checks_hashes_and_resolves_nothing() -> None:
    # `make gpu` installs packages that the lock does not contain.
    recipe = MAKEFILE.partition("define INSTALL")[2].partition("endef")[0]
    installs = [line for line in recipe.splitlines() if line.startswith("$(PIP) install")]
    assert len(installs) == 3
    assert all("--require-hashes --no-deps" in line for line in installs[:2])
    assert "extra-index-url" not in MAKEFILE


def test_notice_lists_the_license_of_each_pinned_package() -> None:
    listed = NOTICE.partition(START)[2].partition(END)[0]
    rows = re.findall(r"^  (\S+) (\S+): \S.*$", listed, re.MULTILINE)
    assert len(rows) == len(listed.splitlines())
    advice = "run `make setup`, then `python -m bula licenses`"
    assert dict(rows) == PINS, advice


def test_notice_agrees_with_the_installed_packages() -> None:
    # Each build of torch contains other libraries with other licenses.
    pins = {name: version for name, version in PINS.items() if name != "torch"}
    lines = section(pins).splitlines()
    assert set(lines) <= set(NOTICE.splitlines())


@pytest.mark.parametrize(
    ("expression", "text", "classifiers", "expected"),
    [
        ("MIT OR Apache-2.0", "anything", [], "MIT OR Apache-2.0"),
        ("", "lgpl-2.1-or-later", ["License :: OSI Approved :: LGPLv2+"], "LGPL-2.1-or-later"),
        ("", "Dual", ["License :: A", "Topic :: B", "License :: C"], "Dual; A; C"),
        ("", "BSD License", ["License :: OSI Approved :: BSD License"], "BSD License"),
        ("", "MIT\n\nPermission is hereby granted", ["License :: D"], "D"),
        ("", "The MIT License\n\nPermission is hereby granted", [], "The MIT License"),
        ("", "", [], "not stated"),
    ],
)
def test_license_comes_from_expression_text_or_classifiers(
    expression: str,
    text: str,
    classifiers: list[str],
    expected: str,
) -> None:
    assert stated_license(expression, text, classifiers) == expected


def test_another_installed_version_is_an_error() -> None:
    with pytest.raises(UserError, match=rf"numpy 0\.1 is pinned, but {PINS['numpy']} is installed"):
        section({"numpy": "0.1"})
    with pytest.raises(UserError, match=r"leaflet-of-nobody 1\.0 is pinned, but nothing is"):
        section({"leaflet-of-nobody": "1.0"})


def test_installed_version_has_no_build_tag() -> None:
    package = installed("torch")
    assert package is not None
    assert package.version == PINS["torch"]


def test_notice_without_its_marks_is_an_error() -> None:
    with pytest.raises(UserError, match="is missing"):
        with_section(END + START, "")


def test_pins_are_read_from_lock_and_makefile() -> None:
    lock = "# by a==b\nPaper.leaf==1.0 \\\n    --hash=sha256:00\n"
    assert pinned(lock, "TORCH := torch==2.0\n") == {"paper-leaf": "1.0", "torch": "2.0"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path: Path) -> None:
    actions = re.findall(r"uses: (.+)", path.read_text(encoding="utf-8"))
    pinned_action = re.compile(r"[\w-]+/[\w/-]+@[0-9a-f]{40} # v[\d.]+")
    assert actions
    assert [action for action in actions if not pinned_action.fullmatch(action)] == []


# The permissions of jobs that need more than to read the repository, by workflow and job.
PERMISSIONS = {
    ("comment.yml", "comment"): {"actions": "read", "contents": "read", "pull-requests": "write"},
    ("gpu.yml", "run"): {"contents": "write"},
    ("gpu.yml", "check"): {"actions": "write"},
}


def workflow_of(name: str) -> dict[str, Any]:
    """Return a workflow as a mapping."""
    content: dict[str, Any] = YAML(typ="safe").load(ROOT / ".github/workflows" / name)
    return content


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_have_only_the_listed_permissions(path: Path) -> None:
    workflow = workflow_of(path.name)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job.get("permissions") == PERMISSIONS.get((path.name, name))


def test_code_of_a_pull_request_has_no_secret_and_no_token() -> None:
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert "pull_request_target" not in text
    assert "secrets." not in text
    assert "github.token" not in text


def test_the_comment_is_written_by_code_of_the_default_branch() -> None:
    [job] = workflow_of("comment.yml")["jobs"].values()
    [checkout, comment] = job["steps"]
    # Without a ref, a workflow_run checks out the default branch.
    assert "ref" not in checkout["with"]
    assert comment["run"] == "python3 .ci/comment.py"
    assert "secrets" not in str(job)
    # gpu.yml starts ci.yml by hand on a pull request, and a push to main has no pull request.
    assert job["if"] == "github.event.workflow_run.event != 'push'"


def test_the_gpu_job_waits_for_approval_and_takes_no_fork() -> None:
    job = workflow_of("gpu.yml")["jobs"]["run"]
    assert job["environment"] == "gpu"
    own = "github.event.label.name == 'gpu' && github.event.pull_request.head.repo.full_name"
    assert f"{own} == github.repository" in " ".join(job["if"].split())
    assert job["concurrency"] == {"group": "gpu", "queue": "max", "cancel-in-progress": False}


def test_secrets_reach_only_the_steps_that_need_them() -> None:
    steps = workflow_of("gpu.yml")["jobs"]["run"]["steps"]
    secret = {step["run"]: step["env"] for step in steps if "env" in step}
    runs = {run for run, env in secret.items() if "secrets." in str(env)}
    tokens = {run.split()[0] for run, env in secret.items() if "github.token" in str(env)}
    assert runs == {'.ci/gpu "origin/$BASE"'}
    assert tokens == {".ci/publish"}


@pytest.mark.parametrize(("workflow", "job"), [("ci.yml", "review"), ("gpu.yml", "run")])
def test_checkouts_for_a_review_have_the_history_of_the_base(workflow: str, job: str) -> None:
    steps = workflow_of(workflow)["jobs"][job]["steps"]
    [checkout] = [step for step in steps if "checkout" in step.get("uses", "")]
    assert checkout["with"]["fetch-depth"] == 0


def test_gitlab_protects_the_gpu_job_as_github_does() -> None:
    pipeline = YAML(typ="safe").load(ROOT / ".gitlab-ci.yml")
    job = pipeline["gpu"]
    assert job["resource_group"] == "gpu"
    assert job["environment"]["name"] == "gpu"
    [rule] = job["rules"]
    assert rule["when"] == "manual"
    assert "$CI_MERGE_REQUEST_SOURCE_PROJECT_ID == $CI_PROJECT_ID" in rule["if"]
    assert [line for line in job["script"] if line.startswith((".ci/", "make"))] == [
        "make gpu",
        ".ci/gpu origin/base",
        '.ci/publish "$CI_PROJECT_URL.git" "$CI_MERGE_REQUEST_SOURCE_BRANCH_NAME"',
    ]
    assert pipeline["variables"]["GIT_DEPTH"] == "0"


def steps_of(path: Path) -> list[dict[str, Any]]:
    """Return the steps of all jobs of a workflow."""
    workflow = YAML(typ="safe").load(path)
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_checkout_does_not_keep_credentials(path: Path) -> None:
    checkouts = [
        step for step in steps_of(path) if step.get("uses", "").startswith("actions/checkout@")
    ]
    assert checkouts
    for step in checkouts:
        assert step["with"]["persist-credentials"] is False
