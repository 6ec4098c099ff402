"""Write a small finished run, and record it by git and DVC."""

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bench.clones import ROOT, edit_params
from bula.model_cards import adapter_documents, gguf_documents, merged_documents
from bula.params import load_params
from bula.privacy import PERSONAL_DATA_KINDS
from bula.records import SET_NAMES, write_rows
from stages.preprocess.card import Figures, data_set_card
from tests.test_model_cards import FILES, MERGING, TRAINING

OUTPUTS = ("models/adapter", "models/merged", "models/gguf", "data/clean")
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
SPLITS = ("train", "dev", *SET_NAMES)
SIZES = {
    "vocab_size": 4,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"


def write_run(folder: Path) -> None:
    """Write a run of the default profile below `folder`.

    The merged model has one layer, and the other weights are bytes that no test loads. The figures
    are those of the repository's last run.
    """
    write_inputs(folder)
    contents = {
        "adapter/adapter_config.json": b"{}",
        "adapter/adapter_model.safetensors": b"adapter",
        "gguf/q4_k_m.gguf": b"GGUF",
        "gguf/adapter.gguf": b"GGUF of the adapter",
    }
    for name, content in contents.items():
        file = folder / "models" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder / "models/merged")
    write_tokenizer(folder / "models/merged")
    write_documents(folder)


def write_inputs(folder: Path) -> None:
    """Write parameters, citation, figures and rows."""
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", folder / "params.yaml")
    shutil.copy(ROOT / "CITATION.cff", folder)
    shutil.copytree(ROOT / "metrics", folder / "metrics")
    write_clean(folder)


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of four tokens with a chat template."""
    backend = Tokenizer(WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3}, "<unk>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=TEMPLATE,
    )
    tokenizer.save_pretrained(folder)


def clean_row(number: int, split: str) -> dict[str, Any]:
    """Return one row as preprocess writes it."""
    return {
        "id": f"{number:016x}",
        "source": "demo",
        "license": "cc-by-4.0",
        "split": split,
        "question": f"Pergunta {number} sobre febre?",
        "answer": "Beba água, repouse e procure o posto se a febre durar três dias.",
    }


def write_clean(folder: Path) -> None:
    """Write two rows of each split, their card, and the files of ids."""
    clean = folder / "data/clean"
    figures: dict[str, dict[str, int | float]] = {}
    for number, split in enumerate(SPLITS):
        place = "validation/" if split in SET_NAMES else ""
        rows = [clean_row(2 * number + extra, split) for extra in (0, 1)]
        write_rows(clean / f"{place}{split}.jsonl", rows)
        figures[split] = {"examples": 2, "tokens": 40}
    figures["quarantine"] = {"rows": 0}
    figures["privacy"] = dict.fromkeys(["rows", *PERSONAL_DATA_KINDS], 0)
    params = load_params(folder / "params.yaml")
    card = data_set_card(params, Figures(Counter(demo=14), figures, {}, []), SPLITS)
    (clean / "README.md").write_text(card, encoding="utf-8")
    for name in ("overlap", "contamination", "few_shot"):
        (clean / f"{name}.jsonl").write_text("", encoding="utf-8")


def write_documents(folder: Path) -> None:
    """Write the legal files and cards of the stages for the base in params.yaml."""
    params = load_params(folder / "params.yaml")
    base = folder / "models/base"
    found = {
        "adapter": adapter_documents(params, TRAINING, base),
        "merged": merged_documents(params, MERGING, base),
        "gguf": gguf_documents(params, FILES, base),
    }
    for name, documents in found.items():
        for file, content in documents.items():
            (folder / "models" / name / file).write_bytes(content)


def edit_figures(folder: Path, name: str, **changes: Any) -> None:
    """Change figures in one file of metrics/; a dictionary changes figures of a group."""
    path = folder / "metrics" / name
    figures = json.loads(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        if isinstance(value, dict):
            figures[key].update(value)
        else:
            figures[key] = value
    path.write_text(json.dumps(figures), encoding="utf-8")


def edit_run(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the parameters, and the documents that follow from them."""
    edit_params(folder / "params.yaml", edit)
    write_documents(folder)


def record(folder: Path, outputs: Sequence[str] = OUTPUTS) -> str:
    """Record the run by DVC and git, and return the commit."""
    stage = {"cmd": "exit 1", "params": ["seed"], "outs": list(outputs)}
    YAML().dump({"stages": {"run": stage}}, folder / "dvc.yaml")
    (folder / ".gitignore").write_text(".bula/\n", encoding="utf-8")
    for command in (
        ("git", "init", "--quiet"),
        ("dvc", "init", "--quiet"),
        ("dvc", "config", "core.analytics", "false"),
        ("dvc", "commit", "--quiet", "--force"),
        ("git", "add", "."),
        (*GIT, "commit", "--quiet", "-m", "run"),
    ):
        subprocess.run(command, cwd=folder, check=True)
    head = ("git", "rev-parse", "HEAD")
    return subprocess.run(head, cwd=folder, check=True, capture_output=True, text=True).stdout[:40]
