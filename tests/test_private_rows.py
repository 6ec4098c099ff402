"""Rows of a closed source, through real git and real DVC: they reach neither git nor a remote that others read."""

import json
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

# A name that stands in every row of the closed source, and nowhere else.
CANARY = "Zenóbia Quartzo"
REMOTES = ("local", "rows", "public")
CLINIC = {
    "kind": "files",
    "name": "clinic",
    "names": "present",
    "path": "data/sources/clinic.jsonl",
    "columns": {"question": "q", "answer": "a", "specialty": "", "kind": ""},
    "encoding": "utf-8",
    "filter": {},
    "limit": 0,
    "role": "train",
    "license": "proprietary",
    "redistribution": "forbidden",
}


def clinic_rows() -> str:
    """Eight questions of one patient."""
    complaints = (
        "febre",
        "tosse",
        "dor nas costas",
        "enjoo",
        "tontura",
        "coceira",
        "insônia",
        "azia",
    )
    rows = [
        {
            "q": f"Sou {CANARY} e tenho {complaint} há {days} dias, o que devo fazer agora?",
            "a": f"{CANARY}, para {complaint} descanse, beba água e procure a unidade básica em {days} dias se não melhorar.",
        }
        for days, complaint in enumerate(complaints, start=2)
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def place_models(pipeline: Path, remote: str) -> None:
    """Name a remote for the models in a dvc.yaml, as docs/remotes.md says."""
    text = pipeline.read_text(encoding="utf-8")
    for model in TRAINED:
        for entry in (f"outs: [{model}]", f"outs:\n    - {model}\n"):
            text = text.replace(entry, f"outs:\n    - {model}: {{remote: {remote}}}\n")
    pipeline.write_text(text, encoding="utf-8")


def place_file(file: Path, remote: str) -> None:
    """Name a remote in a .dvc file."""
    file.write_text(f"{file.read_text(encoding='utf-8')}  remote: {remote}\n", encoding="utf-8")


def remotes(folder: Path) -> str:
    """DVC's settings that put every remote below a folder."""
    return "".join(f"['remote \"{name}\"']\n    url = {folder / name}\n" for name in REMOTES)


@pytest.fixture(scope="module")
def repo(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a closed source of its own, after `dvc repro preprocess` and a commit."""
    folder = tmp_path_factory.mktemp("private") / "bula"
    folder.mkdir()
    clone_tree(folder)

    def edit(params: dict[str, Any]) -> None:
        small(tiny)(params)
        params["ingest"]["judge"] = {"kind": "api", "license": "terms of the provider"}
        params["judge"]["base_url"] = "https://api.openai.com/v1"
        params["ingest"]["sources"].append(CLINIC)

    shorten(folder / "data/demo")
    edit_params(folder / "params.yaml", edit)
    (folder / "dvc.lock").unlink(missing_ok=True)
    (folder / ".dvc/config.local").write_text(remotes(folder.parent), encoding="utf-8")
    (folder / "data/sources/clinic.jsonl").write_text(clinic_rows(), encoding="utf-8")
    # Forgotten: the rows lie there, and nobody has told DVC of them.
    assert "clinic" not in git(folder, "status", "--short", "--untracked-files=all")
    commit(folder, "before dvc add")
    run(["dvc", "add", "data/sources/clinic.jsonl"], folder)
    place_file(folder / "data/sources/clinic.jsonl.dvc", "rows")
    result = run(["dvc", "repro", "preprocess"], folder, **OFFLINE)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "names: present" in result.stderr
    commit(folder, "run")
    return folder


def holders(folder: Path) -> list[str]:
    """Files below a folder that hold the canary, as text or as JSON would escape it."""
    forms = [CANARY.encode(), json.dumps(CANARY).strip('"').encode(), b"Quartzo"]
    found = [
        path
        for path in folder.rglob("*")
        if path.is_file() and any(form in path.read_bytes() for form in forms)
    ]
    return sorted(str(path.relative_to(folder)) for path in found)


def test_git_has_the_pointer_and_no_row(repo: Path) -> None:
    tracked = git(repo, "ls-files").splitlines()
    assert "data/sources/clinic.jsonl.dvc" in tracked
    assert "data/sources/clinic.jsonl" not in tracked
    there = [name for name in tracked if (repo / name).is_file() and not name.startswith("tests/")]
    assert [name for name in there if b"Quartzo" in (repo / name).read_bytes()] == []
    # What the pipeline wrote does hold the rows, so that the test can fail.
    assert "data/clean/train.jsonl" in holders(repo)
    assert b"Quartzo" not in (repo / "data/quarantine.jsonl").read_bytes()


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
def test_no_push_to_the_public_remote_sends_a_row(
    arguments: list[str], repo: Path, tmp_path: Path
) -> None:
    public = tmp_path / "public"
    (repo / ".dvc/config.local").write_text(remotes(tmp_path), encoding="utf-8")
    result = run(["dvc", "push", "--remote", "public", *arguments], repo)
    assert result.returncode == 0, result.stderr
    assert holders(public) == []
    # The base model may be public.
    everything = all(name.startswith("--") for name in arguments)
    assert (sum(path.is_file() for path in public.rglob("*")) > 3) == everything


def test_a_plain_push_sends_rows_to_their_own_remote_and_a_clone_pulls_them(
    repo: Path, tmp_path: Path
) -> None:
    (repo / ".dvc/config.local").write_text(remotes(tmp_path), encoding="utf-8")
    assert run(["dvc", "push", "--run-cache"], repo).returncode == 0
    assert holders(tmp_path / "local") == []
    assert holders(tmp_path / "rows") != []
    git(tmp_path, "clone", "--quiet", str(repo), str(tmp_path / "clone"))
    (tmp_path / "clone/.dvc/config.local").write_text(remotes(tmp_path), encoding="utf-8")
    for target in ("data/clean", "data/sources/clinic.jsonl"):
        pulled = run(["dvc", "pull", target], tmp_path / "clone")
        assert pulled.returncode == 0, pulled.stderr
    assert (tmp_path / "clone/data/sources/clinic.jsonl").read_text(
        encoding="utf-8"
    ) == clinic_rows()
    assert (tmp_path / "clone/data/clean/train.jsonl").read_bytes() == (
        repo / "data/clean/train.jsonl"
    ).read_bytes()


def test_folders_of_rows_are_ignored_and_can_be_tracked(tmp_path: Path) -> None:
    (tmp_path / "data/sources/d/deep").mkdir(parents=True)
    (tmp_path / "data/sources/.gitignore").write_bytes(
        (ROOT / "data/sources/.gitignore").read_bytes()
    )
    for name in ("d/deep/rows.jsonl", "d/README.md", "rows.csv"):
        (tmp_path / "data/sources" / name).write_text(CANARY, encoding="utf-8")
    git(tmp_path, "init", "--quiet")
    assert run(["dvc", "init", "--quiet"], tmp_path).returncode == 0
    commit(tmp_path, "forgotten")
    assert [
        name for name in git(tmp_path, "ls-files").splitlines() if name.startswith("data/")
    ] == ["data/sources/.gitignore"]
    assert run(["dvc", "add", "data/sources/d", "data/sources/rows.csv"], tmp_path).returncode == 0
    place_file(tmp_path / "data/sources/d.dvc", "rows")
    (tmp_path / "data/sources/d/deep/rows.jsonl").write_text("changed", encoding="utf-8")
    assert run(["dvc", "add", "data/sources/d"], tmp_path).returncode == 0
    commit(tmp_path, "tracked")
    tracked = [name for name in git(tmp_path, "ls-files").splitlines() if name.startswith("data/")]
    assert tracked == ["data/sources/.gitignore", "data/sources/d.dvc", "data/sources/rows.csv.dvc"]
    # The remote survives a second `dvc add`; the other file has none yet.
    assert unplaced_files(tmp_path / "data/sources") == [tmp_path / "data/sources/rows.csv.dvc"]


# --- what ingest refuses ------------------------------------------------------------------------------------


def closed(redistribution: str) -> list[DataSource]:
    """The sources of params.yaml, with that right."""
    license = "proprietary" if redistribution == "forbidden" else "cc-by-4.0"
    changes = {"redistribution": redistribution, "license": license}
    return [
        source.model_copy(update=changes)
        for source in load_params(ROOT / "profiles/smollm2-135m.yaml").ingest.sources
    ]


def test_ingest_refuses_a_closed_source_whose_outputs_name_no_remote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    (tmp_path / "data/sources").mkdir(parents=True)
    (tmp_path / "data/sources/a.csv.dvc").write_text(
        "outs:\n- md5: 0\n  path: a.csv\n", encoding="utf-8"
    )
    refuse_unplaced(closed("allowed"))
    with pytest.raises(UserError, match="these outputs name no remote") as caught:
        refuse_unplaced(closed("forbidden"))
    assert "data/sources/a.csv.dvc" in caught.value.what
    assert "models/" not in caught.value.what
    assert all(name in weights_note(closed("forbidden")) for name in TRAINED)
    assert weights_note(closed("allowed")) == ""
    place_models(tmp_path / "dvc.yaml", "rows")
    assert weights_note(closed("forbidden")) == ""
    place_file(tmp_path / "data/sources/a.csv.dvc", "rows")
    refuse_unplaced(closed("forbidden"))
    (tmp_path / "data/sources/a.csv.dvc").write_text(
        "outs:\n- path: a.csv\n  push: false\n", encoding="utf-8"
    )
    refuse_unplaced(closed("forbidden"))
    (tmp_path / "dvc.yaml").write_text("stages: [", encoding="utf-8")
    with pytest.raises(UserError, match=r"dvc\.yaml: it is no YAML"):
        refuse_unplaced(closed("forbidden"))


def test_every_output_of_the_pipeline_with_something_of_rows_has_its_remote() -> None:
    assert unplaced_outputs(ROOT / "dvc.yaml") == []
    assert sorted(unplaced_outputs(ROOT / "dvc.yaml", TRAINED)) == sorted(TRAINED)
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    outs = [out for stage in stages.values() for out in stage.get("do", stage).get("outs", [])]
    # An output that is new here is public or private: whoever adds it decides.
    assert {out for out in outs if isinstance(out, str)} == {
        "models/base",
        "models/judge",
        *TRAINED,
    }
    assert all(
        options == {"remote": "rows"}
        for out in outs
        if isinstance(out, dict)
        for options in out.values()
    )
