"""Test the dry run: bases that pass it, and bases that it refuses."""

import errno
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from openai import OpenAIError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from bench import llama as llama_parts
from bench.clones import ROOT, edit_params
from bula import gguf_adapter
from bula.errors import UserError
from bula.generation import generate_greedy
from bula.lora import check_target_modules
from bula.models import end_token_ids, load_config, load_model, load_tokenizer, save_model
from bula.params import DirectoryModel, Params, load_params
from bula.prompts import encode_prompt
from bula.records import read_rows, write_rows
from bula.serving import serve_llama_cpp
from stages.dry_run import __main__ as dry_run
from stages.dry_run import cut, export, llama_cpp, training
from stages.dry_run.llama_cpp import refuse_other_answer
from stages.dry_run.template import encode_trials
from stages.dry_run.trial import Trial, step
from stages.models.base import fetch_base
from stages.train.trainer import make_trainer
from tests.conftest import leftovers, validation_examples
from tests.pieces import piece_tokenizer

SMALL = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
# As in SmolLM3: a thinking block is empty if thinking is off, in prompts and in complete chats.
THINKING_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}{{- '<think>\\n\\n</think>\\n' }}{%- endif %}
    {{- message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n' }}
    {%- endif %}
{%- endif %}"""
NO_SYSTEM_TEMPLATE = """\
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

Write = Callable[..., Path]


def run_params(base: Path, kinds: list[str] | None = None, **lora: Any) -> Params:
    """Return the default parameters with another base, types and adapter."""
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    source = DirectoryModel(kind="directory", path=str(base), license="mit")
    changes = {
        "ingest": params.ingest.model_copy(update={"base": source}),
        "quantize": params.quantize.model_copy(update={"types": kinds or []}),
        "train": params.train.model_copy(
            update={"lora": params.train.lora.model_copy(update={"r": 4, **lora})}
        ),
    }
    return params.model_copy(update=changes)


@pytest.fixture
def write_base(smollm2: Path, tmp_path: Path) -> Write:
    """Return a function that writes a small model of any architecture."""

    def write(model_type: str, template: str = "", **fields: Any) -> Path:
        tokenizer = load_tokenizer(smollm2)
        if template:
            tokenizer.chat_template = template
        content = {**SMALL, "vocab_size": len(tokenizer), "tie_word_embeddings": True, **fields}
        config = AutoConfig.for_model(model_type, **content)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        save_model(model, tokenizer, tmp_path / model_type)
        return tmp_path / model_type

    return write


# --- bases that pass -----------------------------------------------------------------------------


def test_a_llama_passes_and_each_step_prints_its_seconds(
    tiny: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    figures = dry_run.try_base(tiny, run_params(tiny, ["q8_0"]))
    assert figures["gguf_files"] == 2
    assert float(figures["bf16_kl_nats"]) < 1e-6
    # Eight tokens for each of three prompts, unless one ends early.
    assert 3 <= int(figures["tokens_compared"]) <= 24
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("dry_run: ")]
    names = [line.removeprefix("dry_run: ").rpartition(", ")[0] for line in lines]
    assert names == [
        "chat template and padding",
        "a cut with random weights",
        "target modules",
        "the head of the model",
        "the fused kernels",
        "an optimizer step",
        "merge",
        "the bf16 GGUF file",
        "the bf16 file's tokenizer",
        "the bf16 file in llama.cpp",
        "the q8_0 GGUF file",
        "the GGUF file of the adapter",
        "all steps",
    ]


def test_a_granite_passes_with_its_own_factors(write_base: Write) -> None:
    base = write_base(
        "granite",
        embedding_multiplier=12.0,
        residual_multiplier=0.22,
        attention_multiplier=0.0625,
        logits_scaling=8.0,
    )
    figures = dry_run.try_base(base, run_params(base))
    assert float(figures["bf16_kl_nats"]) < 1e-6


def test_a_template_with_thinking_blocks_passes_without_thoughts(write_base: Write) -> None:
    base = write_base("qwen3", THINKING_TEMPLATE, head_dim=64)
    text = load_tokenizer(base).decode(encode_prompt(load_tokenizer(base), "Dói?"))
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n")
    figures = dry_run.try_base(base, run_params(base))
    assert float(figures["bf16_kl_nats"]) < 1e-6


def test_a_template_without_a_system_role_passes(write_base: Write) -> None:
    base = write_base("llama", NO_SYSTEM_TEMPLATE)
    config = load_config(base)
    encoded = encode_trials(load_tokenizer(base), config)
    text = load_tokenizer(base).decode(encoded[0].prompt)
    assert text.startswith("<|im_start|>user\nVocê é um assistente de saúde.")
    assert text.endswith("\n\nPosso tomar sol?<|im_end|>\n<|im_start|>assistant\n")


GEMMA_TEMPLATE = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}
{%- endif %}
{%- for message in messages %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\\n' + message['content'] + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"""


def gemma_tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer as Gemma's: turns end with another token than <eos>."""
    return piece_tokenizer(GEMMA_TEMPLATE, ("<start_of_turn>", "<end_of_turn>"))


def test_a_gemma_3_without_a_system_role_passes(tmp_path: Path) -> None:
    tokenizer = gemma_tokenizer()
    config = AutoConfig.for_model(
        "gemma3_text",
        **{**SMALL, "num_hidden_layers": 7},
        vocab_size=len(tokenizer),
        head_dim=64,
        query_pre_attn_scalar=64,
        sliding_window=64,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    save_model(model, tokenizer, tmp_path / "gemma3")
    encoded = encode_trials(load_tokenizer(tmp_path / "gemma3"), config)
    assert tokenizer.decode(encoded[0].completion).endswith("<end_of_turn>")
    figures = dry_run.try_base(tmp_path / "gemma3", run_params(tmp_path / "gemma3"))
    assert float(figures["bf16_kl_nats"]) < 1e-5


# --- bases that are refused ----------------------------------------------------------------------


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a dry run goes on to the export."""
    monkeypatch.setattr("stages.dry_run.export.try_merge_and_export", None)


@pytest.mark.usefixtures("no_export")
def test_a_misspelt_target_module_beside_a_correct_one_is_refused(tiny: Path) -> None:
    params = run_params(tiny, target_modules=["q_proj", "v_porj"])
    known = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    what = f"target_modules names v_porj, and the base model has only {known}"
    with pytest.raises(UserError, match=what):
        dry_run.try_base(tiny, params)


def test_training_refuses_a_misspelt_target_module(tiny: Path, workspace: Path) -> None:
    for name in ("train", "dev"):
        write_rows(workspace / f"data/clean/{name}.jsonl", validation_examples("A"))
    params = run_params(tiny, target_modules=["q_proj", "v_porj"])
    with pytest.raises(UserError, match="names v_porj, and the base model has only"):
        make_trainer(params, tiny, workspace / "data/clean", workspace / "run")


def test_a_target_module_may_be_named_by_its_last_parts(tiny: Path) -> None:
    model = load_model(tiny, "float32")
    names = ["q_proj", "self_attn.k_proj", "model.layers.0.mlp.up_proj"]
    lora = run_params(tiny, target_modules=names).train.lora
    check_target_modules(model, lora)
    wrong = lora.model_copy(update={"target_modules": [*names, "layers.2.mlp.up_proj", "proj"]})
    with pytest.raises(UserError, match=r"names layers\.2\.mlp\.up_proj, proj, and"):
        check_target_modules(model, wrong)


@pytest.mark.usefixtures("no_export")
def test_kernels_that_differ_from_transformers_are_refused(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "kernel_difference", lambda *_: (0.055, 7.0))
    what = r"loss 5.5e-02 and gradients 7.0e\+00 off \(tolerance 1e-05\)\. Set train.kernels to trl"
    with pytest.raises(UserError, match=what):
        dry_run.try_base(tiny, run_params(tiny))


@pytest.mark.usefixtures("no_export")
def test_only_the_kernels_of_training_are_compared(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "kernel_difference", lambda *_: (1.0, 1.0))
    monkeypatch.setattr(
        "stages.dry_run.export.try_merge_and_export", lambda trial: {"gguf_files": 0}
    )
    assert dry_run.try_base(tiny, with_kernels(run_params(tiny), "trl")) == {"gguf_files": 0}


def with_kernels(params: Params, kernels: str) -> Params:
    """Return parameters with other kernels."""
    train = params.train.model_copy(update={"kernels": kernels})
    return params.model_copy(update={"train": train})


@pytest.mark.usefixtures("no_export")
def test_a_head_that_trl_computes_otherwise_is_refused(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = training.mean_loss
    monkeypatch.setattr(training, "mean_loss", lambda *given: 1.01 * own(*given))
    what = r"fails at the trl kernels: they differ .*loss 1.0e-02 .*Set train.kernels to fused"
    with pytest.raises(UserError, match=what):
        dry_run.try_base(tiny, with_kernels(run_params(tiny), "trl"))


@pytest.mark.usefixtures("no_export")
def test_an_adapter_on_a_later_layer_than_the_cut_has_passes(
    write_base: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "stages.dry_run.export.try_merge_and_export", lambda trial: {"gguf_files": 0}
    )
    base = write_base("llama", num_hidden_layers=4)
    name = "model.layers.3.mlp.up_proj"
    assert dry_run.try_base(base, run_params(base, target_modules=[name])) == {"gguf_files": 0}
    wrong = run_params(base, target_modules=["model.layers.4.mlp.up_proj"])
    with pytest.raises(UserError, match=r"names model\.layers\.4\.mlp\.up_proj"):
        dry_run.try_base(base, wrong)


def test_a_full_disk_or_a_lack_of_memory_is_no_fault_of_the_base() -> None:
    machine = [
        OSError(errno.ENOSPC, "No space left on device"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ]
    for error in machine:
        with pytest.raises(type(error)), step("base", "merge", "use another base"):
            raise error
    with (
        pytest.raises(UserError, match="dry run fails at merge"),
        step("base", "merge", "use another base"),
    ):
        raise OpenAIError("no connection")


def test_a_model_that_reads_images_is_refused() -> None:
    dry_run.refuse_images("base", AutoConfig.for_model("llama"))
    with pytest.raises(UserError, match="base: the model also reads images"):
        dry_run.refuse_images("base", AutoConfig.for_model("gemma3"))


def test_the_cut_of_a_large_gemma_has_the_attention_scale_of_llama_cpp() -> None:
    sizes = {"hidden_size": 5376, "num_attention_heads": 32, "head_dim": 128}
    large = AutoConfig.for_model(
        "gemma3_text", **sizes, num_hidden_layers=62, query_pre_attn_scalar=168
    ).to_dict()
    assert cut.scale_fields(large) == {"query_pre_attn_scalar": 128}
    # llama.cpp would scale this model otherwise, which the trial must show.
    assert cut.scale_fields({**large, "query_pre_attn_scalar": 256}) == {}
    assert cut.scale_fields({**large, "num_hidden_layers": 34}) == {}


def test_the_cut_has_a_window_shorter_than_the_longest_trial_row() -> None:
    fields = {"sliding_window": 4096, "max_position_embeddings": 8192}
    assert cut.window_fields(fields) == {"sliding_window": 128}
    # Such a window has no effect.
    assert cut.window_fields({**fields, "sliding_window": 8192}) == {}
    assert cut.window_fields({**fields, "sliding_window": 64}) == {}
    assert cut.window_fields({**fields, "sliding_window": None}) == {}


def test_a_configuration_without_a_number_of_layers_is_refused() -> None:
    with pytest.raises(UserError, match="does not say how many layers"):
        cut.shallow_fields({"n_layer": 4})


def test_an_answer_that_ends_early_is_refused(tiny: Path) -> None:
    model = load_model(tiny, "float32")
    with pytest.raises(UserError, match="answers with 1 tokens, transformers with 2"):
        refuse_other_answer(model, [1], [5, 6], [5])


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        MemoryError("std::bad_alloc"),
        UserError("model", "its load ran out of memory", "use a larger machine"),
    ],
)
def test_a_fault_of_the_machine_is_not_blamed_on_the_base(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, step("base", "merge", "use another base"):
        raise error
    assert raised.value is error


def test_a_slow_type_is_written_beside_the_others(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = run_params(tmp_path, ["q4_k_m", "q8_0"])
    trial = Trial("base", params, PreTrainedConfig(), load_tokenizer(smollm2), [], tmp_path)
    others_are_done = Event()

    def slow_export(_: Path, kind: str, file: Path) -> None:
        assert kind == "q4_k_m"
        assert others_are_done.wait(60)
        file.touch()

    monkeypatch.setattr(export, "export", slow_export)
    with ThreadPoolExecutor(1) as pool:
        rounded = export.round_beside(trial, pool)
        assert list(rounded) == ["q4_k_m"]
        others_are_done.set()
        rounded["q4_k_m"].result()
    assert export.file_of(trial, "q4_k_m").exists()


def test_an_architecture_without_a_converter_is_refused(write_base: Write) -> None:
    base = write_base("helium", head_dim=64)
    what = f"{base}: its dry run fails at the bf16 GGUF file.*HeliumForCausalLM"
    with pytest.raises(UserError, match=what):
        dry_run.try_base(base, run_params(base))


def test_a_file_that_reads_as_another_model_is_refused(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_changed(path: Path, dtype: str) -> Any:
        model = load_model(path, dtype)
        if path.suffix == ".gguf":
            # As an export that forgets to scale the logits.
            model.model.norm.weight.data *= 1.1
        return model

    monkeypatch.setattr(export, "load_model", load_changed)
    with pytest.raises(UserError, match=r"logits of the merged model: KL .* \(limit 0.001\)"):
        dry_run.try_base(tiny, run_params(tiny))


def test_an_adapter_without_a_gguf_form_is_refused(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a converter that changes more than the order of rows.
    monkeypatch.setattr(gguf_adapter, "TOLERANCE", -1.0)
    what = "its dry run fails at the GGUF file of the adapter: llama.cpp's converter changes more"
    with pytest.raises(UserError, match=what) as raised:
        dry_run.try_base(tiny, run_params(tiny))
    assert raised.value.where == str(tiny)


def test_an_adapter_that_llama_cpp_does_not_apply_is_refused(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        llama_cpp,
        "serve_llama_cpp",
        lambda *a, **options: serve_llama_cpp(*a, **{**options, "adapters": ()}),
    )
    with pytest.raises(UserError, match=r"adapter: llama\.cpp prefers another token"):
        dry_run.try_base(tiny, run_params(tiny))


def test_an_answer_that_differs_from_transformers_is_refused(tiny: Path) -> None:
    model = load_model(tiny, "float32")
    tokenizer = load_tokenizer(tiny)
    prompt = encode_prompt(tokenizer, "Posso tomar sol?")
    [answer] = generate_greedy(model, tokenizer, [prompt], 4)
    other = [*answer[:2], answer[2] + 1, *answer[3:]]
    refuse_other_answer(model, prompt, answer, answer)
    with pytest.raises(UserError, match=r"at token 3: its logit is .* below the largest \(limit"):
        refuse_other_answer(model, prompt, answer, other)


def test_two_tokens_with_equal_logits_count_as_equal(tiny: Path) -> None:
    model = load_model(tiny, "float32")
    prompt = encode_prompt(load_tokenizer(tiny), "Posso tomar sol?")
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
    first = int(logits.argmax())
    embeddings = model.get_output_embeddings().weight.data
    embeddings[first + 1] = embeddings[first]
    refuse_other_answer(model, prompt, [first], [first + 1])


# --- the whole stage -----------------------------------------------------------------------------


def train_tokenizer(smollm2: Path) -> PreTrainedTokenizerBase:
    """Train a BPE tokenizer on Portuguese, which no converter of llama.cpp knows."""
    backend = Tokenizer(models.BPE())
    # The split of numbers makes the pre-tokenizer unlike all known ones.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel()]
    )
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [row["answer"] for row in read_rows(ROOT / "data/demo/dev.jsonl")]
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.chat_template = load_tokenizer(smollm2).chat_template
    return tokenizer


@pytest.fixture
def unknown_tokenizer(smollm2: Path, workspace: Path) -> Path:
    """Return a workspace whose models/base has a tokenizer that llama.cpp does not know."""
    tokenizer = train_tokenizer(smollm2)
    config = AutoConfig.for_model("llama", **SMALL, vocab_size=len(tokenizer))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    save_model(model, tokenizer, workspace / "models/base")
    source = {"kind": "directory", "path": "own", "license": "mit"}
    edit_params(workspace / "params.yaml", lambda p: p["ingest"].update(base=source))
    return workspace


def test_the_stage_refuses_an_unknown_tokenizer_and_writes_nothing(
    unknown_tokenizer: Path,
) -> None:
    with pytest.raises(UserError, match="own: its dry run fails at the bf16 GGUF file"):
        dry_run.main()
    assert not (unknown_tokenizer / "data/tried.txt").exists()
    assert not (unknown_tokenizer / "metrics").exists()
    assert leftovers(unknown_tokenizer) == []


def test_two_dry_runs_record_the_same_text_whatever_their_figures(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = []
    for files in (1, 2):
        figures = {"gguf_files": files}
        monkeypatch.setattr(dry_run, "try_base", lambda *_, figures=figures: figures)
        dry_run.main()
        texts.append((workspace / "data/tried.txt").read_text(encoding="utf-8"))
        assert read_json(workspace / "metrics/dry_run.json") == figures
    assert texts == ["the base model passed the dry run\n"] * 2


# --- how the base answers ------------------------------------------------------------------------


@pytest.fixture
def penalizing(tiny: Path, tmp_path: Path) -> Path:
    """Return a base that penalizes repetitions and stops at another token."""
    path = tmp_path / "penalizing"
    shutil.copytree(tiny, path)
    tokenizer = load_tokenizer(tiny)
    wrong_end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    answering = {
        "repetition_penalty": 1.3,
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 20,
        "eos_token_id": wrong_end,
    }
    (path / "generation_config.json").write_text(json.dumps(answering), encoding="utf-8")
    file = path / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "eos_token_id": wrong_end}), encoding="utf-8")
    return path


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def test_base_and_merged_carry_the_end_tokens_of_training(
    penalizing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = DirectoryModel(kind="directory", path=str(penalizing), license="mit")
    limits = load_params(ROOT / "profiles/smollm2-135m.yaml").ingest.limits
    base = tmp_path / "base"
    fetch_base(source, "bfloat16", base, limits)
    printed = capsys.readouterr().out
    tokenizer = load_tokenizer(base)
    ends = end_token_ids(tokenizer)
    assert "eos_token_id 0 -> [0, 2]" in printed
    assert "repetition_penalty 1.3 removed" in printed
    assert "temperature 0.7 removed" in printed
    # As the stage merge writes it.
    save_model(load_model(base, "bfloat16"), tokenizer, tmp_path / "merged")
    for folder in (base, tmp_path / "merged"):
        answering = read_json(folder / "generation_config.json")
        assert answering["eos_token_id"] == ends == [0, 2]
        assert answering["pad_token_id"] == tokenizer.pad_token_id
        assert not {"repetition_penalty", "do_sample", "temperature", "top_k"} & answering.keys()
        assert read_json(folder / "config.json")["eos_token_id"] == ends


def test_the_base_answers_greedily_without_a_penalty(penalizing: Path, tmp_path: Path) -> None:
    source = DirectoryModel(kind="directory", path=str(penalizing), license="mit")
    limits = load_params(ROOT / "profiles/smollm2-135m.yaml").ingest.limits
    fetch_base(source, "bfloat16", tmp_path / "base", limits)
    model = load_model(tmp_path / "base", "float32")
    tokenizer = load_tokenizer(tmp_path / "base")
    prompt = encode_prompt(tokenizer, "Posso tomar sol?")
    [greedy] = generate_greedy(model, tokenizer, [prompt], 8)
    # As a user would, without any argument but the length.
    output = model.generate(torch.tensor([prompt]), max_new_tokens=8)
    assert output[0, len(prompt) :].tolist() == greedy


# --- the cut -------------------------------------------------------------------------------------


def cut_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the changes that the cut makes to a configuration."""
    shallow = cut.shallow_fields(config.to_dict())
    return {**shallow, **cut.narrow_fields({**config.to_dict(), **shallow})}


def test_a_cut_has_two_layers_if_all_are_alike() -> None:
    config = AutoConfig.for_model("llama", **SMALL, vocab_size=64)
    config.num_hidden_layers = 30
    assert cut.shallow_fields(config.to_dict()) == {"num_hidden_layers": 2}


def test_a_cut_of_gemma_3_keeps_a_layer_with_global_attention() -> None:
    config = AutoConfig.for_model("gemma3_text", num_hidden_layers=18)
    fields = cut.shallow_fields(config.to_dict())
    assert fields["num_hidden_layers"] == 6
    assert fields["layer_types"] == ["sliding_attention"] * 5 + ["full_attention"]


def test_a_cut_of_smollm3_keeps_a_layer_without_positions() -> None:
    config = AutoConfig.for_model("smollm3", num_hidden_layers=36)
    fields = cut.shallow_fields(config.to_dict())
    assert fields["num_hidden_layers"] == 4
    assert fields["no_rope_layers"] == [1, 1, 1, 0]


def test_a_narrowed_llama_keeps_heads_ratio_and_divisibility() -> None:
    fields = cut.narrow_fields(llama_parts.CONFIG)
    # 8 query heads of 64 and 2 key heads, as 32 and 8; all widths are multiples of 256.
    assert fields == {
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "hidden_size": 256,
        "intermediate_size": 256,
    }


@pytest.mark.parametrize(
    ("width", "multiple", "narrowed"),
    [
        (2048, 8, 256),
        (8192, 1, 256),
        # 64 and 320 have the remainder of 576, and are no multiples of 9.
        (576, 9, 576),
        (640, 4, 128),
        (256, 4, 256),
        (96, 1, 96),
    ],
)
def test_a_narrowed_width_keeps_its_remainder(width: int, multiple: int, narrowed: int) -> None:
    assert cut.narrowed(width, multiple) == narrowed


def test_a_large_model_is_narrowed(smollm2: Path) -> None:
    config = load_config(smollm2)
    # Two layers with 49,152 embeddings of 576 numbers have 35 million parameters.
    model = cut.build_cut(config)
    assert model.config.intermediate_size == 256
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (9, 3)


def test_the_cut_has_biases_and_norms_that_an_export_could_lose() -> None:
    config = AutoConfig.for_model("llama", **SMALL, vocab_size=64, attention_bias=True)
    layer = cut.build_cut(config).model.layers[0]
    assert layer.self_attn.q_proj.bias.abs().min() > 0
    assert (layer.input_layernorm.weight - 1).abs().max() > 0.1
