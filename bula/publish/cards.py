"""Write the card of a published model, with its metadata."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bula.escaping import markdown
from bula.model_cards import (
    ADAPTER,
    GGUF,
    MERGED,
    Base,
    Kind,
    describe_base,
    model_name,
)
from bula.params import HubModel, HubSource, Params
from bula.publish import quick_start
from bula.publish.citation import bibtex
from bula.publish.model_index import eval_results
from bula.publish.parts import ADAPTER_GGUF, Part, name_on_hub, published_files, repository
from bula.publish.refusals import private_sources
from bula.publish.results import Result, Results, variant_results
from bula.publish.sources import attribution, hide_private, language_names
from bula.tables.controls import (
    ENGLISH_CONTROLS,
    compared_variants,
    control_sentence,
    unbeaten_controls,
)
from bula.tables.figures import group, missed_emergencies, read_figures, read_metrics

TEMPLATES = Path(__file__).resolve().parents[2] / "templates/cards"
KINDS: dict[str, Kind] = {"adapter": ADAPTER, "merged": MERGED, "gguf": GGUF}
TITLES = {"adapter": "LoRA adapter", "merged": "merged model", "gguf": "GGUF files"}
SUMMARIES = {
    "adapter": "A LoRA adapter for {base}, fine-tuned to answer health questions in {languages}.",
    "merged": "{base} with its LoRA adapter merged into it, fine-tuned to answer health questions "
    "in {languages}.",
    "gguf": "GGUF files for llama.cpp of {base}, fine-tuned to answer health questions in "
    "{languages}, and its LoRA adapter for the option `--lora`.",
}
# Licenses that the hub knows by their identifier. Any other license is "other" with its own name.
HUB_LICENSES = {
    *("apache-2.0", "mit", "gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3"),
    *("llama4", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0"),
    *("openrail", "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "gpl-3.0", "unlicense"),
}


class Origin(NamedTuple):
    """Where the published files come from."""

    commit: str
    """Git commit, 40 hex digits."""
    changed: bool
    """Whether tracked files differ from that commit."""


class Measured(NamedTuple):
    """The figures of one file, or of the complete repository."""

    file: str
    """Name of a GGUF file, else an empty text."""
    results: Results


def environment() -> Environment:
    """Return Jinja's environment of the cards, whose filter `md` escapes Markdown.

    HTML escapes would change the text of code blocks, so each template escapes by `md`.
    """
    loader = FileSystemLoader(TEMPLATES)
    made = Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters["md"] = markdown
    return made


def render(template: str, values: Mapping[str, Any]) -> str:
    """Return a rendered template without runs of blank lines."""
    text = environment().get_template(template).render(values)
    lines: list[str] = []
    for line in text.splitlines():
        if line.strip() or (lines and lines[-1]):
            lines.append(line.rstrip())
    return "\n".join(lines).strip() + "\n"


def model_card(
    part: Part, params: Params, metrics: Path, origin: Origin, repo_id: str, legal: Iterable[str]
) -> ModelCard:
    """Return the card of a model folder.

    `metrics` is the folder of the run's figures, and `legal` names the files with license and
    notices.
    """
    measured = measured_files(part, params, metrics)
    data = card_data(part, params, measured, origin)
    values = {
        **_identity(part, params),
        **_figures(part, params, metrics, measured),
        **_training(params, metrics),
        **_license(describe_base(params.ingest.base), legal),
        "code": code_blocks(part, params, repository(part, repo_id)),
        "commit": origin.commit,
        "changed": origin.changed,
        "bibtex": bibtex().strip(),
    }
    body = render("model.md.jinja", values)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")


def measured_files(part: Part, params: Params, metrics: Path) -> list[Measured]:
    """Return the figures of each variant that answers with the weights of a part.

    A variant with few-shot examples says nothing about the weights alone.
    """
    variants: dict[str, str] = {}
    for name, variant in params.variants.items():
        if not variant.few_shot:
            variants.setdefault(os.path.normpath(variant.model), name)
    if part.name != "gguf":
        names = [variants[model] for model in ("models/merged",) if model in variants]
        return [Measured("", variant_results(metrics, name, params)) for name in names]
    base = describe_base(params.ingest.base)
    found = []
    for file in published_files(part):
        path = str(part.source / file)
        if path in variants:
            results = variant_results(metrics, variants[path], params)
            found.append(Measured(name_on_hub(part, file, base), results))
    return found


def card_data(
    part: Part, params: Params, measured: list[Measured], origin: Origin
) -> ModelCardData:
    """Return the metadata of a model card."""
    base = describe_base(params.ingest.base)
    kind = KINDS[part.name]
    languages = [name.lower() for name in language_names(params)]
    results = []
    for item in measured:
        results += eval_results(item.results, item.file, origin.commit)
    return ModelCardData(
        language=list(params.preprocess.languages),
        **_license_fields(base),
        library_name=kind.library,
        pipeline_tag="text-generation",
        # The hub's own widget would show answers without the warning.
        inference=False,
        tags=["bula", "medical", "health", "brazil", *languages, *kind.tags],
        base_model=[base.hub_id] if base.hub_id else None,
        base_model_relation=kind.relation if base.hub_id else None,
        datasets=_hub_data_sets(params) or None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=model_name(base),
        eval_results=results or None,
    )


def _license_fields(base: Base) -> dict[str, Any]:
    """Return the license as the hub names it."""
    name = base.license.lower()
    link = base.terms.url or None
    if name in HUB_LICENSES:
        return {"license": name, "license_link": link}
    return {"license": "other", "license_name": name, "license_link": link or "LICENSE"}


def _hub_data_sets(params: Params) -> list[str]:
    """Return the training data that everybody finds on the hub."""
    private = private_sources(params)
    sources = params.ingest.sources
    return [
        source.id
        for source in sources
        if isinstance(source, HubSource) and source.name not in private
    ]


def _identity(part: Part, params: Params) -> dict[str, Any]:
    """Return the values of the head of a card."""
    base = describe_base(params.ingest.base)
    languages = " and ".join(language_names(params))
    summary = SUMMARIES[part.name]
    return {
        "title": f"{model_name(base)}: {TITLES[part.name]}",
        "built_with": base.terms.built_with,
        "summary": summary.format(base=markdown(base.name), languages=markdown(languages)),
    }


def _figures(part: Part, params: Params, metrics: Path, measured: list[Measured]) -> dict[str, Any]:
    """Return the values of the sections about figures."""
    tables = []
    for item in measured:
        rows = [_row(result) for result in item.results.shown]
        tables.append({"file": item.file, "rows": rows, "left_out": item.results.left_out})
    return {
        "missed": [found for item in measured if (found := _missed(item, metrics))],
        "unusable": [_unusable(item) for item in measured if item.results.too_many],
        "tables": tables,
        "controls": " ".join(unbeaten(params, metrics, measured)),
        "merged_first": part.name == "adapter",
        "fidelity": fidelity(part, params, metrics),
        "personal_data": personal_data(metrics, measured),
    }


def _row(result: Result) -> dict[str, Any]:
    """Return the cells of one figure."""
    interval = f"{result.low:.3g} to {result.high:.3g} ({result.confidence * 100:g} %)"
    return {
        "name": result.name,
        "items_from": result.items_from,
        "count": result.items,
        "value": f"{result.value:.4g}",
        "interval": interval,
        "better": result.better,
    }


def _missed(item: Measured, metrics: Path) -> dict[str, Any] | None:
    """Return the number of emergencies that the answers missed, or None."""
    missed, count = missed_emergencies(metrics, item.results.variant)
    return {"file": item.file, "missed": missed, "count": count} if missed else None


def _unusable(item: Measured) -> dict[str, Any]:
    """Return the values of the warning about degenerate answers."""
    share = f"{item.results.degenerate.value * 100:.1f} %"
    return {
        "file": item.file,
        "share": share,
        "share_pt": share.replace(".", ","),
        "count": item.results.degenerate.items,
    }


def unbeaten(params: Params, metrics: Path, measured: list[Measured]) -> Iterator[str]:
    """Yield a sentence for each control that the measured variants do not beat."""
    differences = read_figures(metrics / "compare.json", "compare")
    compared = compared_variants(params)
    for item in measured:
        name = item.results.variant
        if name in compared:
            label = item.file or "This model"
            for found in unbeaten_controls(metrics, name, params, differences):
                yield control_sentence(found, markdown(label), ENGLISH_CONTROLS)


def personal_data(metrics: Path, measured: list[Measured]) -> str:
    """Return how many test answers had the form of personal data."""
    sentences = []
    for item in measured:
        figures = read_metrics(metrics, "generate", item.results.variant)
        count = int(figures.get("personal_data_answers", 0))
        file = f" of {markdown(item.file)}" if item.file else ""
        sentences.append(
            f"{count} of {figures['items']} test answers{file} contained text in the form of "
            "personal data, such as a telephone number."
        )
    return " ".join(sentences)


def fidelity(part: Part, params: Params, metrics: Path) -> str:
    """Return how far the weights of a part are from base and adapter."""
    numbers = ("kl_nats", "greedy_agreement", "items")
    if part.name != "gguf":
        path = metrics / "merge.json"
        cast = group(read_figures(path, "merge"), "after_cast", numbers, path, "merge")
        return (
            f"The merged weights in {markdown(params.dtype)} differ from base and adapter by "
            f"{cast['kl_nats']:.3g} nats per token (KL divergence), and "
            f"{cast['greedy_agreement'] * 100:.1f} % of the most probable tokens agree, on "
            f"{cast['items']} examples."
        )
    path = metrics / "quantize.json"
    figures = read_figures(path, "quantize")
    base = describe_base(params.ingest.base)
    lines = []
    for file in published_files(part):
        if file.name != ADAPTER_GGUF:
            found = group(figures, file.stem, numbers, path, "quantize")
            lines.append(
                f"- {markdown(name_on_hub(part, file, base))}: {found['kl_nats']:.3g} nats per "
                f"token (KL divergence) from 16 bits, and {found['greedy_agreement'] * 100:.1f} % "
                f"of the most probable tokens agree, on {found['items']} examples."
            )
    return "\n".join(["What quantization changed:", "", *lines])


def _training(params: Params, metrics: Path) -> dict[str, Any]:
    """Return the values of the section about training."""
    path = metrics / "train.json"
    run = group(read_figures(path, "train"), "run", ["steps"], path, "train")
    base = describe_base(params.ingest.base)
    return {
        "base_name": base.name,
        "base_origin": base.origin,
        "rank": params.train.lora.r,
        "steps": run["steps"],
        "learning_rate": f"{params.train.learning_rate:g}",
        "seed": params.seed,
        "sources": [attribution(source) for source in hide_private(params).ingest.sources],
    }


def _license(base: Base, legal: Iterable[str]) -> dict[str, Any]:
    """Return the values of the section about the license."""
    return {
        "license_name": base.terms.name,
        "license_url": base.terms.url,
        "legal_files": sorted(legal),
        "notice": base.terms.notice,
        "duties": base.terms.duties,
        "duties_pt": base.terms.duties_pt,
    }


def code_blocks(part: Part, params: Params, repo_id: str) -> list[dict[str, str]]:
    """Return the blocks of code that load a repository, each with its introduction."""
    merged = Path("models/merged")
    base = describe_base(params.ingest.base)
    if part.name == "merged":
        code = quick_start.merged_code(repo_id, merged, params.generate)
        return [_block("python", code)]
    if part.name == "adapter":
        code = quick_start.adapter_code(repo_id, base, merged, params.generate)
        return [_block("python", code, _other_weights(params, base))]
    files = [name for name in published_files(part) if name.name != ADAPTER_GGUF]
    commands = [f"llama-server --model {name_on_hub(part, name, base)}" for name in files]
    blocks = [_block("bash", command) for command in commands[:1]]
    lora = f"llama-server --model BASE.gguf --lora {ADAPTER_GGUF}"
    introduction = "Or the adapter on a GGUF file of the base model:"
    return [*blocks, _block("bash", lora, introduction)]


def _block(language: str, text: str, before: str = "") -> dict[str, str]:
    """Return the values of one block of code."""
    return {"language": language, "text": text.strip(), "before": before}


def _other_weights(params: Params, base: Base) -> str:
    """Return a note if the adapter's base did not come from the hub."""
    if isinstance(params.ingest.base, HubModel):
        return ""
    return (
        f"The adapter was trained on {markdown(base.origin)}. On other weights of the same model, "
        "such as those of the hub, its answers can differ."
    )
