"""Write the header of the report: which run it describes."""

from pathlib import Path, PurePath

from bula.errors import UserError
from bula.escaping import markdown
from bula.experiments import run_git
from bula.params import Params, is_trained
from bula.tables.figures import group, read_figures

COMMIT_DIGITS = 12


def header(figures: Path, params: Params) -> str:
    """Return a list of the commit, base model, training, machine and each variant's file."""
    base = params.ingest.base
    lines = [
        *_commit(),
        f"base model: {markdown(base_name(params))} (license {markdown(base.license)})",
        *_training(figures, params),
        *_variants(params),
    ]
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _training(figures: Path, params: Params) -> list[str]:
    """Return the lines about training and its machine."""
    if not is_trained(params):
        return ["training: none in this run", f"machine: device {params.device}"]
    path = figures / "train.json"
    run = group(read_figures(path, "train"), "run", ["steps", "epochs"], path, "train")
    path = figures / "template.json"
    rows = group(read_figures(path, "train"), "", ["rows"], path, "train")["rows"]
    precision = markdown(str(run.get("compute_dtype", "an unknown precision")))
    epochs = f"{run['epochs']:.2f} epochs"
    return [
        f"training: {rows} rows, {run['steps']} steps ({epochs}), seed {params.seed}",
        f"machine: device {params.device}, training computed in {precision}",
    ]


def base_name(params: Params) -> str:
    """Return the base model's hub id, or else its package or folder."""
    base = params.ingest.base.model_dump()
    folder = PurePath(base.get("path", "")).name
    names = (base.get("hub_id"), base.get("id"), base.get("package"), folder)
    return next((str(name) for name in names if name), "a model without a name")


def _commit() -> list[str]:
    """Return the line about the commit, or nothing without git or a commit."""
    try:
        commit = run_git("rev-parse", "HEAD").strip()
    except (UserError, FileNotFoundError):
        return []
    return [f"commit: `{commit[:COMMIT_DIGITS]}`, the last one before this run"]


def _variants(params: Params) -> list[str]:
    """Return a line per variant with its model and its engine."""
    lines = []
    for name, variant in params.variants.items():
        model = markdown(variant.model)
        lines.append(f"variant {name}: {model}, answers by {variant.engine}")
    return lines
