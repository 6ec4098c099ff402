"""Test bases that the dry run refuses because llama.cpp reads them differently."""

import json
import shutil
from pathlib import Path

import pytest

from bench.clones import ROOT
from bula.errors import UserError
from bula.models import load_config, load_tokenizer
from bula.params import DirectoryModel, Params, load_params
from stages.dry_run.__main__ import try_base
from stages.dry_run.template import encode_trials


def params_of(base: Path) -> Params:
    """Return the default parameters with another base and no GGUF type but bf16."""
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    source = DirectoryModel(kind="directory", path=str(base), license="mit")
    changes = {
        "ingest": params.ingest.model_copy(update={"base": source}),
        "quantize": params.quantize.model_copy(update={"types": []}),
    }
    return params.model_copy(update=changes)


@pytest.fixture
def swallowing(tiny: Path, tmp_path: Path) -> Path:
    """Return a base whose end-of-turn token takes the white space after it, as in Phi 3.

    A GGUF file cannot store that, so llama.cpp has a token for each line break.
    """
    base = tmp_path / "swallowing"
    shutil.copytree(tiny, base)
    file = base / "tokenizer.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    [end] = [token for token in state["added_tokens"] if token["content"] == "<|im_end|>"]
    end["rstrip"] = True
    file.write_text(json.dumps(state), encoding="utf-8")
    return base


def test_a_base_whose_chat_llama_cpp_splits_into_other_tokens_is_refused(swallowing: Path) -> None:
    tokenizer = load_tokenizer(swallowing)
    end = "<|im_end|>"
    # Only tokens beside the end of a turn change.
    assert len(tokenizer.encode(f"{end}\n", add_special_tokens=False)) == 1
    with pytest.raises(UserError) as raised:
        try_base(swallowing, params_of(swallowing))
    assert raised.value.where == str(swallowing)
    prompt = encode_trials(tokenizer, load_config(swallowing))[0].prompt
    # The system prompt and its end are equal; llama.cpp continues with a line break.
    place = prompt.index(tokenizer.eos_token_id) + 2
    assert raised.value.what == (
        "its dry run fails at the bf16 file in llama.cpp: llama.cpp splits a chat into other "
        f"tokens than the tokenizer, from token {place} on ('<|im_start|>')"
    )
    assert raised.value.fix == "use another base model in ingest.base"
