"""List the objects that outputs name, and read manifests.

DVC stores each file under its MD5. A folder has an object too: its manifest, which lists the
folder's files with their MD5s and whose name ends in `.dir`.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

from dvc.exceptions import DvcException
from dvc.repo import Repo
from pydantic import AfterValidator, StringConstraints, TypeAdapter
from typing_extensions import TypedDict

from bula.errors import UserError

# DVC 2 hashed text files with LF line ends, and DVC 3 still reads such outputs.
HASH_NAMES = ("md5", "md5-dos2unix")
MANIFEST_ENDING = ".dir"
OBJECT_ID = re.compile(r"[0-9a-f]{32}(\.dir)?")


class Key(NamedTuple):
    """The name of an object on a remote."""

    hash_name: str
    object_id: str

    @property
    def is_manifest(self) -> bool:
        """Return whether the object is the manifest of a folder."""
        return self.object_id.endswith(MANIFEST_ENDING)


class Place(NamedTuple):
    """A file of an output, with the output's stage and commit.

    The commit is empty for the files of the workspace.
    """

    file: str
    output: str
    stage: str
    commit: str


class Named(NamedTuple):
    """An object's size in bytes if it is known, and its places by file.

    The size of a manifest is that of all the folder's files.
    """

    size: int | None
    places: dict[str, Place]


Objects = dict[Key, Named]


class Scope(NamedTuple):
    """The objects of each remote, and sentences about outputs that no remote must have."""

    remotes: dict[str, Objects]
    notes: dict[str, None]


def add_object(objects: Objects, key: Key, size: int | None, place: Place) -> None:
    """Add a place to an object. The first size of an object counts."""
    named = objects.setdefault(key, Named(size, {}))
    named.places.setdefault(place.file, place)


def add_files(objects: Objects, manifest: Key, files: dict[str, str]) -> None:
    """Add the files of a folder, at all places of its manifest."""
    for place in list(objects[manifest].places.values()):
        for path, md5 in files.items():
            file = place._replace(file=f"{place.output}/{path}")
            add_object(objects, Key(manifest.hash_name, md5), None, file)


# --- outputs -----------------------------------------------------------------------------------


def named_objects(
    repo: Repo, remote: str | None, *, all_commits: bool = False, targets: Sequence[str] = ()
) -> Scope:
    """Return the objects that the outputs of a repository name.

    Targets are outputs, files of them, or stages, as `dvc pull` knows them. Default: all outputs.
    Without a remote, each output counts for the remote that `dvc push` sends it to. With a remote,
    the outputs that name it count, or if none does, the outputs that name no remote. Files of
    folders are added by `add_files`.
    """
    default = repo.config["core"].get("remote")
    scope = Scope({}, {})
    for revision in repo.brancher(all_commits=all_commits, sha_only=True):
        commit = "" if revision in ("", "workspace") else revision[:7]
        for out in _outputs(repo, commit, scope.notes, targets):
            _add_output(out, commit, scope)
    return scope._replace(remotes=_choose(scope.remotes, remote, default))


def _choose(
    found: dict[str, Objects], remote: str | None, default: str | None
) -> dict[str, Objects]:
    """Return the objects of the chosen remotes.

    In `found`, the empty name stands for outputs that name no remote.
    """
    unnamed = found.pop("", {})
    if remote and remote != default:
        return {remote: found.get(remote, unnamed)}
    if unnamed and not default:
        [place, *_] = next(iter(unnamed.values())).places.values()
        what = f"no remote is configured for {place.file}"
        raise UserError(".dvc/config", what, "run `dvc remote add -d NAME URL`")
    if default:
        objects = found.setdefault(default, {})
        for key, named in unnamed.items():
            for place in named.places.values():
                add_object(objects, key, named.size, place)
    return {remote: found[remote]} if remote else found


def _outputs(
    repo: Repo, commit: str, notes: dict[str, None], targets: Sequence[str]
) -> Iterator[Any]:
    """Yield the outputs of the current revision that DVC caches.

    An old commit whose pipeline is damaged gives a note.
    """
    try:
        view = repo.index.targets_view(targets) if targets else repo.index
        found = list(view.outs)
    except DvcException as error:
        if not commit:
            raise
        notes[f"commit {commit}: DVC cannot read its outputs ({error})"] = None
        return
    for out in found:
        if out.use_cache:
            yield out


def _add_output(out: Any, commit: str, scope: Scope) -> None:
    """Add the object of one output to the remote that the output names."""
    path = out.repo.fs.relpath(out.fs_path, out.repo.root_dir)
    stage = out.stage.addressing
    if reason := _reason_to_skip(out):
        if not commit:
            scope.notes[f"{path} (stage {stage}): {reason}"] = None
        return
    key = Key(out.hash_info.name, out.hash_info.value)
    if not OBJECT_ID.fullmatch(key.object_id):
        what = f"the hash of {path} is {key.object_id!r}, which is no MD5"
        raise UserError(out.stage.relpath, what, "restore the file and dvc.lock from git")
    objects = scope.remotes.setdefault(out.remote or "", {})
    add_object(objects, key, out.meta.size, Place(path, path, stage, commit))


def _reason_to_skip(out: Any) -> str | None:
    """Return why no remote of this repository must have an output, or None."""
    if not out.can_push:
        return "it has `push: false`"
    if out.stage.is_repo_import:
        return "it is imported from another repository, whose remote must have it"
    if not out.hash_info:
        return "no hash of it is recorded yet"
    if out.hash_info.name not in HASH_NAMES:
        return f"its hash is {out.hash_info.name}, not MD5"
    return None


# --- manifests ---------------------------------------------------------------------------------


def _inside(path: str) -> str:
    """Return a path of a manifest, which must stay inside the folder."""
    if "\0" in path or {"", ".", ".."} & set(path.split("/")):
        raise ValueError("a path leads out of the folder")
    return path


class _File(TypedDict):
    """One file of a manifest. Further keys are ignored."""

    md5: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    relpath: Annotated[str, AfterValidator(_inside)]


_MANIFEST = TypeAdapter(list[_File])


def parse_manifest(content: bytes) -> dict[str, str]:
    """Return the MD5 of each file of a folder by its path.

    Raise ValueError if the content is no manifest.
    """
    entries = _MANIFEST.validate_json(content)
    files = {entry["relpath"]: entry["md5"] for entry in entries}
    if len(files) != len(entries):
        raise ValueError("two entries have the same path")
    return files
