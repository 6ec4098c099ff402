"""Test `bula profile`, which runs a profile beside the pipeline's own run.

Here the stages are stubs (tests/stub_pipeline.py).
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.clones import ROOT, commit, edit_params, git
from bula.answer_ledger import append_answers, batch_key, open_ledger, read_ledger
from bula.commands.profile import find_profile, record, sharing
from bula.compared_files import check_compared_files
from bula.errors import UserError
from bula.experiments import refuse_untracked_inputs
from bula.params import DirectoryModel, Params, load_params
from bula.profile_clone import prepare
from bula.profile_inputs import _is_tracked, refuse_missing_inputs
from bula.records import append_row
from bula.reports import write_metrics
from tests.conftest import run
from tests.stub_pipeline import SEED as OWN_SEED
from tests.stub_pipeline import STAGES, log_of, write_repository

OTHER_SEED = 20261123
# Signs with a meaning in YAML, in a shell, or in Hydra's overrides.
HOSTILE = 'sim, "não": {a} [b] ${c} $(d) \\ \' # 0x1F ~'


def other(params: dict[str, Any]) -> None:
    """Turn the default parameters into another profile."""
    params.update(seed=OTHER_SEED, dtype="float32")
    params["variants"] = {"tuned": {"model": "models/merged", "engine": "transformers"}}
    params["compare"]["pairs"] = []
    rows = {
        "kind": "files",
        "name": "clinic",
        "path": "data/sources/rows.jsonl",
        "columns": {"question": HOSTILE, "answer": "b", "specialty": "", "kind": ""},
        "filter": {"Situação do paciente": [HOSTILE, "0123", "null", "1e3"]},
        "limit": 0,
        "role": "split",
        "encoding": "utf-8",
        "names": "removed",
        "license": "cc-by-4.0",
        "redistribution": "allowed",
    }
    params["ingest"]["sources"].append(rows)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the small repository with a profile `other`, which each test copies."""
    folder = tmp_path_factory.mktemp("start")
    write_repository(folder)
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", folder / "params.yaml")
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", folder / "profiles/other.yaml")
    edit_params(folder / "profiles/other.yaml", other)
    for name in ("likelihood/base", "seeds"):
        write_metrics(folder / f"metrics/{name}.json", {"seeds": 0})
    commit(folder, "profiles")
    return folder


