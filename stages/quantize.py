"""Export the merged model to GGUF and measure each file.

The stage writes one 16-bit file and one file per listed type, and reads each file back. It compares
the 16-bit file with the merged model, and the other files with the 16-bit file, over the full
vocabulary at every supervised token of a fixed sample. The arithmetic is always float32, so only
the weights differ. Then it deletes the 16-bit file unless quantize.types lists bf16.

    python -m stages.quantize
"""

from pathlib import Path
from typing import Annotated

import typer

from bula.divergence import divergence_metrics, sample_validation, score_examples
from bula.errors import run_stage
from bula.files import make_readable, staged, write_documents
from bula.gguf_export import (
    ModelMetadata,
    check_chat_metadata,
    describe,
    export,
    refuse_divergent,
    written_types,
)
from bula.hardware import prepare_device, seed_everything
from bula.model_cards import GGUF, describe_base, gguf_documents, model_name
from bula.models import load_model, load_tokenizer
from bula.params import Params, load_params
from bula.prompts import Encoded
from bula.reports import write_metrics

Figures = dict[str, int | float | str]


def describe_model(params: Params) -> ModelMetadata:
    """Return the metadata of each GGUF file."""
    base = describe_base(params.ingest.base)
    return ModelMetadata(
        name=model_name(base),
        languages=list(params.preprocess.languages),
        license=base.license.lower(),
        license_link=base.terms.url,
        base_name=base.name,
        base_organization=base.hub_id.partition("/")[0],
        base_url=f"https://huggingface.co/{base.hub_id}" if base.hub_id else "",
        tags=list(GGUF.tags),
    )


def measure(
    merged: Path, folder: Path, kinds: list[str], encoded: list[Encoded], pad_id: int
) -> dict[str, Figures]:
    """Return the size and the divergence of each file.

    The 16-bit file is compared with the merged model, the other files with the 16-bit file, so that
    the cost of 16 bits is counted only once. Raise a UserError for a file beyond its limit.
    """
    figures: dict[str, Figures] = {}
    # One set of logits stays in memory (tokens x vocabulary x 4 bytes), and two during bf16.
    reference = list(score_examples(load_model(merged, "float32"), encoded, pad_id))
    for kind in kinds:
        file = folder / f"{kind}.gguf"
        scored = score_examples(load_model(file, "float32"), encoded, pad_id)
        if kind == "bf16":
            sixteen_bit = list(scored)
            divergence = divergence_metrics(reference, sixteen_bit)
            reference = sixteen_bit
        else:
            divergence = divergence_metrics(reference, scored)
        refuse_divergent(kind, divergence["kl_nats"])
        figures[kind] = describe(file) | divergence
    return figures


def main(
    merged: Annotated[Path, typer.Option(help="Merged model.")] = Path("models/merged"),
    adapter: Annotated[Path, typer.Option(help="Its adapter.")] = Path("models/adapter"),
    clean: Annotated[Path, typer.Option(help="Folder of validation/.")] = Path("data/clean"),
    folder: Annotated[Path, typer.Option(help="Folder for GGUF files.")] = Path("models/gguf"),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/quantize.json"),
) -> None:
    """Write and measure the GGUF files."""
    from bula.gguf_adapter import write_gguf_adapter

    params = load_params()
    prepare_device(params.device, "float32")
    seed_everything(params.sampling_seed)
    kinds = written_types(params.quantize.types)
    tokenizer = load_tokenizer(merged)
    encoded = sample_validation(clean, tokenizer, params.quantize.check_items)
    with staged(folder) as temporary:
        temporary.mkdir()
        for kind in kinds:
            print(f"quantize: writing {kind}", flush=True)
            export(merged, kind, temporary / f"{kind}.gguf", describe_model(params))
            check_chat_metadata(temporary / f"{kind}.gguf", tokenizer)
        figures = measure(merged, temporary, kinds, encoded, tokenizer.pad_token_id)
        if "bf16" not in params.quantize.types:
            (temporary / "bf16.gguf").unlink()
        write_gguf_adapter(adapter, merged, temporary / "adapter.gguf")
        write_documents(temporary, gguf_documents(params, figures, merged))
        make_readable(temporary)
    write_metrics(metrics, figures)
    print(f"quantize: compared {', '.join(kinds)}; {len(params.quantize.types)} kept in {folder}")


if __name__ == "__main__":
    run_stage(main, less_memory="lower quantize.check_items")
