"""Keep a clone of this repository in which a profile runs.

The clone lies in .bula/profiles/NAME. It shares git's objects, DVC's cache, checkpoints and the
judge's verdicts with the repository. Its own dvc.lock, outputs and unfinished answers
(.bula/answers) stay between two calls. The answers are not shared, because each run deletes those
of variants that its own params.yaml lacks.
"""

import filecmp
import os
import shutil
from pathlib import Path

from bula.compared_files import variant_names, write_variants
from bula.experiments import run_dvc, run_git
from bula.files import staged

CLONES = Path(".bula/profiles")
# What a run writes in git's working tree: the clone keeps its own.
OWN_FILES = ("dvc.lock", "params.yaml")
OWN_FOLDERS = ("metrics/", "plots/")
# DVC saves an experiment as a commit, and git refuses to commit without a name.
NOBODY = {"user.name": "bula", "user.email": "bula@localhost"}
LOCAL_CONFIG = Path(".dvc/config.local")
# `make seeds` writes this figure. It is an input, and no stage writes it.
SEED_FIGURES = "metrics/seeds.json"
# Files of one variant, which no stage deletes when the variant leaves params.yaml.
VARIANT_FILES = (
    *(f"data/{name}/{{}}.jsonl" for name in ("likelihood", "answers", "samples", "scores")),
    "data/scores/bert-{}.jsonl",
    "data/verdicts/{}.jsonl",
    "data/safety/{}.jsonl",
    *(f"metrics/{name}/{{}}.json" for name in ("likelihood", "generate", "benchmark", "rouge")),
    "metrics/bertscore/{}.json",
    "metrics/judge/{}.json",
    "metrics/safety/{}.json",
    "metrics/speed/generate/{}.json",
    "metrics/speed/judge/{}.json",
    "plots/rouge/{}.*",
    "plots/judge/{}.json",
)


def prepare(name: str, profile: Path) -> Path:
    """Return the clone of a profile, with the repository's files as they are now."""
    clone = CLONES / name
    commit = run_git("rev-parse", "HEAD").strip()
    if not clone.exists():
        with staged(clone) as temporary:
            run_git("clone", "--quiet", "--shared", "--no-checkout", ".", str(temporary))
            run_git("checkout", "--quiet", "--detach", commit, folder=temporary)
            _delete_figures(temporary)
    before = _tracked_files(clone)
    # The clone's files stay, and its run is committed on top of this commit.
    run_git("fetch", "--quiet", str(Path.cwd()), "HEAD", folder=clone)
    run_git("reset", "--quiet", "--mixed", commit, folder=clone)
    _set_identity(clone)
    _share_cache(clone)
    _copy_tracked_files(clone, before)
    _link_state(clone)
    _delete_other_variants(clone, profile)
    shutil.copy(profile, clone / "params.yaml")
    write_variants(clone / "dvc.yaml", clone / "params.yaml")
    return clone


def _delete_figures(clone: Path) -> None:
    """Delete the committed figures, which belong to the repository's own run."""
    names = run_git("ls-files", "--cached", "-z", "--", *OWN_FOLDERS, folder=clone).split("\0")
    for name in names:
        if name and name != SEED_FIGURES:
            (clone / name).unlink()


def _delete_other_variants(clone: Path, profile: Path) -> None:
    """Delete the files of variants that only the clone's earlier params.yaml has."""
    removed = set(variant_names(clone / "params.yaml")) - set(variant_names(profile))
    for variant in removed:
        for pattern in VARIANT_FILES:
            for file in clone.glob(pattern.format(variant)):
                file.unlink()


def _set_identity(clone: Path) -> None:
    """Let git in the clone commit under the user's or a neutral name."""
    for key, neutral in NOBODY.items():
        known = run_git("config", "--default", neutral, "--get", key).strip()
        run_git("config", key, known, folder=clone)


