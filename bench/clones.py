"""Build what benches and tests run in: a clone of this repository and a two-layer model."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bula.records import SET_NAMES

ROOT = Path(__file__).resolve().parent.parent


Edit = Callable[[dict[str, Any]], None]


def build_tiny(smollm2: Path, path: Path) -> None:
    """Write the two-layer model."""
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
        # Wide enough apart that bfloat16 does not swap the likeliest tokens.
        initializer_range=0.1,
    )
    save_model(LlamaForCausalLM(config).to(torch.bfloat16), tokenizer, path)


def edit_params(path: Path, edit: Edit) -> None:
    """Change a params.yaml in place."""
    yaml = YAML(typ="safe")
    params = yaml.load(path.read_text(encoding="utf-8"))
    edit(params)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)


def small(tiny: Path) -> Edit:
    """The default parameters, cut down to what a two-layer model runs in seconds."""

    def edit(params: dict[str, Any]) -> None:
        params["ingest"]["base"] = {"kind": "directory", "path": str(tiny), "license": "apache-2.0"}
        params["preprocess"]["train_limit"] = 16
        params["train"] |= {
            "max_steps": 6,
            "eval_steps": 3,
            "save_steps": 3,
            "log_steps": 1,
            "batch_size": 2,
            "gradient_accumulation": 2,
        }
        params["train"]["lora"] |= {"r": 4, "alpha": 8}
        params["merge"]["check_items"] = params["quantize"]["check_items"] = 2
        params["quantize"]["types"] = ["q8_0"]
        params["generate"] |= {"items_per_set": 2, "max_new_tokens": 8}
        params["benchmark"]["limit"] = 4
        params["rouge"]["resamples"] = params["compare"]["resamples"] = params["calibrate"][
            "resamples"
        ] = 50
        params["judge"] |= {"items_per_set": 1, "reason_characters": 20}
        params["calibrate"]["items"] = 3
        params["variants"] = {
            "base": {"model": "models/base", "engine": "transformers"},
            "tuned": {"model": "models/merged", "engine": "transformers"},
            "quantized": {"model": "models/gguf/q8_0.gguf", "engine": "llama.cpp"},
        }

    return edit


def shorten(demo: Path) -> None:
    """Keep the first rows of each file of the demo corpus."""
    for name, rows in (
        ("train", 16),
        ("dev", 4),
        *((f"validation/{s}", 2) for s in SET_NAMES),
        ("gold", 3),
    ):
        file = demo / f"{name}.jsonl"
        file.write_text(
            "".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[:rows]),
            encoding="utf-8",
        )


def clone_tree(target: Path) -> None:
    """The files that git would carry, as a repository of their own with one commit."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split("\0")
    for name in filter(None, names):
        # The figures of the default run are none of this clone's. No stage writes seeds.json; a spread in it is another run's.
        if (ROOT / name).is_file() and (
            name == "metrics/seeds.json" or not name.startswith(("metrics/", "plots/"))
        ):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    # Also where params.yaml was changed for a run of one's own.
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", target / "params.yaml")
    git(target, "init", "--quiet")
    commit(target, "start")


def git(folder: Path, *arguments: str) -> str:
    identity = [
        "-c",
        "user.name=Test",
        "-c",
        "user.email=test@example.org",
        "-c",
        "commit.gpgsign=false",
    ]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, check=True, text=True
    ).stdout


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
