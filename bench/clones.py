"""Build a clone of this repository and a two-layer model.

Benchmarks and tests run in them.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bula.compared_files import write_variants
from bula.records import SET_NAMES

ROOT = Path(__file__).resolve().parent.parent
# Rows that a shortened demo corpus keeps, by file.
DEMO_ROWS = {"train": 16, "dev": 4, "gold": 3, **{f"validation/{name}": 2 for name in SET_NAMES}}
GIT_SETTINGS = ("user.name=Test", "user.email=test@example.org", "commit.gpgsign=false")

Edit = Callable[[dict[str, Any]], None]


def build_tiny(smollm2: Path, path: Path) -> None:
    """Write a two-layer Llama with random weights and SmolLM2's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from bula.models import load_tokenizer, save_model

    tokenizer = load_tokenizer(smollm2)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        # At this width bfloat16 does not swap the most probable tokens.
        initializer_range=0.1,
    )
    save_model(LlamaForCausalLM(config).to(torch.bfloat16), tokenizer, path)


def edit_params(path: Path, edit: Edit) -> None:
    """Change a params.yaml in place, and the dvc.yaml beside it if the variants change."""
    yaml = YAML(typ="safe")
    params = yaml.load(path.read_text(encoding="utf-8"))
    before = list(params.get("variants", ()))
    edit(params)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    pipeline = path.with_name("dvc.yaml")
    if list(params.get("variants", ())) != before and pipeline.exists():
        write_variants(pipeline, path)


def small(tiny: Path) -> Edit:
    """Return an edit that cuts the parameters to seconds of work.

    The base becomes the two-layer model at `tiny`.
    """

    def edit(params: dict[str, Any]) -> None:
        params["ingest"]["base"] = {"kind": "directory", "path": str(tiny), "license": "apache-2.0"}
        params["preprocess"]["train_limit"] = 16
        _shrink_training(params["train"])
        _shrink_scoring(params)
        params["variants"] = {
            "base": {"model": "models/base", "engine": "transformers"},
            "tuned": {"model": "models/merged", "engine": "transformers"},
            "quantized": {"model": "models/gguf/q8_0.gguf", "engine": "llama.cpp"},
        }

    return edit


def _shrink_training(train: dict[str, Any]) -> None:
    """Cut the train section to six small steps."""
    train.update(
        max_steps=6,
        eval_steps=3,
        save_steps=3,
        log_steps=1,
        batch_size=2,
        gradient_accumulation=2,
    )
    train["lora"].update(r=4, alpha=8)


def _shrink_scoring(params: dict[str, Any]) -> None:
    """Cut the items and resamples of the stages after train."""
    params["merge"]["check_items"] = 2
    params["quantize"].update(check_items=2, types=["bf16", "q8_0"])
    params["generate"].update(items_per_set=2, max_new_tokens=8)
    params["benchmark"].update(limit=4, task_limits={})
    params["safety"].update(items_per_slice=2, max_new_tokens=8)
    params["judge"].update(items_per_set=1, reason_characters=20)
    params["calibrate"].update(items=3, attack_items=2, repeat_items=1)
    params["bertscore"].update(layer=1, batch_size=4)
    for section in ("rouge", "bertscore", "compare", "calibrate", "labels", "safety"):
        params[section]["resamples"] = 50


def shorten(demo: Path) -> None:
    """Keep the first rows of each file of the demo corpus."""
    for name, rows in DEMO_ROWS.items():
        file = demo / f"{name}.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        file.write_text("".join(lines[:rows]), encoding="utf-8")


def clone_tree(target: Path) -> None:
    """Copy the files that git would carry into a new repository.

    The copy has one commit and the default parameters, even where params.yaml was changed here.
    """
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(_belongs_in_clone, listing.split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", target / "params.yaml")
    git(target, "init", "--quiet")
    commit(target, "start")


def _belongs_in_clone(name: str) -> bool:
    """Return whether a clone gets a file of this repository.

    The figures of this repository's own run stay here, except metrics/seeds.json, which no stage
    writes.
    """
    if name != "metrics/seeds.json" and name.startswith(("metrics/", "plots/")):
        return False
    return (ROOT / name).is_file()


def git(folder: Path, *arguments: str) -> str:
    """Run git with a test identity and return its output."""
    command = ["git"]
    for setting in GIT_SETTINGS:
        command += ["-c", setting]
    command += arguments
    return subprocess.run(command, cwd=folder, capture_output=True, check=True, text=True).stdout


def commit(folder: Path, message: str) -> None:
    """Commit every change of a repository."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
