"""Check in seconds what a run with params.yaml needs.

All faults are listed at once, with the place in params.yaml and the fix. A judge behind an address
is asked for one token, which counts in judge.max_usd. Nothing is downloaded.

    python -m bula preflight
"""

import json
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bula.commands.preflight_done import done_stages, skip_finished
from bula.commands.preflight_plan import plan_checks
from bula.commands.profile import find_profile
from bula.compared_files import check_compared_files
from bula.errors import UserError
from bula.escaping import terminal
from bula.model_licenses import model_license, refuse_unaccepted_terms
from bula.params import BaseEncoder, HubModel, Params, load_params
from bula.preflight.checks import Check, Outcome, run_checks
from bula.preflight.files import input_checks, task_checks
from bula.preflight.machine import device_checks, package_checks

PARAMS = Path("params.yaml")
LEDGER = Path(".bula/ledger.jsonl")
# Most reasons of unchecked things that the summary shows.
SHOWN_REASONS = 3


def all_checks(params: Params, file: Path, root: Path, *, remote: bool) -> list[Check]:
    """Return the checks of everything that a run needs."""
    done = done_stages(file, root)
    checks = [*input_checks(params), *task_checks(params, root / "tasks")]
    checks += device_checks(params, root / "accelerate")
    checks += package_checks(params)
    checks.append(Check("review.gates", "figures of the gates", partial(check_gates, params)))
    if file == PARAMS:
        # `make repro PROFILE=NAME` writes a dvc.yaml for the profile's variants.
        checks.append(Check("variants", "files in dvc.yaml", partial(compare_files, params, root)))
    if "models" not in done:
        checks += terms_checks(params)
    checks += network_checks(params, done, root / LEDGER)
    if remote:
        # Imported here, because DVC takes a second to load.
        from bula.commands.preflight_remotes import remote_checks

        checks += remote_checks(root)
    checks += plan_checks(params, done, root)
    return skip_finished(checks, params, done)


def compare_files(params: Params, root: Path) -> str:
    """Compare the files that dvc.yaml lists for the stage compare with the variants."""
    check_compared_files(root / "dvc.yaml", params.variants)
    return "the stage compare lists the files of each variant"


def check_gates(params: Params) -> str:
    """Find the figure of each gate, which the review needs after the run."""
    # Imported here, because the patterns of bula.safety take time to compile.
    from bula.review.gate_names import refuse_unknown_figures

    refuse_unknown_figures(params)
    return "a run can have each of them"


def terms_checks(params: Params) -> list[Check]:
    """Return one check per model whose license may ask for consent."""
    sources = {"ingest.base": params.ingest.base, "ingest.judge": params.ingest.judge}
    if not isinstance(params.bertscore.encoder, BaseEncoder):
        sources["bertscore.encoder"] = params.bertscore.encoder
    if isinstance(params.preprocess.encoder, HubModel):
        sources["preprocess.encoder"] = params.preprocess.encoder

    def accept(key: str) -> str:
        source = sources[key]
        try:
            refuse_unaccepted_terms([source])
        except UserError as error:
            # The preflight fetches nothing anyway, and prints one language.
            what = error.what.removeprefix("nothing was fetched, because ")
            other_language = model_license(source.license).duties_pt
            what = what.removesuffix(f"\n  {other_language}")
            raise UserError(error.where, what, error.fix) from error
        return "accepted, or without consent"

    return [Check(key, "terms of the model", partial(accept, key)) for key in sources]


def network_checks(params: Params, done: set[str], ledger: Path) -> list[Check]:
    """Return the checks of hosts. What is fetched already is not asked for."""
    checks = []
    fetched = {"models", "ingest"} <= done
    if not fetched or params.compute.scheduler != "none":
        # Imported here, because a run whose data are here needs no HTTP library.
        from bula.preflight.hosts import data_checks, model_checks, scheduler_checks

        checks += [] if "models" in done else model_checks(params)
        checks += [] if "ingest" in done else data_checks(params)
        checks += scheduler_checks(params)
    if needs_server(params):
        from bula.preflight.judges import key_checks, server_checks

        checks += key_checks(params)
        checks += server_checks(params, ledger)
    return checks


def needs_server(params: Params) -> bool:
    """Return whether a server at an address judges, answers or scores."""
    judges = any(judge.base_url != "local" for judge in params.judge.judges)
    answers = any(variant.base_url for variant in params.variants.values())
    return judges or answers or params.benchmark.backend.kind == "openai"


# --- output ------------------------------------------------------------------------------------


def format_fault(number: int, fault: Outcome) -> str:
    """Return the lines of one fault: where, what, and the fix."""
    fix = fault.fix[:1].upper() + fault.fix[1:]
    return f"  {number}. {fault.key}: {fault.text}\n     {fix}."


def format_summary(outcomes: list[Outcome], seconds: float) -> str:
    """Return the line that counts the outcomes."""
    faults = select(outcomes, "fault")
    passed = len(select(outcomes, "passed"))
    noun = "fault" if len(faults) == 1 else "faults"
    text = f"preflight: {len(faults)} {noun}, {passed} checks passed"
    skipped = select(outcomes, "not checked")
    if skipped:
        named = [f"{outcome.name} ({outcome.text})" for outcome in skipped[:SHOWN_REASONS]]
        more = len(skipped) - len(named)
        if more:
            named.append(f"{more} more (--verbose)")
        text += f", {len(skipped)} not checked: {', '.join(named)}"
    return f"{text}; {seconds:.1f} s"


def select(outcomes: list[Outcome], state: str) -> list[Outcome]:
    """Return the outcomes of one state."""
    return [outcome for outcome in outcomes if outcome.state == state]


def report(outcomes: list[Outcome], seconds: float, *, verbose: bool) -> str:
    """Return what the command prints for people."""
    lines = []
    if verbose:
        others = [outcome for outcome in outcomes if outcome.state != "fault"]
        lines += [f"  {item.state:11} {item.key}: {item.name}: {item.text}" for item in others]
    faults = select(outcomes, "fault")
    lines += [format_fault(number, fault) for number, fault in enumerate(faults, start=1)]
    return "\n".join([*lines, format_summary(outcomes, seconds)])


def as_json(outcomes: list[Outcome], seconds: float) -> str:
    """Return the outcomes as one JSON object."""
    found = {
        "faults": [outcome._asdict() for outcome in select(outcomes, "fault")],
        "passed": [outcome._asdict() for outcome in select(outcomes, "passed")],
        "not_checked": [outcome._asdict() for outcome in select(outcomes, "not checked")],
        "seconds": round(seconds, 3),
    }
    return json.dumps(found, ensure_ascii=False)


def preflight(
    offline: Annotated[bool, typer.Option("--offline", help="Ask no host.")] = False,
    remote: Annotated[bool, typer.Option("--remote", help="Write to the DVC remotes too.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print each check.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    params: Annotated[Path, typer.Option(help="Parameter file.")] = PARAMS,
    profile: Annotated[str, typer.Option(help="Profile, in place of a parameter file.")] = "",
) -> None:
    """Check keys, hosts, files, models, device, memory and disk before a run."""
    started = time.monotonic()
    file = find_profile(profile) if profile else params
    checks = all_checks(load_params(file), file, Path(), remote=remote)
    outcomes = run_checks(checks, offline=offline)
    seconds = time.monotonic() - started
    text = report(outcomes, seconds, verbose=verbose)
    print(as_json(outcomes, seconds) if json_output else terminal(text, lines=True))
    if select(outcomes, "fault"):
        raise typer.Exit(1)
