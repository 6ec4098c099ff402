"""Read model directories with another version of transformers.

The test starts this program with that version on PYTHONPATH, so that the two versions never meet
in one process. For each folder it writes the logits of the tokens of a text, and the text of a
chat.

    python -P tests/older_reader.py TEXT OUTPUT_FOLDER MODEL_FOLDER ...
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def read(model_folder: Path, text: str, output: Path) -> None:
    """Write what this version of transformers computes with one model."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    # Gemma 2 needs this attention: SDPA of version 4.57 leaves out the cap of its scores.
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(model_folder, **options)
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.inference_mode():
        logits = model.eval()(input_ids=ids).logits[0]
    save_file({"ids": ids[0], "logits": logits.contiguous()}, output / f"{model_folder.name}.st")
    chat = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False)
    found = {
        "version": transformers.__version__,
        "chat": chat,
        "special": sorted(tokenizer.all_special_ids),
        "end": model.generation_config.eos_token_id,
    }
    (output / f"{model_folder.name}.json").write_text(json.dumps(found), encoding="utf-8")


def main() -> None:
    """Read each folder that the command line names."""
    text, output, *folders = sys.argv[1:]
    for folder in folders:
        read(Path(folder), text, Path(output))


if __name__ == "__main__":
    main()
