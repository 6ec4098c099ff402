"""Try the merge, and each GGUF file."""

from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

from bula.divergence import LOGIT_TOLERANCE, divergence_metrics
from bula.errors import UserError
from bula.gguf_adapter import write_gguf_adapter
from bula.gguf_export import (
    CONVERTER,
    check_chat_metadata,
    export,
    refuse_divergent,
    written_types,
)
from bula.models import load_adapted, load_model, load_tokenizer, save_model
from stages.dry_run.llama_cpp import check_answers, check_tokens, open_llama_cpp
from stages.dry_run.trial import OTHER_BASE, PAIRS, Trial, as_saved, score, step

FIX_ADAPTER = "set train.lora.target_modules to all-linear, or use another base model"

Figures = dict[str, int | float | str]


def try_merge_and_export(trial: Trial) -> Figures:
    """Merge the adapter, write all GGUF files, and return the figures."""
    with step(trial.base, "merge", OTHER_BASE):
        merge_cut(trial)
    with ThreadPoolExecutor(1) as pool:
        rounded = round_beside(trial, pool)
        figures = try_files(trial, rounded)
        with step(trial.base, "the GGUF file of the adapter", FIX_ADAPTER):
            try_adapter_file(trial)
    return figures


def round_beside(trial: Trial, pool: Executor) -> dict[str, Future[None]]:
    """Start the export of the types that auto-round writes.

    Its own process takes half a minute, in which this process tries the other types.
    """
    return {
        kind: pool.submit(export, trial.folder / "merged", kind, file_of(trial, kind))
        for kind in trial.params.quantize.types
        if kind not in CONVERTER
    }


def file_of(trial: Trial, kind: str) -> Path:
    """Return the path of the merged cut's GGUF file."""
    return trial.folder / f"{kind}.gguf"


def try_files(trial: Trial, rounded: dict[str, Future[None]]) -> Figures:
    """Write and read back the merged cut's GGUF files, and return the figures."""
    merged = load_model(trial.folder / "merged", "float32")
    reference = score(trial, merged)
    # The types that this process writes come first.
    kinds = sorted(written_types(trial.params.quantize.types), key=lambda kind: kind in rounded)
    kl_nats = 0.0
    for kind in kinds:
        with step(trial.base, f"the {kind} GGUF file", fix_of(kind)):
            file = file_of(trial, kind)
            if kind in rounded:
                rounded[kind].result()
            else:
                export(trial.folder / "merged", kind, file)
            check_chat_metadata(file, trial.tokenizer)
            scored = score(trial, load_model(file, "float32"))
            divergence = divergence_metrics(reference, scored)["kl_nats"]
            refuse_divergent(kind, divergence)
        if kind == "bf16":
            reference = scored
            kl_nats = divergence
            with step(trial.base, "the bf16 file's tokenizer", fix_of(kind)):
                check_file_tokenizer(trial, file)
            with (
                step(trial.base, "the bf16 file in llama.cpp", OTHER_BASE),
                open_llama_cpp(trial, file) as ask,
            ):
                check_tokens(trial, ask)
                tokens = check_answers(trial, merged, ask)
    return {"gguf_files": len(kinds), "bf16_kl_nats": kl_nats, "tokens_compared": tokens}


def try_adapter_file(trial: Trial) -> None:
    """Write the adapter as a GGUF file, and let llama.cpp answer with it."""
    folder = trial.folder
    write_gguf_adapter(folder / "adapter", folder / "merged", folder / "adapter.gguf")
    export(folder / "cut", "f32", folder / "base.gguf")
    adapted = load_adapted(folder / "cut", folder / "adapter", "float32")
    with open_llama_cpp(trial, folder / "base.gguf", [folder / "adapter.gguf"]) as ask:
        check_answers(trial, adapted, ask)


def fix_of(kind: str) -> str:
    """Return the fix for a GGUF file that cannot be written or read."""
    if kind == "bf16":
        return "use a base model whose architecture and tokenizer llama.cpp's converter knows"
    return f"remove {kind} from quantize.types in params.yaml, or use another base model"


def merge_cut(trial: Trial) -> None:
    """Write the merged cut; raise UserError if its logits change."""
    model = load_adapted(trial.folder / "cut", trial.folder / "adapter", "float32")
    reference = score(trial, model)
    merged = model.merge_and_unload(safe_merge=True)
    figures = divergence_metrics(reference, score(trial, merged))
    difference = figures["logit_difference_relative"]
    if not difference <= LOGIT_TOLERANCE:
        what = f"a logit changes by {difference:.1e} of the largest (tolerance {LOGIT_TOLERANCE:g})"
        raise UserError("merge", what, OTHER_BASE)
    save_model(as_saved(trial, merged), trial.tokenizer, trial.folder / "merged")


def check_file_tokenizer(trial: Trial, file: Path) -> None:
    """Raise UserError if transformers splits text differently by a GGUF file."""
    tokenizer = load_tokenizer(file)
    for pair in PAIRS:
        text = " ".join(pair)
        wanted = trial.tokenizer.encode(text, add_special_tokens=False)
        if tokenizer.encode(text, add_special_tokens=False) != wanted:
            what = f"transformers reads other tokens from it for {text[:40]!r}"
            raise UserError("the tokenizer", what, fix_of("bf16"))
