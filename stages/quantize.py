"""Export the merged model to GGUF, at 16 bit and in each listed type, and measure what each costs in fidelity.

Every file is read back. The 16-bit one is compared with the merged model, each other with the 16-bit one, over the full
vocabulary at every supervised token of a fixed sample, in float32: the weights are the file's, the arithmetic is the same.

    python -m stages.quantize
"""

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from gguf import LlamaFileType
from transformers import PreTrainedTokenizerBase

from bula.divergence import divergence_metrics, sample_validation, score_examples
from bula.errors import UserError, run_stage
from bula.files import staged
from bula.gguf_files import read_gguf
from bula.hardware import seed_everything
from bula.models import load_model, load_tokenizer
from bula.params import load_params
from bula.processes import end_with_parent
from bula.prompts import Encoded
from bula.reports import write_metrics

# The types that llama.cpp's own converter writes; auto-round writes the rest. f32 is for bench/engines.py.
CONVERTER = {
    "f32": LlamaFileType.ALL_F32,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
}


def convert(merged: Path, kind: str, file: Path) -> None:
    """Write one GGUF file with llama.cpp's converter."""
    # Imported here: the module takes seconds to load and logs to the console.
    from auto_round.export.export_to_gguf.conversion.llama import LlamaModel

    LlamaModel(merged, CONVERTER[kind], file, model_name=merged.name).write()


def round_to(merged: Path, kind: str, file: Path) -> None:
    """Write one GGUF file with auto-round, by rounding to nearest; UserError with its last lines if it fails."""
    folder = file.with_suffix("")
    options = [
        "--format",
        f"gguf:{kind}",
        "--iters",
        "0",
        "--disable_opt_rtn",
        "--output_dir",
        str(folder),
    ]
    command = [sys.executable, "-m", "auto_round", "--model", str(merged), *options]
    result = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        preexec_fn=end_with_parent,
    )
    written = sorted(folder.rglob("*.gguf"))
    if result.returncode != 0 or len(written) != 1:
        last = "\n".join(result.stdout.splitlines()[-15:])
        what = f"auto-round could not write {kind}; its last lines:\n{last}"
        raise UserError(merged, what, f"take {kind} out of quantize.types, or another base")
    written[0].replace(file)
    shutil.rmtree(folder)


def export(merged: Path, kind: str, file: Path) -> None:
    """Write one GGUF file by the exporter that knows its type."""
    print(f"quantize: writing {kind}", flush=True)
    (convert if kind in CONVERTER else round_to)(merged, kind, file)


def carries(file: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a GGUF file names the tokenizer's chat template and end-of-turn token; UserError if it does not.

    Whoever gets the file alone has no other source for them: without the first questions are asked in another form than in
    training, without the second answers never end.
    """
    fields = read_gguf(file).fields
    for name, value in (
        ("tokenizer.chat_template", tokenizer.chat_template),
        ("tokenizer.ggml.eos_token_id", tokenizer.eos_token_id),
    ):
        if name not in fields or fields[name].contents() != value:
            what = f"it has no {name}, or not that of the merged model; nothing was written"
            raise UserError(file.name, what, "take another type in quantize.types, or another base")


def describe(file: Path) -> dict[str, int | str]:
    """Size in bytes, and the number of tensors of each type, from the file's own header."""
    types = Counter(tensor.tensor_type.name for tensor in read_gguf(file).tensors)
    size: dict[str, int | str] = {"bytes": file.stat().st_size}
    return size | {f"tensors_{name.lower()}": count for name, count in sorted(types.items())}


def measure(
    merged: Path, folder: Path, kinds: list[str], encoded: list[Encoded], pad_id: int
) -> dict[str, dict[str, int | float | str]]:
    """Figures of each file, the 16-bit one against the merged model and each other against the 16-bit one."""
    figures = {}
    # One set of logits is held, tokens x vocabulary x 4 bytes, and two while the 16-bit file is compared.
    reference = list(score_examples(load_model(merged, "float32"), encoded, pad_id))
    for kind in kinds:
        found = score_examples(load_model(folder / f"{kind}.gguf", "float32"), encoded, pad_id)
        if kind == "bf16":
            kept = list(found)
            figures[kind] = describe(folder / f"{kind}.gguf") | divergence_metrics(reference, kept)
            # What 16 bits cost is told once; no later file pays for it.
            reference = kept
        else:
            figures[kind] = describe(folder / f"{kind}.gguf") | divergence_metrics(reference, found)
    return figures


def main(
    merged: Annotated[Path, typer.Option(help="Merged model.")] = Path("models/merged"),
    clean: Annotated[Path, typer.Option(help="Folder of validation/.")] = Path("data/clean"),
    folder: Annotated[Path, typer.Option(help="Folder for GGUF files.")] = Path("models/gguf"),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/quantize.json"),
) -> None:
    """Write and measure the GGUF files."""
    params = load_params()
    seed_everything(params.sampling_seed)
    kinds = ["bf16", *params.quantize.types]
    tokenizer = load_tokenizer(merged)
    encoded = sample_validation(clean, tokenizer, params.quantize.check_items)
    with staged(folder) as temporary:
        temporary.mkdir()
        for kind in kinds:
            export(merged, kind, temporary / f"{kind}.gguf")
            carries(temporary / f"{kind}.gguf", tokenizer)
        figures = measure(merged, temporary, kinds, encoded, tokenizer.pad_token_id)
    write_metrics(metrics, figures)
    print(f"quantize: {', '.join(kinds)} in {folder}")


if __name__ == "__main__":
    run_stage(main)
