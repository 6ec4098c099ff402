"""Prepare hub folders of this run, and upload them.

Look at the folders first. This needs no network and no account:

    python -m bula publish --dry-run

Then upload them:

    HF_TOKEN=... python -m bula publish --repo-id OWNER/NAME --private
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bula.errors import UserError
from bula.escaping import terminal
from bula.params import Params, load_params

# These modules import transformers and the hub's client, and no other command may wait for that.
if TYPE_CHECKING:
    from bula.publish.folders import Prepared
    from bula.publish.parts import Part

OUT = Path(".bula/publish")
METRICS = Path("metrics")
SAME_RUN = "run `make repro`, and commit dvc.lock, params.yaml and metrics/"


def lock_findings(sources: list[Path]) -> list[str]:
    """Return each difference between the workspace and dvc.lock.

    The outputs `sources` must be there, with the hashes of dvc.lock.
    """
    from dvc.repo import Repo
    from ruamel.yaml import YAML

    from bula.commands.generated import read_text
    from bula.commands.remote_checks import remote_errors
    from bula.commands.review_lock import lock_problems, matching_outputs

    lock = YAML(typ="safe").load(read_text(Path("dvc.lock")))
    problems = lock_problems(lock.get("stages") or {})
    with remote_errors("DVC"), Repo() as repo:
        matches = matching_outputs(repo)
    for source in sources:
        if not matches.get(str(source)):
            problems.append(f"{source} is not the output that dvc.lock names")
    return problems


def refuse(parts: list["Part"], params: Params, allowed: list[str]) -> None:
    """Raise a UserError with every reason not to publish the parts."""
    from bula.publish.parts import needed_outputs
    from bula.publish.refusals import license_problems, row_problems, source_problems

    problems = [
        *license_problems(params, parts),
        *source_problems(params, parts, allowed),
    ]
    problems += [f"dvc.lock: {found}" for found in lock_findings(needed_outputs(parts))]
    for part in parts:
        # Rows of a private source are refused above, before anybody reads them.
        if part.name == "dataset" and not problems:
            problems += row_problems(part, params)
    if problems:
        lines = ["nothing was prepared, because it must not be published:"]
        lines += [f"  - {problem}" for problem in problems]
        raise UserError("publish", "\n".join(lines), f"mend each point; for dvc.lock, {SAME_RUN}")


def prepare_all(
    parts: list["Part"], params: Params, repo_id: str, license_file: Path | None, out: Path
) -> list["Prepared"]:
    """Write and check all folders below `out`, and print a line for each."""
    from bula.experiments import run_git
    from bula.publish.cards import Origin
    from bula.publish.folders import Request, prepare, read_license
    from bula.publish.validation import check_folder

    commit = run_git("rev-parse", "HEAD").strip()
    changed = bool(run_git("status", "--porcelain", "--untracked-files=no", "--", "."))
    origin = Origin(commit, changed)
    request = Request(params, METRICS, origin, repo_id, read_license(license_file))
    prepared = []
    for part in parts:
        found = prepare(part, request, out)
        size = check_folder(found)
        print(terminal(f"{found.folder}: {size / 1e6:.1f} MB for {found.repo_id}"))
        prepared.append(found)
    return prepared


def open_points(prepared: list["Prepared"]) -> list[str]:
    """Return what must be done before an upload."""
    from bula.experiments import run_git

    points = [f"{found.part.name}: {found.open_point}" for found in prepared if found.open_point]
    if run_git("status", "--porcelain", "--untracked-files=no", "--", ".").strip():
        points.append("tracked files differ from the git commit that the cards name: commit them")
    return points


RepoId = Annotated[
    str | None,
    typer.Option(help="Repository of the merged model, as OWNER/NAME; the others add an end."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Prepare and check the folders, and upload nothing.")
]
Private = Annotated[
    bool, typer.Option("--private", help="Let only the owner see the repositories.")
]
Parts = Annotated[
    list[str] | None,
    typer.Option(help="adapter, merged, gguf or dataset; repeat it. Default: all."),
]
AllowWeights = Annotated[
    list[str] | None,
    typer.Option(help="A private source whose agreement allows to publish weights."),
]
LicenseText = Annotated[
    Path | None, typer.Option(help="Text of the base model's license, if it came without.")
]
Out = Annotated[Path, typer.Option(help="Folder for the prepared folders.")]


def publish(
    repo_id: RepoId = None,
    dry_run: DryRun = False,
    private: Private = False,
    part: Parts = None,
    allow_weights: AllowWeights = None,
    license_text: LicenseText = None,
    out: Out = OUT,
) -> None:
    """Prepare hub folders of this run, and upload them.

    The folders are adapter, merged model, GGUF files and data set. Nothing is prepared if dvc.lock
    does not match, if a license forbids it, or if rows are private.
    """
    from bula.publish.parts import choose_repository, select_parts

    if not repo_id and not dry_run:
        fix = "add --dry-run to look at the folders, or --repo-id OWNER/NAME to upload them"
        raise UserError("publish", "it has no repository to upload to", fix)
    params = load_params()
    parts = select_parts(part or [])
    chosen = choose_repository(repo_id, params)
    refuse(parts, params, allow_weights or [])
    prepared = prepare_all(parts, params, chosen, license_text, out)
    points = open_points(prepared)
    if dry_run:
        for point in points:
            print(terminal(f"before an upload: {point}"))
        print(f"publish: read {out}/*/README.md; nothing was uploaded")
        return
    if points:
        raise UserError("publish", "\n".join(points), "mend each point, and run this again")
    # The upload imports the HTTP client.
    from bula.publish.upload import upload

    for address in upload(prepared, private=private):
        print(terminal(f"publish: uploaded {address}"))
