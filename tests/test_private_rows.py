"""Test that closed rows stay out of git and public remotes.

The tests run real git and real DVC.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.clones import ROOT, clone_tree, commit, edit_params, git, shorten, small
from bula.errors import UserError
from bula.params import DataSource, load_params
from stages.ingest.remotes import (
    TRAINED,
    refuse_unplaced,
    unplaced_files,
    unplaced_outputs,
    weights_note,
)
from tests.conftest import run
from tests.test_pipeline import OFFLINE

IDENTITY = {
    "GIT_AUTHOR_NAME": "T",
    "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "T",
    "GIT_COMMITTER_EMAIL": "t@example.org",
}
# A name that every row of the closed source contains, and no other file.
CANARY = "Zenóbia Quartzo"
REMOTES = ("local", "rows", "public")
CLINIC = {
    "kind": "files",
    "name": "clinic",
    "names": "present",
    "names_waiver": True,
    "path": "data/sources/clinic.jsonl",
    "columns": {"question": "q", "answer": "a", "specialty": "", "kind": ""},
    "encoding": "utf-8",
    "filter": {},
    "limit": 0,
    "role": "train",
    "license": "proprietary",
    "redistribution": "forbidden",
}


COMPLAINTS = (
    "febre",
    "tosse",
    "dor nas costas",
    "enjoo",
    "tontura",
    "coceira",
    "insônia",
    "azia",
)


def clinic_rows() -> str:
    """Return eight questions of one patient as JSON Lines."""
    lines = []
    for days, complaint in enumerate(COMPLAINTS, start=2):
        question = f"Sou {CANARY} e tenho {complaint} há {days} dias, o que devo fazer agora?"
        answer = (
            f"{CANARY}, para {complaint} descanse, beba água e procure a unidade básica "
            f"em {days} dias se não melhorar."
        )
        row = {"q": question, "a": answer}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines)


def place_models(pipeline: Path, remote: str) -> None:
    """Name a remote for the models in a dvc.yaml.

    docs/remotes.md describes this edit.
    """
    text = pipeline.read_text(encoding="utf-8")
    for model in TRAINED:
        placed = f"outs:\n    - {model}: {{remote: {remote}}}\n"
        text = text.replace(f"outs: [{model}]", placed)
        text = text.replace(f"outs:\n    - {model}\n", placed)
    pipeline.write_text(text, encoding="utf-8")


def place_file(file: Path, remote: str) -> None:
    """Name a remote in a .dvc file."""
    text = file.read_text(encoding="utf-8")
    file.write_text(f"{text}  remote: {remote}\n", encoding="utf-8")


def place_remotes(repository: Path, folder: Path) -> None:
    """Let every remote of a repository be a folder below `folder`."""
    sections = [f"['remote \"{name}\"']\n    url = {folder / name}\n" for name in REMOTES]
    config = repository / ".dvc/config.local"
    config.write_text("".join(sections), encoding="utf-8")


def add_clinic(params: dict[str, Any]) -> None:
    """Add the closed source, and let the judge need no download."""
    params["ingest"]["judge"] = {"kind": "api", "license": "terms of the provider"}
    params["judge"]["base_url"] = "https://api.openai.com/v1"
    params["ingest"]["sources"].append(CLINIC)


@pytest.fixture(scope="module")
def repo(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clone with a closed source after `dvc repro preprocess`.

    The clone has a commit from before `dvc add` and a commit of the result.
    """
    folder = tmp_path_factory.mktemp("private") / "bula"
    folder.mkdir()
    clone_tree(folder)
    shorten(folder / "data/demo")
    edit_params(folder / "params.yaml", small(tiny))
    edit_params(folder / "params.yaml", add_clinic)
    (folder / "dvc.lock").unlink(missing_ok=True)
    place_remotes(folder, folder.parent)
    (folder / "data/sources/clinic.jsonl").write_text(clinic_rows(), encoding="utf-8")
    # The user forgot to tell DVC of the rows, and git must ignore them nevertheless.
    assert "clinic" not in git(folder, "status", "--short", "--untracked-files=all")
    commit(folder, "before dvc add")
    run(["dvc", "add", "data/sources/clinic.jsonl"], folder)
    place_file(folder / "data/sources/clinic.jsonl.dvc", "rows")
    result = run(["dvc", "repro", "preprocess"], folder, **OFFLINE)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "names: present" in result.stderr
    commit(folder, "run")
    return folder


