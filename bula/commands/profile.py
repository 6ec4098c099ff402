"""Run a profile beside the pipeline's own run, as a DVC experiment.

The profile runs in a clone (bula/profile_clone.py), so params.yaml, the figures and the outputs
here stay as they are. A stopped run resumes. `dvc exp run -S` is no way to run a profile: its
overrides cannot express every key, such as a column's name with an accent.

    python -m bula profile gemma-3-270m
"""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from bula.commands.keep_runs import keep_finished
from bula.errors import UserError
from bula.experiments import run_dvc
from bula.files import sha256_file, sha256_values, staged
from bula.model_licenses import model_license, refuse_unaccepted_terms
from bula.param_types import Name
from bula.params import Params, load_params
from bula.profile_clone import prepare, save_experiment
from bula.profile_inputs import refuse_missing_inputs
from bula.reports import write_metrics
from bula.runs import read_run

PROFILES = Path("profiles")
RESULTS = PROFILES / "results"
# The main figures and three answers, as the stage compare writes them.
HEADLINE = Path("report/headline.md")
# Digits of a hash that a record keeps.
DIGITS = 16
# DVC's own references below refs/exps, and its names of the current files.
DVC_NAMES = ("apply", "celery", "exec", "stash", "temp", "workspace")


def find_profile(name: str) -> Path:
    """Return the file of a profile. A UserError lists the names."""
    known = sorted(path.stem for path in PROFILES.glob("*.yaml"))
    fix = f"name one of {', '.join(known) or 'none'}"
    if problem := _wrong_name(name):
        raise UserError("profiles", problem, f"{fix}, or rename the file")
    if name not in known:
        raise UserError("profiles", f"there is no profile {name!r}", fix)
    return PROFILES / f"{name}.yaml"


def _wrong_name(name: str) -> str:
    """Return why a name fits no folder or experiment, or an empty text."""
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        return f"{name!r} has other signs than small letters, digits and _ . -"
    if name in DVC_NAMES:
        return f"DVC itself uses the name {name!r}"
    if ".." in name or name.endswith((".", ".lock")):
        return f"git allows no experiment named {name!r}"
    return ""


def record(profile: Path, params: Params, clone: Path) -> Path:
    """Write figures and answers of a profile's run into profiles/results.

    Return the file of the figures. The other file is Markdown for the README. It quotes questions
    and answers and git takes it, so a profile with a closed source has none.
    """
    figures, conditions = read_run(clone, list(params.variants))
    known = {name: _short(value) for name, value in conditions.items()}
    known["sha256 of the profile"] = sha256_file(profile)[:DIGITS]
    file = RESULTS / f"{profile.stem}.json"
    write_metrics(file, {"conditions": known, "figures": figures})
    shown = file.with_suffix(".md")
    if closed_sources(params):
        shown.unlink(missing_ok=True)
        return file
    with staged(shown) as temporary:
        shutil.copyfile(clone / HEADLINE, temporary)
    return file


def _short(value: object) -> str:
    """Return a condition as text, and a list of hashes as one hash."""
    return value if isinstance(value, str) else sha256_values(value)[:DIGITS]


def describe(name: str, params: Params, clone: Path, results: Path) -> str:
    """Return the place of a profile's results, and the commands that use them."""
    terms = model_license(params.ingest.base.license)
    return f"""
profile {name}: the report is {clone}/report/index.html, the figures are in {results}
  compare:     dvc metrics diff HEAD {name}  or: dvc exp show
  curves:      dvc plots diff HEAD {name}
  take over:   dvc exp apply {name}          (replaces params.yaml, figures and outputs here)
  as a branch: dvc exp branch {name} profile-{name}
{sharing(name, params)}
License of the weights: {terms.name} {terms.url}"""


def sharing(name: str, params: Params) -> str:
    """Return how to share the experiment, and what it contains."""
    closed = closed_sources(params)
    if closed:
        return f"""  share:       read docs/remotes.md first, because the source {closed[0]} is not
               redistributable; so profiles/results/{name}.md, which quotes its rows, is not
               written, and an old one is deleted"""
    return f"""  share:       dvc exp push origin {name}
               (sends your uncommitted edits, params.yaml, ids in plots/, and the weights)"""


def closed_sources(params: Params) -> list[str]:
    """Return the names of the sources whose rows must not be passed on."""
    sources = params.ingest.sources
    return [source.name for source in sources if source.redistribution == "forbidden"]


def profile(
    name: Annotated[str, typer.Argument(help="Name of a file in profiles/, without .yaml.")],
) -> None:
    """Run a profile beside params.yaml, and save it as an experiment."""
    file = find_profile(name)
    params = load_params(file)
    refuse_unaccepted_terms([params.ingest.base, params.ingest.judge])
    refuse_missing_inputs(params)
    clone = prepare(name, file)
    try:
        run_dvc("repro", folder=clone)
    finally:
        # An error of dvc repro is the one to show.
        with suppress(UserError):
            keep_finished(clone)
    save_experiment(name, clone)
    results = record(file, params, clone)
    print(describe(name, params, clone, results))