def _share_cache(clone: Path) -> None:
    """Let DVC in the clone use the settings and the cache of the repository."""
    # Imported here because DVC takes a second to load.
    from dvc.repo import Repo

    (clone / LOCAL_CONFIG).unlink(missing_ok=True)
    if LOCAL_CONFIG.exists():
        shutil.copy(LOCAL_CONFIG, clone / LOCAL_CONFIG)
    with Repo() as repo:
        cache = Path(repo.cache.local_cache_dir)
    # DVC cannot write an absolute path with accents into its configuration.
    relative = os.path.relpath(cache.absolute(), clone.absolute())
    run_dvc("config", "--quiet", "--local", "cache.dir", relative, folder=clone)


def _tracked_files(folder: Path) -> set[str]:
    """Return a folder's tracked files, without the files that a run writes."""
    names = run_git("ls-files", "--cached", "-z", folder=folder).split("\0")
    return {name for name in names if name and not _is_own(name)}


def _is_own(name: str) -> bool:
    """Return whether the clone keeps its own version of a file."""
    return name in OWN_FILES or name.startswith(OWN_FOLDERS)


def _copy_tracked_files(clone: Path, before: set[str]) -> None:
    """Copy what changed in the tracked files, and fetch data that DVC tracks.

    Files that an earlier call copied, and that git no longer tracks here, are deleted.
    """
    names = {name for name in _tracked_files(Path()) if Path(name).exists()}
    for name in before - names:
        _remove(clone / name)
    for name in names:
        _copy(Path(name), clone / name)
    run_git("--literal-pathspecs", "add", "--force", "--", *sorted(names), folder=clone)
    data = sorted(name for name in names if name.endswith(".dvc"))
    if data:
        run_dvc("checkout", "--quiet", *data, folder=clone)


def _copy(source: Path, target: Path) -> None:
    """Copy a file unless the target has the same bytes."""
    if not target.exists() or not filecmp.cmp(source, target, shallow=False):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def _remove(file: Path) -> None:
    """Delete a file, and the data of a .dvc file."""
    file.unlink(missing_ok=True)
    if file.suffix == ".dvc":
        data = file.with_suffix("")
        if data.is_dir():
            shutil.rmtree(data)
        data.unlink(missing_ok=True)


def _link_state(clone: Path) -> None:
    """Let the clone use this checkout's keys, checkpoints and verdicts of the judge.

    Paid verdicts and checkpoints then outlive the clone.
    """
    checkpoints = Path(".bula/checkpoints")
    checkpoints.mkdir(parents=True, exist_ok=True)
    (clone / ".bula").mkdir(exist_ok=True)
    _link(Path(".env"), clone, exists=Path(".env").exists())
    _link(checkpoints, clone)
    # The first verdict creates this file.
    _link(Path(".bula/ledger.jsonl"), clone)
    _link(Path(".bula/judge_failures.jsonl"), clone)


def _link(path: Path, clone: Path, *, exists: bool = True) -> None:
    """Let a path of the clone be a link to the same path here."""
    link = clone / path
    if link.is_symlink():
        link.unlink()
    if exists and not link.exists():
        link.symlink_to(path.absolute())


def save_experiment(name: str, clone: Path) -> None:
    """Save the clone's run as an experiment of this repository.

    It replaces an earlier experiment of the same name.
    """
    _forget_experiments(name, clone)
    run_dvc("exp", "save", "--quiet", "--name", name, "--force", folder=clone)
    _forget_experiments(name, Path())
    for saved in _experiments(name, clone):
        run_git("fetch", "--quiet", str(clone.absolute()), f"{saved}:{saved}")


def _experiments(name: str, folder: Path) -> list[str]:
    """Return git's references of all experiments with a name."""
    # The commit's hash is two folders; DVC's own references are shorter.
    pattern = f"refs/exps/*/*/{name}"
    return run_git("for-each-ref", "--format=%(refname)", pattern, folder=folder).split()


def _forget_experiments(name: str, folder: Path) -> None:
    """Delete all experiments with a name; each commit could have one."""
    for reference in _experiments(name, folder):
        run_git("update-ref", "-d", reference, folder=folder)
