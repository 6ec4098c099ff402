"""Export the merged model to GGUF and measure each file.

The stage writes one 16-bit file and one file per listed type, and reads each file back. It compares
the 16-bit file with the merged model, and the other files with the 16-bit file, over the full
vocabulary at every supervised token of a fixed sample. The arithmetic is always float32, so only
the weights differ.

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
from bula.hardware import prepare_device, seed_everything
from bula.models import load_model, load_tokenizer
from bula.params import load_params
from bula.processes import end_with_parent
from bula.prompts import Encoded
from bula.reports import write_metrics

# llama.cpp's converter writes these types, auto-round writes the others; bench/engines.py uses f32.
CONVERTER = {
    "f32": LlamaFileType.ALL_F32,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
}
# auto-round prints a long log, and an error at its end.
SHOWN_LINES = 15
Figures = dict[str, int | float | str]


def convert(merged: Path, kind: str, file: Path) -> None:
    """Write one GGUF file with llama.cpp's converter."""
    # Imported here because the module takes seconds to load and logs to the console.
    from auto_round.export.export_to_gguf.conversion.llama import LlamaModel

    LlamaModel(merged, CONVERTER[kind], file, model_name=merged.name).write()


def round_to(merged: Path, kind: str, file: Path) -> None:
    """Write one GGUF file with auto-round, by rounding to nearest.

    UserError with the last lines of auto-round's output if it fails.
    """
    folder = file.with_suffix("")
    command = [sys.executable, "-m", "auto_round", "--model", str(merged)]
    command += ["--format", f"gguf:{kind}", "--output_dir", str(folder)]
    # These two options select plain rounding to nearest.
    command += ["--iters", "0", "--disable_opt_rtn"]
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
        last = "\n".join(result.stdout.splitlines()[-SHOWN_LINES:])
        what = f"auto-round could not write {kind}; its last lines:\n{last}"
        raise UserError(merged, what, f"remove {kind} from quantize.types, or use another base")
    written[0].replace(file)
    shutil.rmtree(folder)


def export(merged: Path, kind: str, file: Path) -> None:
    """Write one GGUF file with the exporter for its type."""
    print(f"quantize: writing {kind}", flush=True)
    if kind in CONVERTER:
        convert(merged, kind, file)
    else:
        round_to(merged, kind, file)


def carries(file: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a GGUF file contains the chat template and end-of-turn token.

    A user of the file has no other source for them: without the template, questions take another
    form than in training; without the token, answers never stop. Raise UserError if one is missing
    or differs from the tokenizer's.
    """
    fields = read_gguf(file).fields
    expected = {
        "tokenizer.chat_template": tokenizer.chat_template,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
    }
    for name, value in expected.items():
        if name not in fields or fields[name].contents() != value:
            what = f"its {name} is missing or differs from the merged model's; nothing was written"
            raise UserError(file.name, what, "use another type in quantize.types, or another base")


def describe(file: Path) -> dict[str, int | str]:
    """Return the size in bytes and the number of tensors per type."""
    types = Counter(tensor.tensor_type.name for tensor in read_gguf(file).tensors)
    figures: dict[str, int | str] = {"bytes": file.stat().st_size}
    for name, count in sorted(types.items()):
        figures[f"tensors_{name.lower()}"] = count
    return figures


def measure(
    merged: Path, folder: Path, kinds: list[str], encoded: list[Encoded], pad_id: int
) -> dict[str, Figures]:
    """Return the size and the divergence of each file.

    The 16-bit file is compared with the merged model, the other files with the 16-bit file, so that
    the cost of 16 bits is counted only once.
    """
    figures: dict[str, Figures] = {}
    # One set of logits stays in memory (tokens x vocabulary x 4 bytes), and two during bf16.
    reference = list(score_examples(load_model(merged, "float32"), encoded, pad_id))
    for kind in kinds:
        file = folder / f"{kind}.gguf"
        scored = score_examples(load_model(file, "float32"), encoded, pad_id)
        if kind == "bf16":
            sixteen_bit = list(scored)
            figures[kind] = describe(file) | divergence_metrics(reference, sixteen_bit)
            reference = sixteen_bit
        else:
            figures[kind] = describe(file) | divergence_metrics(reference, scored)
    return figures


def main(
    merged: Annotated[Path, typer.Option(help="Merged model.")] = Path("models/merged"),
    clean: Annotated[Path, typer.Option(help="Folder of validation/.")] = Path("data/clean"),
    folder: Annotated[Path, typer.Option(help="Folder for GGUF files.")] = Path("models/gguf"),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/quantize.json"),
) -> None:
    """Write and measure the GGUF files."""
    params = load_params()
    prepare_device(params.device, "float32")
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
    run_stage(main, less_memory="lower quantize.check_items")
