"""Export the merged model to GGUF, at 16 bit and in each listed type, and measure what each costs in fidelity.

Every file is read back and compared with the 16-bit one over the full vocabulary, at every supervised token of a
fixed sample, in float32: the weights are the file's, the arithmetic is the same.

    python -m stages.quantize
"""

import math
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from gguf import GGUFReader, LlamaFileType

from bula.models import load_model, load_tokenizer, prepare, supervised_logits
from bula.params import load_params
from bula.prompts import Encoded, encode
from bula.records import read_examples, staged
from bula.reports import write_metrics
from bula.stats import ratio_standard_error

# Log-probabilities and targets of one example.
Scored = tuple[torch.Tensor, torch.Tensor]
# The types that llama.cpp's own converter writes; auto-round writes the rest.
CONVERTER = {"bf16": LlamaFileType.MOSTLY_BF16, "q8_0": LlamaFileType.MOSTLY_Q8_0}


def convert(merged: Path, kind: str, file: Path) -> None:
    """Write one GGUF file with llama.cpp's converter."""
    # Imported here: the module takes seconds to load and logs to the console.
    from auto_round.export.export_to_gguf.conversion.llama import LlamaModel

    LlamaModel(merged, CONVERTER[kind], file, model_name=merged.name).write()


def round_to(merged: Path, kind: str, file: Path) -> None:
    """Write one GGUF file with auto-round, by rounding to nearest; SystemExit with its last lines if it fails."""
    folder = file.with_suffix("")
    options = ["--format", f"gguf:{kind}", "--iters", "0", "--disable_opt_rtn", "--output_dir", str(folder)]
    command = [sys.executable, "-m", "auto_round", "--model", str(merged), *options]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    written = sorted(folder.rglob("*.gguf"))
    if result.returncode != 0 or len(written) != 1:
        raise SystemExit(f"auto-round could not write {kind}:\n" + "\n".join(result.stdout.splitlines()[-15:]))
    written[0].replace(file)
    shutil.rmtree(folder)


def export(merged: Path, kind: str, file: Path) -> None:
    """Write one GGUF file by the exporter that knows its type."""
    print(f"quantize: writing {kind}", flush=True)
    (convert if kind in CONVERTER else round_to)(merged, kind, file)


def describe(file: Path) -> dict[str, int | str]:
    """Size in bytes, and the number of tensors of each type, from the file's own header."""
    types = Counter(tensor.tensor_type.name for tensor in GGUFReader(file).tensors)
    size: dict[str, int | str] = {"bytes": file.stat().st_size}
    return size | {f"tensors_{name.lower()}": count for name, count in sorted(types.items())}


def log_probabilities(file: Path, encoded: list[Encoded], pad_id: int) -> Iterator[Scored]:
    """Float32 log-probabilities (tokens, vocabulary) and targets (tokens,), one example after the other."""
    model = load_model(file, "float32")
    for item in encoded:
        parts = list(supervised_logits(model, [item], pad_id))
        yield torch.cat([logits for logits, _ in parts]).log_softmax(-1), torch.cat([targets for _, targets in parts])


def fidelity(reference: list[Scored], other: Iterable[Scored]) -> dict[str, float | int]:
    """Mean KL(16 bit || other) in nats a token, perplexity of other, and how often both prefer the same token."""
    divergences, sizes = [], []
    nats = 0.0
    agree = 0
    for (p, targets), (q, _) in zip(reference, other, strict=True):
        # KL of a distribution with itself is 0, and rounding must not make it negative.
        divergences.append(max(0.0, float((p.exp() * (p - q)).sum(dtype=torch.float64))))
        sizes.append(len(targets))
        nats -= float(q.gather(1, targets[:, None]).sum(dtype=torch.float64))
        agree += int((p.argmax(-1) == q.argmax(-1)).sum())
    tokens = sum(sizes)
    return {
        "tokens": tokens,
        "kl_nats": sum(divergences) / tokens,
        "kl_nats_stderr": ratio_standard_error(divergences, sizes),
        "perplexity": math.exp(nats / tokens),
        "bits_per_token": nats / tokens / math.log(2),
        "top_token_agreement": agree / tokens,
    }


def main(
    merged: Annotated[Path, typer.Option(help="Merged model.")] = Path("models/merged"),
    clean: Annotated[Path, typer.Option(help="Folder of dev.jsonl.")] = Path("data/clean"),
    folder: Annotated[Path, typer.Option(help="Folder for GGUF files.")] = Path("models/gguf"),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/quantize.json"),
) -> None:
    """Write and measure the GGUF files."""
    params = load_params()
    prepare(params.seed)
    kinds = ["bf16", *params.quantize.types]
    try:
        tokenizer = load_tokenizer(merged)
        encoded = [encode(tokenizer, e) for e in read_examples(clean / "dev.jsonl")[: params.quantize.check_items]]
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    figures = {}
    with staged(folder) as temporary:
        temporary.mkdir()
        for kind in kinds:
            export(merged, kind, temporary / f"{kind}.gguf")
        # The one set of probabilities that is held: tokens x vocabulary x 4 bytes.
        reference = list(log_probabilities(temporary / "bf16.gguf", encoded, tokenizer.pad_token_id))
        for kind in kinds:
            other = reference if kind == "bf16" else log_probabilities(temporary / f"{kind}.gguf", encoded, tokenizer.pad_token_id)
            figures[kind] = {"items": len(encoded)} | describe(temporary / f"{kind}.gguf") | fidelity(reference, other)
    write_metrics(metrics, figures)
    print(f"quantize: {', '.join(kinds)} in {folder}")


if __name__ == "__main__":
    typer.run(main)
