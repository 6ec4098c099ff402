"""Fetch base model, judge and encoder, check them, and write them.

Each of them is pinned by a checksum or a revision.

    python -m stages.models
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from bula.errors import run_stage
from bula.escaping import terminal
from bula.files import staged
from bula.hardware import prepare_device, silence_transformers
from bula.model_licenses import refuse_unaccepted_terms
from bula.params import BaseEncoder, DirectoryModel, HubModel, JudgeSource, Params, load_params
from bula.reports import write_metrics
from stages.models.downloads import HUB_SECONDS
from stages.models.judge import fetch_judge


def list_sources(params: Params) -> dict[str, JudgeSource]:
    """Return the sources of all models by their names in the metrics."""
    sources = {"model_base": params.ingest.base, "model_judge": params.ingest.judge}
    encoder = params.bertscore.encoder
    return sources if isinstance(encoder, BaseEncoder) else {**sources, "model_encoder": encoder}


def report_untracked(sources: Iterable[JudgeSource]) -> None:
    """Print which models lie where DVC sees no edit.

    A model outside the repository is large and seldom changes, so it is not refused.
    """
    for source in sources:
        if isinstance(source, DirectoryModel):
            advice = "if the model changes, run `dvc repro --force models`"
            note = f"DVC does not track {source.path}; {advice}"
            print(f"models: {terminal(note)}", file=sys.stderr)


def refuse_closed(sources: Iterable[JudgeSource]) -> None:
    """Raise UserError if the hub refuses a model, before any model is fetched."""
    # Imported here, because the hub's client takes a second to load.
    from bula.hub_access import check_repository

    for source in sources:
        if isinstance(source, HubModel):
            check_repository("model", source.id, source.revision, HUB_SECONDS)


def main(
    base: Annotated[Path, typer.Option(help="Folder for the base model.")] = Path("models/base"),
    judge: Annotated[Path, typer.Option(help="Folder for the judge.")] = Path("models/judge"),
    encoder: Annotated[Path, typer.Option(help="Folder for the encoder.")] = Path("models/encoder"),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/models.json"),
) -> None:
    """Fetch the base model, the judge and the encoder."""
    from stages.models.base import fetch_base
    from stages.models.encoder import fetch_encoder

    params = load_params()
    # The stage only rewrites weights, so that its outputs do not depend on `device`.
    prepare_device("cpu", params.dtype)
    silence_transformers()
    settings = params.ingest
    sources = list_sources(params)
    refuse_unaccepted_terms(sources.values())
    report_untracked(sources.values())
    refuse_closed(sources.values())
    # No output appears under its final name before all models are written.
    with staged(base) as new_base, staged(judge) as new_judge, staged(encoder) as new_encoder:
        template = settings.chat_template
        fetch_base(settings.base, params.dtype, new_base, settings.limits, template)
        fetch_judge(settings.judge, new_judge, settings.limits)
        fetch_encoder(params.bertscore.encoder, new_encoder, settings.limits)
    figures = {}
    for name, source in sources.items():
        figures[name] = {"license": source.license, "kind": source.kind}
    write_metrics(metrics, figures)
    print(f"models: base model in {base}, judge in {judge}, encoder in {encoder}")


if __name__ == "__main__":
    run_stage(main)
