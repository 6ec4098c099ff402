"""Check that other machines can import a release before it is tagged.

`dvc import` and `dvc get` read the configuration of the tagged commit. If its default remote is a
relative folder, no other machine will ever find the data of that tag. If it is another folder, only
machines that mount it can import the tag.

    python -m bula release-check

The disk of a rented machine is lost with it. Before a run there, check all remotes that a push
uses, `rows` included:

    python -m bula release-check --remotes
"""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any

import typer

from bula.errors import UserError
from bula.escaping import terminal

CONFIG = ".dvc/config"
LOCAL_SCHEME = "file://"


def is_folder(url: str) -> bool:
    """Return whether the address of a remote is a folder."""
    return "://" not in url or url.startswith(LOCAL_SCHEME)


def is_relative_folder(url: str) -> bool:
    """Return whether the address of a remote is a folder relative to the repository."""
    return "://" not in url and not PurePath(url).is_absolute()


def address(config: Mapping[str, Any], name: object) -> str:
    """Return the configured address of a remote, or an empty text."""
    return str(config.get("remote", {}).get(name, {}).get("url", ""))


def default_remote(config: Mapping[str, Any], *, allow_folder: bool) -> tuple[str, str]:
    """Return the name and the address of the default remote of a configuration.

    Raise UserError if there is none, or if other machines cannot reach it. `allow_folder` accepts
    a folder with an absolute path, which other machines may mount.
    """
    where = f"{CONFIG} of HEAD"
    fix = "run `dvc remote add -d NAME URL`, commit .dvc/config, push the data, and then tag"
    name = config.get("core", {}).get("remote")
    url = address(config, name)
    if not url:
        raise UserError(where, "it names no default remote, so nobody can import this commit", fix)
    if is_relative_folder(url):
        what = f"the default remote {name} is the relative folder {url}, so nobody can import it"
        raise UserError(where, what, fix)
    if is_folder(url) and not allow_folder:
        limit = f"only machines that mount {url} can import it"
        what = f"the default remote {name} is a folder, so {limit}"
        raise UserError(where, what, f"{fix}; or add --allow-folder, if all of them mount it")
    return str(name), url


def limited_artifacts(repo: Any, config: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each artifact whose own remote is a folder."""
    remotes = {out.fs_path: out.remote for out in repo.index.outs}
    lines = []
    for artifacts in repo.artifacts.read().values():
        for name, artifact in artifacts.items():
            remote = remotes.get(repo.fs.abspath(artifact.path))
            limit = import_limit(address(config, remote))
            if remote and limit:
                lines.append(
                    f"artifact {name}: {artifact.path} goes to the remote {remote}, {limit}"
                )
    return lines


def import_limit(url: str) -> str:
    """Return which machines can import from an address that is a folder."""
    if not is_folder(url):
        return ""
    if is_relative_folder(url):
        return f"the relative folder {url}, so other machines cannot import it"
    return f"a folder, so only machines that mount {url} can import it"


def check_tag(repo: Any, *, allow_folder: bool) -> list[str]:
    """Return sentences about the remotes of HEAD.

    Raise UserError if HEAD must not be tagged.
    """
    from dvc.config import Config

    config = Config.load_file(CONFIG, repo.scm.get_fs("HEAD"))
    name, url = default_remote(config, allow_folder=allow_folder)
    lines = limited_artifacts(repo, config)
    lines.append(f"default remote {name}: {url}; HEAD can be tagged if the objects are there")
    return lines


def read_config(repo: Any) -> dict[str, Any]:
    """Return the configuration of this machine, with addresses as the files have them.

    DVC itself makes every folder absolute.
    """
    from dvc.config import Config, merge

    merged: dict[str, Any] = {}
    for file in repo.config.files.values():
        if repo.fs.exists(file):
            merge(merged, Config.load_file(file))
    return merged


def used_remotes(repo: Any, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the addresses of the default remote and of the remotes of outputs."""
    names = {config.get("core", {}).get("remote")} | {out.remote for out in repo.index.outs}
    return {name: address(config, name) for name in sorted(filter(None, names))}


def check_remotes(remotes: Mapping[str, str]) -> None:
    """Raise UserError if there is no remote, or one without a usable address."""
    fix = "give each of them an address that other machines reach: docs/remotes.md, S3 or SSH"
    if not remotes:
        raise UserError(CONFIG, "it names no default remote, so a push has no place", fix)
    found = [name for name, url in remotes.items() if is_relative_folder(url)]
    if found:
        places = ", ".join(f"{name} ({remotes[name] or 'no address'})" for name in found)
        what = f"these remotes are relative folders, which no other machine has: {places}"
        raise UserError(CONFIG, what, fix)


def release_check(
    remotes: Annotated[
        bool, typer.Option("--remotes", help="Only refuse remotes of a push in relative folders.")
    ] = False,
    allow_folder: Annotated[
        bool, typer.Option("--allow-folder", help="All machines mount the remote's folder.")
    ] = False,
) -> None:
    """Refuse a release whose default remote other machines cannot reach.

    The exit code is 1 if HEAD must not be tagged.
    """
    # No other command waits for the import of DVC.
    from dvc.repo import Repo

    from bula.commands.remote_checks import remote_errors

    with remote_errors("DVC"), Repo() as repo:
        if remotes:
            used = used_remotes(repo, read_config(repo))
            check_remotes(used)
            lines = [f"remote {name}: {url}" for name, url in used.items()]
        else:
            lines = check_tag(repo, allow_folder=allow_folder)
    print("\n".join(terminal(line) for line in lines))
