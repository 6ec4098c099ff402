"""Check that other machines can import a release before it is tagged.

`dvc import` and `dvc get` read the configuration of the tagged commit. If its default remote is a
relative folder, no other machine will ever find the data of that tag.

    python -m bula release-check
"""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from bula.errors import UserError
from bula.escaping import terminal

CONFIG = ".dvc/config"


def is_relative_folder(url: str) -> bool:
    """Return whether the address of a remote is a folder relative to the repository."""
    return "://" not in url and not PurePath(url).is_absolute()


def default_remote(config: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name and the address of the default remote of a configuration.

    Raise UserError if there is none, or if other machines cannot reach it.
    """
    where = f"{CONFIG} of HEAD"
    fix = "run `dvc remote add -d NAME URL`, commit .dvc/config, push the data, and then tag"
    name = config.get("core", {}).get("remote")
    url = config.get("remote", {}).get(name, {}).get("url")
    if not url:
        raise UserError(where, "it names no default remote, so nobody can import this commit", fix)
    if is_relative_folder(url):
        what = f"the default remote {name} is the relative folder {url}, so nobody can import it"
        raise UserError(where, what, fix)
    return str(name), str(url)


def limited_artifacts(repo: Any, config: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each artifact whose own remote is a relative folder."""
    remotes = {out.fs_path: out.remote for out in repo.index.outs}
    lines = []
    for artifacts in repo.artifacts.read().values():
        for name, artifact in artifacts.items():
            remote = remotes.get(repo.fs.abspath(artifact.path))
            url = config.get("remote", {}).get(remote, {}).get("url", "")
            if remote and is_relative_folder(url):
                lines.append(
                    f"artifact {name}: {artifact.path} goes to the remote {remote}, the relative "
                    f"folder {url}, so other machines cannot import it"
                )
    return lines


def release_check() -> None:
    """Refuse a release whose default remote other machines cannot reach.

    The exit code is 1 if HEAD must not be tagged.
    """
    # No other command waits for the import of DVC.
    from dvc.config import Config
    from dvc.repo import Repo

    from bula.commands.remote_checks import remote_errors

    with remote_errors("DVC"), Repo() as repo:
        head = repo.scm.get_fs("HEAD")
        config = Config.load_file(CONFIG, head)
        name, url = default_remote(config)
        lines = limited_artifacts(repo, config)
    lines.append(f"default remote {name}: {url}; HEAD can be tagged if the objects are there")
    print("\n".join(terminal(line) for line in lines))