# The canary as text, and as JSON escapes it.
CANARY_FORMS = (CANARY.encode(), json.dumps(CANARY).strip('"').encode(), b"Quartzo")


def has_canary(file: Path) -> bool:
    """Return whether a file contains the canary in any form."""
    content = file.read_bytes()
    return any(form in content for form in CANARY_FORMS)


def files_with_canary(folder: Path) -> list[str]:
    """Return the files below a folder that contain the canary."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(str(file.relative_to(folder)) for file in files if has_canary(file))


# Git


def tracked_files(folder: Path, prefix: str = "") -> list[str]:
    """Return the files that git tracks and whose path starts with `prefix`."""
    names = git(folder, "ls-files").splitlines()
    return [name for name in names if name.startswith(prefix)]


def test_git_tracks_the_dvc_file_and_not_the_rows(repo: Path) -> None:
    tracked = tracked_files(repo)
    assert "data/sources/clinic.jsonl.dvc" in tracked
    assert "data/sources/clinic.jsonl" not in tracked


def test_no_file_that_git_tracks_contains_a_row(repo: Path) -> None:
    # This test's own file contains the canary.
    files = [repo / name for name in tracked_files(repo) if not name.startswith("tests/")]
    assert [file for file in files if file.is_file() and has_canary(file)] == []


def test_the_pipeline_writes_rows_to_clean_data_and_not_to_quarantine(repo: Path) -> None:
    found = files_with_canary(repo)
    assert "data/clean/train.jsonl" in found
    assert "data/quarantine.jsonl" not in found


@pytest.fixture
def sources_only(tmp_path: Path) -> Path:
    """Return a repository of DVC with untracked rows in data/sources."""
    folder = tmp_path / "data/sources"
    (folder / "d/deep").mkdir(parents=True)
    shutil.copy(ROOT / "data/sources/.gitignore", folder)
    for name in ("d/deep/rows.jsonl", "d/README.md", "rows.csv"):
        (folder / name).write_text(CANARY, encoding="utf-8")
    git(tmp_path, "init", "--quiet")
    assert run(["dvc", "init", "--quiet"], tmp_path).returncode == 0
    return tmp_path


def dvc_add(folder: Path, *paths: str) -> None:
    """Let DVC track paths of a repository."""
    result = run(["dvc", "add", *paths], folder)
    assert result.returncode == 0, result.stderr


def test_git_ignores_rows_that_dvc_does_not_track_yet(sources_only: Path) -> None:
    commit(sources_only, "forgotten")
    assert tracked_files(sources_only, "data/") == ["data/sources/.gitignore"]


def test_dvc_can_track_folders_and_files_of_rows(sources_only: Path) -> None:
    dvc_add(sources_only, "data/sources/d", "data/sources/rows.csv")
    commit(sources_only, "tracked")
    assert tracked_files(sources_only, "data/") == [
        "data/sources/.gitignore",
        "data/sources/d.dvc",
        "data/sources/rows.csv.dvc",
    ]


def test_the_remote_of_a_dvc_file_survives_a_second_dvc_add(sources_only: Path) -> None:
    folder = sources_only / "data/sources"
    dvc_add(sources_only, "data/sources/d", "data/sources/rows.csv")
    place_file(folder / "d.dvc", "rows")
    (folder / "d/deep/rows.jsonl").write_text("changed", encoding="utf-8")
    dvc_add(sources_only, "data/sources/d")
    assert unplaced_files(folder) == [folder / "rows.csv.dvc"]


# Remotes


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--run-cache"],
        ["--all-commits", "--run-cache"],
        ["data/raw"],
        ["data/sources/clinic.jsonl"],
        ["preprocess"],
    ],
    ids=" ".join,
)
def test_a_push_to_the_public_remote_sends_no_row(
    arguments: list[str], repo: Path, tmp_path: Path
) -> None:
    place_remotes(repo, tmp_path)
    result = run(["dvc", "push", "--remote", "public", *arguments], repo)
    assert result.returncode == 0, result.stderr
    public = tmp_path / "public"
    assert files_with_canary(public) == []
    # A push without targets sends the base model, which may be public.
    has_targets = any(not argument.startswith("--") for argument in arguments)
    pushed = [path for path in public.rglob("*") if path.is_file()]
    assert (len(pushed) > 3) == (not has_targets)


@pytest.fixture
def pushed(repo: Path, tmp_path: Path) -> Path:
    """Push without naming a remote, and return the folder of remotes."""
    place_remotes(repo, tmp_path)
    result = run(["dvc", "push", "--run-cache"], repo)
    assert result.returncode == 0, result.stderr
    return tmp_path


def test_a_push_without_a_remote_sends_rows_to_their_own_remote(pushed: Path) -> None:
    assert files_with_canary(pushed / "local") == []
    assert files_with_canary(pushed / "rows") != []


def test_a_clone_pulls_the_rows_from_their_own_remote(repo: Path, pushed: Path) -> None:
    clone = pushed / "clone"
    git(pushed, "clone", "--quiet", str(repo), str(clone))
    place_remotes(clone, pushed)
    for target in ("data/clean", "data/sources/clinic.jsonl"):
        pulled = run(["dvc", "pull", target], clone)
        assert pulled.returncode == 0, pulled.stderr
    for name in ("data/sources/clinic.jsonl", "data/clean/train.jsonl"):
        assert (clone / name).read_bytes() == (repo / name).read_bytes()


def share_experiment(repo: Path, folder: Path) -> Path:
    """Run preprocess as an experiment, push it to a bare repository, and return that."""
    command = ["dvc", "exp", "run", "--temp", "--name", "shared", "preprocess"]
    made = run(command, repo, **OFFLINE, **IDENTITY)
    assert made.returncode == 0, made.stdout + made.stderr
    origin = folder / "origin"
    git(folder, "init", "--quiet", "--bare", "origin")
    git(repo, "remote", "add", "origin", str(origin))
    pushed = run(["dvc", "exp", "push", "origin", "shared"], repo)
    assert pushed.returncode == 0, pushed.stdout + pushed.stderr
    return origin


def test_a_shared_experiment_contains_no_row_and_no_key(repo: Path, tmp_path: Path) -> None:
    place_remotes(repo, tmp_path)
    (repo / ".env").write_text(f"OPENAI_API_KEY={CANARY}\n", encoding="utf-8")
    origin = share_experiment(repo, tmp_path)
    [reference] = git(origin, "for-each-ref", "--format=%(refname)").split()
    names = set(git(origin, "ls-tree", "-r", "--name-only", reference).splitlines())
    assert "data/sources/clinic.jsonl.dvc" in names
    private = {".env", ".dvc/config.local", "data/sources/clinic.jsonl", "data/clean/train.jsonl"}
    assert private & names == set()
    shown = git(origin, "archive", reference, "--", ":(exclude)tests", ":(exclude)*.png")
    assert "Quartzo" not in shown
    assert files_with_canary(tmp_path / "local") == []
    assert files_with_canary(tmp_path / "rows") != []


# What ingest refuses


def sources_with(redistribution: str) -> list[DataSource]:
    """Return the sources of the profile with another right."""
    license = "proprietary" if redistribution == "forbidden" else "cc-by-4.0"
    changes = {"redistribution": redistribution, "license": license}
    sources = load_params(ROOT / "profiles/smollm2-135m.yaml").ingest.sources
    return [source.model_copy(update=changes) for source in sources]


OPEN = sources_with("allowed")
CLOSED = sources_with("forbidden")


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of dvc.yaml in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    return tmp_path / "dvc.yaml"


@pytest.fixture
def tracked_rows(pipeline: Path) -> Path:
    """Return a .dvc file that names no remote."""
    file = pipeline.parent / "data/sources/a.csv.dvc"
    file.parent.mkdir(parents=True)
    file.write_text("outs:\n- md5: 0\n  path: a.csv\n", encoding="utf-8")
    return file


@pytest.mark.usefixtures("tracked_rows")
def test_an_open_source_may_lie_in_a_file_without_a_remote() -> None:
    refuse_unplaced(OPEN)


@pytest.mark.usefixtures("tracked_rows")
def test_a_closed_source_in_a_file_without_a_remote_is_refused() -> None:
    with pytest.raises(UserError, match="these outputs name no remote") as caught:
        refuse_unplaced(CLOSED)
    assert "data/sources/a.csv.dvc" in caught.value.what
    assert "models/" not in caught.value.what


def test_a_closed_source_in_a_file_with_a_remote_is_accepted(tracked_rows: Path) -> None:
    place_file(tracked_rows, "rows")
    refuse_unplaced(CLOSED)


def test_a_closed_source_in_a_file_that_is_never_pushed_is_accepted(tracked_rows: Path) -> None:
    tracked_rows.write_text("outs:\n- path: a.csv\n  push: false\n", encoding="utf-8")
    refuse_unplaced(CLOSED)


def test_a_damaged_dvc_yaml_raises_user_error(pipeline: Path) -> None:
    pipeline.write_text("stages: [", encoding="utf-8")
    with pytest.raises(UserError, match=r"dvc\.yaml: it is not YAML"):
        refuse_unplaced(CLOSED)


@pytest.mark.usefixtures("pipeline")
def test_the_note_names_all_weights_that_closed_rows_train() -> None:
    note = weights_note(CLOSED)
    assert [name for name in TRAINED if name not in note] == []


@pytest.mark.usefixtures("pipeline")
def test_open_sources_cause_no_note_about_weights() -> None:
    assert weights_note(OPEN) == ""


def test_weights_with_a_remote_cause_no_note(pipeline: Path) -> None:
    place_models(pipeline, "rows")
    assert weights_note(CLOSED) == ""


# The pipeline


def outputs_of_pipeline() -> list[str | dict[str, Any]]:
    """Return the entries of all `outs` in dvc.yaml that DVC can push.

    Figures are in git, and DVC never pushes an output with `cache: false`.
    """
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    outputs: list[str | dict[str, Any]] = []
    for stage in YAML(typ="safe").load(text)["stages"].values():
        body = stage.get("do", stage)
        outputs.extend(out for out in body.get("outs", []) if not _is_in_git(out))
    return outputs


def _is_in_git(out: str | dict[str, Any]) -> bool:
    """Return whether an entry of `outs` is a figure, which git has."""
    if isinstance(out, str):
        return False
    [(path, options)] = out.items()
    return path.startswith("metrics/") and options == {"cache": False}


def test_only_trained_weights_of_the_pipeline_have_no_remote() -> None:
    assert unplaced_outputs(ROOT / "dvc.yaml") == []
    assert sorted(unplaced_outputs(ROOT / "dvc.yaml", TRAINED)) == sorted(TRAINED)


def test_only_models_may_go_to_any_remote() -> None:
    # Whoever adds an output decides whether it is public.
    names = {output for output in outputs_of_pipeline() if isinstance(output, str)}
    assert names == {"models/base", "models/encoder", "models/judge", *TRAINED}


def test_every_other_output_goes_to_the_remote_of_rows() -> None:
    placed = [output for output in outputs_of_pipeline() if isinstance(output, dict)]
    options = [option for output in placed for option in output.values()]
    assert [option for option in options if option["remote"] != "rows"] == []


def test_only_verdicts_outlive_the_start_of_a_stage() -> None:
    # The next run looks up paid verdicts there; all other outputs start again.
    placed = [output for output in outputs_of_pipeline() if isinstance(output, dict)]
    kept = [path for output in placed for path, option in output.items() if "persist" in option]
    assert kept == ["data/verdicts/gold.jsonl", "data/verdicts/${key}.jsonl"]