@pytest.fixture
def repo(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that repository, the current directory.

    Its path has an accent, and git knows no name of the user.
    """
    folder = tmp_path / "ação"
    shutil.copytree(start, folder)
    monkeypatch.setenv("STUB_ROOT", str(folder))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.chdir(folder)
    return folder


def profile(repo: Path, name: str = "other") -> tuple[int, str, list[str]]:
    """Run `bula profile`, and return its exit code, its output, and the stages that ran."""
    log_of(repo)
    result = run(["python", "-m", "bula", "profile", name], repo)
    return result.returncode, result.stdout + result.stderr, log_of(repo)


def own_run(repo: Path) -> None:
    """Run the pipeline with params.yaml, for the variant that the small stages know."""
    result = run(["dvc", "repro", *STAGES], repo)
    assert result.returncode == 0, result.stderr


def all_stages(seed: int = OTHER_SEED) -> list[str]:
    """Return the lines of the log after a run of all stages."""
    return sorted(f"{seed} {stage}" for stage in STAGES)


def tracked_state(repo: Path) -> dict[str, bytes]:
    """Return the bytes of all files outside .bula, git's and DVC's own folders and the records."""
    hidden = (".bula", ".git", ".dvc", "log")
    paths = [path for path in repo.rglob("*") if path.is_file()]
    places = {str(path.relative_to(repo)): path for path in paths}
    return {
        name: path.read_bytes()
        for name, path in places.items()
        if not name.startswith((*hidden, "profiles/results"))
    }


def tree_of(repo: Path, revision: str) -> list[str]:
    """Return the files in the commit of an experiment."""
    return git(repo, "ls-tree", "-r", "--name-only", revision).splitlines()


def reference(repo: Path, name: str) -> str:
    """Return git's reference of the only experiment with a name."""
    [found] = git(repo, "for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{name}").split()
    return found


def test_a_profile_runs_all_stages_and_changes_nothing_of_the_own_run(repo: Path) -> None:
    own_run(repo)
    (repo / ".env").write_text("OPENAI_API_KEY=a\n", encoding="utf-8")
    (repo / ".dvc/config.local").write_text("[core]\n    autostage = false\n", encoding="utf-8")
    before = tracked_state(repo)
    code, said, log = profile(repo)
    assert code == 0, said
    # DVC's cache has the data of the own run, whose parameters are the same.
    assert sorted(log) == [line for line in all_stages() if "preprocess" not in line]
    assert tracked_state(repo) == before
    assert_models(repo)
    assert_figures(repo, said)
    commit(repo, "the pipeline's own run")
    assert_second_run(repo)
    assert_tree(repo)
    assert_use(repo)


def test_the_clone_lists_the_files_of_the_variants_of_the_profile(repo: Path) -> None:
    shutil.copy(ROOT / "dvc.yaml", repo)
    clone = prepare("other", Path("profiles/other.yaml"))
    check_compared_files(clone / "dvc.yaml", ["tuned"])
    assert (repo / "dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()
    # A second call copies the repository's own dvc.yaml again.
    prepare("other", Path("profiles/other.yaml"))
    check_compared_files(clone / "dvc.yaml", ["tuned"])


def assert_models(repo: Path) -> None:
    """Check that the own run and the profile have a model each."""
    assert (repo / "models/merged").read_text(encoding="utf-8") == f"{OWN_SEED}\n"
    merged = repo / ".bula/profiles/other/models/merged"
    assert merged.read_text(encoding="utf-8") == f"{OTHER_SEED}\n"


def assert_second_run(repo: Path) -> None:
    """Check that a run at a later commit runs no stage and replaces the experiment."""
    before = tracked_state(repo)
    assert profile(repo)[::2] == (0, [])
    assert tracked_state(repo) == before
    listed = run(["dvc", "exp", "list", "--all-commits", "--name-only"], repo)
    assert listed.stdout.split() == ["other"]


def assert_figures(repo: Path, said: str) -> None:
    """Check the record of the profile's figures."""
    assert "profiles/results/other.json" in said
    written = json.loads((repo / "profiles/results/other.json").read_text(encoding="utf-8"))
    figures = written["figures"]
    assert figures["train__dev_loss_nats"] == 2.99
    assert figures["tuned__bits_per_character"] == 1.99
    assert written["conditions"]["train"] == "float32"
    assert len(written["conditions"]["sha256 of the profile"]) == 16
    shown = (repo / "profiles/results/other.md").read_text(encoding="utf-8")
    assert shown == (repo / ".bula/profiles/other/report/headline.md").read_text(encoding="utf-8")


def assert_tree(repo: Path) -> None:
    """Check that the experiment's commit has its own figures, no key and no output."""
    names = tree_of(repo, reference(repo, "other"))
    own = {"metrics/likelihood/tuned.json", "metrics/train.json", "metrics/seeds.json"}
    assert own <= set(names)
    # git tracks this figure here, and the profile has no variant base.
    assert "metrics/likelihood/base.json" in tree_of(repo, "HEAD")
    assert "metrics/likelihood/base.json" not in names
    private = (".env", ".dvc/config.local", ".bula", "data/clean", "data/answers", "models/")
    found = [name for name in names if name.startswith(private)]
    assert {Path(name).name for name in found} <= {".gitignore"}


def assert_use(repo: Path) -> None:
    """Check that the experiment can be compared, becomes a branch and is applied."""
    # The small pipeline has no headline. Its dev losses are 3 and 2.99.
    command = ["dvc", "metrics", "diff", "HEAD", "other", "--targets", "metrics/train.json"]
    diff = run(command, repo)
    assert "2.99" in diff.stdout, diff.stderr
    branch = run(["dvc", "exp", "branch", "other", "other-branch"], repo)
    assert branch.returncode == 0, branch.stderr
    applied = run(["dvc", "exp", "apply", "other"], repo)
    assert applied.returncode == 0, applied.stderr
    assert load_params(repo / "params.yaml") == load_params(repo / "profiles/other.yaml")
    assert (repo / "models/merged").read_text(encoding="utf-8") == f"{OTHER_SEED}\n"


def test_a_failed_run_continues_where_it_stopped(repo: Path) -> None:
    (repo / "broken").touch()
    code, said, before = profile(repo)
    assert code == 1
    assert "it failed. Read its messages above." in said
    assert not (repo / "profiles/results/other.json").exists()
    (repo / "broken").unlink()
    code, said, after = profile(repo)
    assert code == 0, said
    finished = [line for line in before if "benchmark" not in line]
    assert sorted([*finished, *after]) == all_stages()


def test_a_profile_uses_the_files_as_they_are_now(repo: Path) -> None:
    assert profile(repo)[0] == 0
    with (repo / "work.py").open("a", encoding="utf-8") as file:
        file.write("# edited, not committed\n")
    (repo / "data/sources/rows.jsonl").unlink()
    (repo / "data/sources/new.jsonl").write_text("{}\n", encoding="utf-8")
    git(repo, "add", "data/sources/new.jsonl")
    code, said, log = profile(repo)
    assert code == 0, said
    assert sorted(log) == all_stages()
    sources = repo / ".bula/profiles/other/data/sources"
    assert [path.name for path in sources.iterdir()] == ["new.jsonl"]


def test_untracked_files_are_refused_but_not_profiles_and_figures(repo: Path) -> None:
    for name in ("profiles/new.yaml", "metrics/new.json", "plots/new.json", "models/mine/a.gguf"):
        (repo / name).parent.mkdir(parents=True, exist_ok=True)
        (repo / name).touch()
    message = r"models/mine/a\.gguf: git does not track this file, .* \(1 in all\)"
    with pytest.raises(UserError, match=message):
        refuse_untracked_inputs()


def params_with(path: str) -> Params:
    """Return parameters whose base is a directory."""
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    base = DirectoryModel(kind="directory", path=path, license="mit")
    return params.model_copy(update={"ingest": params.ingest.model_copy(update={"base": base})})


@pytest.mark.parametrize("path", ["../model", "data/base", "./data/base", "/absolute"])
def test_a_base_by_a_relative_path_must_be_tracked(repo: Path, path: str) -> None:
    (repo / "data/.gitignore").write_text("/base\n", encoding="utf-8")
    (repo / "data/base").mkdir()
    if path.startswith("/"):
        refuse_missing_inputs(params_with(path))
    else:
        with pytest.raises(UserError, match="Use an absolute path, or track the model"):
            refuse_missing_inputs(params_with(path))
    (repo / "data/base.dvc").write_text("outs:\n- path: base\n  md5: a.dir\n", encoding="utf-8")
    git(repo, "add", "data/base.dvc")
    assert _is_tracked(Path("data/base/model.gguf"))
    assert _is_tracked(Path("data/sources"))


def test_data_that_changed_after_dvc_add_is_refused(repo: Path) -> None:
    git(repo, "rm", "--cached", "--quiet", "data/sources/rows.jsonl")
    rows = repo / "data/sources/rows.jsonl"
    assert run(["dvc", "add", "data/sources/rows.jsonl"], repo).returncode == 0
    commit(repo, "dvc add")
    params = load_params(repo / "profiles/other.yaml")
    refuse_missing_inputs(params)
    rows.unlink()
    refuse_missing_inputs(params)
    rows.write_text("{}\n{}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"Run `dvc add data/sources/rows\.jsonl` again"):
        refuse_missing_inputs(params)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../other", "has other signs than small letters"),
        ("stash", "DVC itself uses the name 'stash'"),
        ("a..b", "git allows no experiment named 'a..b'"),
        ("unknown", "there is no profile 'unknown'"),
    ],
)
def test_a_wrong_name_is_refused_with_the_names(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=said) as caught:
        find_profile(name)
    assert "ame one of gemma-3-270m, llama-3.2-1b" in str(caught.value)


def test_a_profile_with_terms_stops_before_anything_is_made(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BULA_ACCEPT_GEMMA_TERMS", raising=False)
    code, said, log = profile(repo, "gemma-3-270m")
    assert (code, log) == (1, [])
    assert "https://ai.google.dev/gemma/terms" in said
    assert "Read the terms, and set BULA_ACCEPT_GEMMA_TERMS=1 if you accept them." in said
    assert not (repo / ".bula").exists()


def test_keys_checkpoints_and_verdicts_are_those_of_the_repository(repo: Path) -> None:
    (repo / ".env").write_text("OPENAI_API_KEY=a\n", encoding="utf-8")
    clone = prepare("other", repo / "profiles/other.yaml")
    assert (clone / ".env").read_text(encoding="utf-8") == "OPENAI_API_KEY=a\n"
    append_row(clone / ".bula/ledger.jsonl", {"key": "a"})
    (clone / ".bula/checkpoints/a").mkdir()
    (repo / ".env").unlink()
    prepare("other", repo / "profiles/other.yaml")
    assert not (clone / ".env").is_symlink()
    shutil.rmtree(clone)
    assert (repo / ".bula/ledger.jsonl").read_text(encoding="utf-8") == '{"key": "a"}\n'
    assert (repo / ".bula/checkpoints/a").is_dir()


def test_unfinished_answers_of_a_killed_profile_stay_for_its_next_run(repo: Path) -> None:
    (repo / "broken").touch()
    code, said, _ = profile(repo)
    assert code == 1, said
    clone = repo / ".bula/profiles/other"
    # DVC tells the stages of the clone this folder, so their answers lie below it.
    assert (clone / ".bula/dvc_root").read_text(encoding="utf-8") == str(clone)
    stopped = clone / ".bula/answers"
    with pytest.raises(KeyboardInterrupt), open_ledger("generate@tuned", "a", [], stopped) as kept:
        append_answers(kept, [[1]], [("Sim.", "stop", 1, False)])
        raise KeyboardInterrupt
    assert prepare("other", repo / "profiles/other.yaml").absolute() == clone
    with open_ledger("generate@tuned", "a", [], stopped) as found:
        assert read_ledger(found) == {batch_key([[1]]): [("Sim.", "stop", 1, False)]}


def test_files_of_a_variant_that_the_profile_lost_are_deleted(repo: Path) -> None:
    clone = prepare("default", repo / "profiles/smollm2-135m.yaml")
    files = ("data/answers/base.jsonl", "metrics/judge/base.json", "plots/rouge/base.json")
    kept = ("data/answers/tuned.jsonl", "metrics/base.json", "plots/rouge/tuned.json")
    for name in (*files, *kept):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).touch()
    prepare("default", repo / "profiles/other.yaml")
    assert [name for name in files if (clone / name).exists()] == []
    assert [name for name in kept if not (clone / name).exists()] == []


def closed(params: Params) -> Params:
    """Return the parameters with one source, whose rows must not be passed on."""
    source = params.ingest.sources[0].model_copy(update={"redistribution": "forbidden"})
    ingest = params.ingest.model_copy(update={"sources": [source]})
    return params.model_copy(update={"ingest": ingest})


def test_a_closed_source_has_no_command_to_share() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    assert "dvc exp push origin mine" in sharing("mine", params)
    assert "results/mine.md" not in sharing("mine", params)
    said = sharing("mine", closed(params))
    assert "dvc exp push" not in said
    assert "profiles/results/mine.md, which quotes its rows, is not" in said


def test_answers_from_a_closed_source_are_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bula.commands.profile.read_run", lambda *_: ({"loss": 1.5}, {}))
    file = ROOT / "profiles/smollm2-135m.yaml"
    params = load_params(file)
    headline = Path("clone/report/headline.md")
    headline.parent.mkdir(parents=True)
    headline.write_text("**Pergunta?**\n", encoding="utf-8")
    results = Path("profiles/results")
    assert record(file, params, Path("clone")) == results / "smollm2-135m.json"
    assert (results / "smollm2-135m.md").read_text(encoding="utf-8") == "**Pergunta?**\n"
    # The figures are written again, and the old answers are deleted.
    (results / "smollm2-135m.json").unlink()
    record(file, closed(params), Path("clone"))
    assert [path.name for path in results.iterdir()] == ["smollm2-135m.json"]


def test_a_folder_without_git_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match="Run this in a clone of the repository"):
        prepare("other", ROOT / "profiles/smollm2-135m.yaml")
