"""Run a profile beside the pipeline's own run, and keep it as a DVC experiment.

The profile runs in a clone (bula/profile_clone.py), so params.yaml, the figures and the outputs
here stay as they are. A stopped run resumes. `dvc exp run -S` is no way to run a profile: its
overrides cannot express every key, such as a column's name with an accent.

    python -m bula profile gemma-3-270m
"""

from pathlib import Path
from typing import Annotated

import typer

from bula.errors import UserError
from bula.experiments import refuse_untracked_inputs, run_dvc
from bula.files import sha256_file, sha256_values
from bula.model_licenses import model_license, refuse_unaccepted_terms
from bula.params import Params, load_params
from bula.profile_clone import prepare, save_experiment
from bula.reports import write_metrics
from bula.runs import read_run

PROFILES = Path("profiles")
RESULTS = PROFILES / "results"
# Digits of a hash that a record keeps.
DIGITS = 16


def find_profile(name: str) -> Path:
    """Return the file of a profile. A UserError lists the names."""
    known = sorted(path.stem for path in PROFILES.glob("*.yaml"))
    if name not in known:
        what = f"there is no profile {name!r}"
        raise UserError("profiles", what, f"name one of {', '.join(known) or 'none'}")
    return PROFILES / f"{name}.yaml"


def record(profile: Path, params: Params, clone: Path) -> Path:
    """Write the figures of a profile's run into profiles/results, and return the file."""
    figures, conditions = read_run(clone, list(params.variants))
    known = {name: _short(value) for name, value in conditions.items()}
    known["sha256 of the profile"] = sha256_file(profile)[:DIGITS]
    file = RESULTS / f"{profile.stem}.json"
    write_metrics(file, {"conditions": known, "figures": figures})
    return file


def _short(value: object) -> str:
    """Return a condition as text, and a list of hashes as one hash."""
    return value if isinstance(value, str) else sha256_values(value)[:DIGITS]


def describe(name: str, params: Params, clone: Path, results: Path) -> str:
    """Return where the results of a profile lie, and how to go on with them."""
    terms = model_license(params.ingest.base.license)
    return f"""
profile {name}: the report is {clone}/report/index.html, the figures are in {results}
  compare:     dvc metrics diff HEAD {name}  or: dvc exp show
  curves:      dvc plots diff HEAD {name}
  take over:   dvc exp apply {name}          (replaces params.yaml, figures and outputs here)
  share:       dvc exp push origin {name}
  as a branch: dvc exp branch {name} profile-{name}
License of the weights: {terms.name} {terms.url}"""


def profile(
    name: Annotated[str, typer.Argument(help="Name of a file in profiles/, without .yaml.")],
) -> None:
    """Run a profile beside params.yaml, and save it as an experiment."""
    file = find_profile(name)
    params = load_params(file)
    refuse_unaccepted_terms([params.ingest.base, params.ingest.judge])
    refuse_untracked_inputs()
    clone = prepare(name, file)
    run_dvc("repro", folder=clone)
    save_experiment(name, clone)
    results = record(file, params, clone)
    print(describe(name, params, clone, results))
