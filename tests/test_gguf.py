"""Test merged weights, GGUF files, and the engines that read them."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from bench.engines import by_llama_cpp, compare, gaps, shared_prefix
from bula import gguf_converters, gguf_export, merging
from bula.divergence import divergence_metrics, score_examples
from bula.errors import UserError
from bula.files import sha256_file
from bula.generation import until_end
from bula.gguf_export import check_chat_metadata, describe, export
from bula.models import load_adapted, load_model, load_tokenizer, save_model
from bula.prompts import Encoded, encode_prompt
from bula.records import SET_NAMES, write_rows
from bula.scoring import pad_batch, supervised_hidden, unwrap_adapter
from stages import merge
from tests.pieces import SIZE, piece_tokenizer, train_pieces

QUESTION = "Posso tomar dipirona com febre?"


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an adapter of the two-layer model with random B matrices."""
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load_model(tiny, "float32"), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            # PEFT starts B at zero, and such an adapter would change nothing.
            torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def wide(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random two-layer Llama, 2,048 wide, with its files exported twice.

    It has few tokens and a narrow MLP, because auto-round takes a minute for SmolLM2's 49,152
    tokens at this width. Its directory has a tokenizer.model, as many bases do.
    """
    folder = tmp_path_factory.mktemp("wide")
    ends = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    tokenizer = piece_tokenizer(load_tokenizer(tiny).chat_template, **ends)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=2048,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    save_model(model, tokenizer, folder / "wide")
    (folder / "wide/tokenizer.model").write_bytes(train_pieces())
    return export_twice(folder / "wide", ["bf16", "q4_k_m"])


@pytest.fixture(scope="module")
def narrow(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the two-layer model, 256 wide, with its files exported twice."""
    path = tmp_path_factory.mktemp("narrow") / "narrow"
    shutil.copytree(tiny, path)
    return export_twice(path, ["bf16", "q8_0"])


def export_twice(model: Path, kinds: list[str]) -> Path:
    """Export each type to gguf/ and again/ beside the model."""
    for name in ("gguf", "again"):
        (model.parent / name).mkdir()
        for kind in kinds:
            file = model.parent / name / f"{kind}.gguf"
            export(model, kind, file)
    return model


FILES = [
    ("narrow", "bf16"),
    ("narrow", "q8_0"),
    ("wide", "bf16"),
    ("wide", "q4_k_m"),
]


@pytest.mark.parametrize(("which", "kind"), FILES)
def test_two_exports_of_a_model_are_identical(
    which: str, kind: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(which).parent
    first = sha256_file(folder / f"gguf/{kind}.gguf")
    second = sha256_file(folder / f"again/{kind}.gguf")
    assert first == second


@pytest.mark.parametrize(("which", "kind"), FILES)
def test_an_exported_file_contains_chat_template_and_end_of_turn_token(
    which: str, kind: str, request: pytest.FixtureRequest
) -> None:
    model: Path = request.getfixturevalue(which)
    tokenizer = load_tokenizer(model)
    file = model.parent / f"gguf/{kind}.gguf"
    fields = gguf.GGUFReader(file).fields
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template
    assert fields["tokenizer.ggml.eos_token_id"].contents() == end_of_turn


@pytest.mark.parametrize(("which", "kind"), FILES)
def test_llama_cpp_answers_with_the_token_that_the_weights_prefer(
    which: str, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Beside another test worker, two threads of llama.cpp are slower than one.
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})
    model: Path = request.getfixturevalue(which)
    tokenizer = load_tokenizer(model)
    prompt = encode_prompt(tokenizer, QUESTION)
    file = model.parent / f"gguf/{kind}.gguf"
    [answer] = by_llama_cpp(file, tokenizer, [prompt], 4)
    assert len(answer) == 4 or answer[-1] == tokenizer.eos_token_id
    encoded = Encoded(prompt=prompt, completion=answer[:1])
    weights = load_model(model, "float32")
    [(logits, _)] = score_examples(weights, [encoded], 0)
    gap = logits.max() - logits[0, answer[0]]
    # Quantization may swap two tokens that are nearly equal; most tokens are far behind.
    assert gap < 0.5
    assert logits.max() - logits.median() > 2


def write_header(path: Path, template: str | None, end_of_turn: int) -> Path:
    """Write a GGUF file that has a header, but no tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_eos_token_id(end_of_turn)
    if template:
        writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_an_exported_file_passes_the_check_of_its_header(wide: Path) -> None:
    check_chat_metadata(wide.parent / "gguf/q4_k_m.gguf", load_tokenizer(wide))


def test_an_export_leaves_a_tokenizer_model_unchanged(wide: Path) -> None:
    assert (wide / "tokenizer.model").read_bytes() == train_pieces()


def test_a_file_without_chat_template_is_refused(tiny: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    file = write_header(tmp_path / "none.gguf", None, tokenizer.eos_token_id)
    with pytest.raises(UserError, match=r"none\.gguf: its tokenizer\.chat_template is missing"):
        check_chat_metadata(file, tokenizer)


def test_a_file_with_another_end_of_turn_token_is_refused(tiny: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    other = tokenizer.eos_token_id + 1
    file = write_header(tmp_path / "other.gguf", tokenizer.chat_template, other)
    with pytest.raises(
        UserError, match=r"other\.gguf: its tokenizer\.ggml\.eos_token_id .* differs"
    ):
        check_chat_metadata(file, tokenizer)


def test_a_model_2048_wide_is_stored_in_k_types(wide: Path) -> None:
    figures = describe(wide.parent / "gguf/q4_k_m.gguf")
    del figures["bytes"]
    # llama.cpp stores value and down projection of the last block and the tied head in Q6_K.
    assert figures == {"tensors_f32": 5, "tensors_q4_k": 12, "tensors_q6_k": 3}


def test_q4_k_m_diverges_little_from_bf16(wide: Path) -> None:
    torch.manual_seed(2)
    tokens = torch.randint(6, SIZE, (4, 64)).tolist()
    encoded = [Encoded(prompt=row[:8], completion=row[8:]) for row in tokens]
    bf16 = load_model(wide.parent / "gguf/bf16.gguf", "float32")
    q4_k_m = load_model(wide.parent / "gguf/q4_k_m.gguf", "float32")
    reference = list(score_examples(bf16, encoded, 2))
    quantized = divergence_metrics(reference, score_examples(q4_k_m, encoded, 2))
    assert quantized["tokens"] == 4 * 56
    assert 0 < quantized["kl_nats"] < 0.02
    # Shuffled logits stand for another model of the same shape.
    shuffled = []
    for logits, targets in reference:
        shuffled.append((logits[:, torch.randperm(logits.shape[1])], targets))
    unrelated = divergence_metrics(reference, shuffled)
    assert unrelated["kl_nats"] > 20 * quantized["kl_nats"]


def test_logit_difference_is_relative_to_the_largest_absolute_logit() -> None:
    targets = torch.tensor([0])
    reference = torch.tensor([[1.0, -8.0]])
    other = torch.tensor([[1.5, -7.75]])
    figures = divergence_metrics([(reference, targets)], [(other, targets)])
    assert figures["logit_difference_largest"] == 0.5
    assert figures["logit_difference_relative"] == 0.5 / 8


def test_weight_difference_equals_a_computation_by_hand() -> None:
    base = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    a = torch.tensor([[0.5, -1.0]])
    b = torch.tensor([[1.0], [2.0]])
    layer = torch.nn.Linear(2, 2, bias=False)
    # base + 2 * B @ A is [[1 + 1, 2 - 2], [3 + 2, 4 - 4]]; one weight differs by 0.25.
    layer.weight.data = torch.tensor([[2.0, 0.0], [5.25, 0.0]])
    model: Any = torch.nn.ModuleDict({"q": layer})
    assert merging.weight_difference({"q.weight": (base, a, b, 2.0)}, model) == 0.25


def test_merged_weights_equal_base_plus_adapter(tiny: Path, adapter: Path) -> None:
    model = load_adapted(tiny, adapter, "float32")
    terms = merging.adapted(model)
    merged = model.merge_and_unload(safe_merge=True)
    # Each of the two blocks has seven linear layers.
    assert len(terms) == 14
    assert 0 < merging.weight_difference(terms, merged) < 1e-6
    # The base without the adapter shows that the comparison can fail.
    assert merging.weight_difference(terms, load_model(tiny, "float32")) > 0.01


@pytest.fixture
def double_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep Llama's norm from rounding float64 to float32."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        mean = x.square().mean(-1, keepdim=True)
        scale = torch.rsqrt(mean + self.variance_epsilon)
        scaled: torch.Tensor = self.weight * x * scale
        return scaled

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


@torch.inference_mode()
def double_logits(model: Any) -> torch.Tensor:
    """Return the float64 logits of 64 fixed random tokens."""
    generator = torch.Generator().manual_seed(3)
    completion = torch.randint(20, 40_000, (64,), generator=generator).tolist()
    batch = pad_batch([Encoded(prompt=[1], completion=completion)], 0)
    model = model.double()
    hidden, _ = supervised_hidden(model, batch)
    head = unwrap_adapter(model).get_output_embeddings()
    logits: torch.Tensor = head(hidden)
    return logits


@pytest.mark.usefixtures("double_norm")
def test_a_merge_in_float64_keeps_the_logits(tiny: Path, adapter: Path) -> None:
    exact = double_logits(load_adapted(tiny, adapter, "float32"))
    model = load_adapted(tiny, adapter, "float32").double()
    merged = double_logits(model.merge_and_unload(safe_merge=True))
    assert (merged - exact).abs().max() < 1e-11


@pytest.mark.usefixtures("double_norm")
def test_a_merge_in_float32_changes_the_logits_only_by_rounding(tiny: Path, adapter: Path) -> None:
    exact = double_logits(load_adapted(tiny, adapter, "float32"))
    model = load_adapted(tiny, adapter, "float32")
    merged = double_logits(model.merge_and_unload(safe_merge=True))
    base = double_logits(load_model(tiny, "float32"))
    assert (merged - exact).abs().max() < 1e-5
    assert (base - exact).abs().max() > 1


@pytest.fixture
def merged_workspace(workspace: Path, tiny: Path, adapter: Path) -> Path:
    """Return the workspace after the merge stage, with one example per set."""
    for name in SET_NAMES:
        row = {
            "id": "0" * 16,
            "source": "s",
            "license": "l",
            "split": name,
            "question": QUESTION,
            "answer": "Sim, se não for alérgico.",
        }
        write_rows(workspace / f"data/clean/validation/{name}.jsonl", [row])
    merge.main(base=tiny, adapter=adapter)
    return workspace


def test_merge_writes_the_differences_of_weights_and_logits(merged_workspace: Path) -> None:
    figures = json.loads((merged_workspace / "metrics/merge.json").read_text(encoding="utf-8"))
    assert figures["weights"]["matrices"] == 14
    assert 0 < figures["weights"]["difference_largest"] < 1e-6
    assert 0 < figures["before_cast"]["logit_difference_relative"] < 1e-5


def test_merge_refuses_a_wrong_merge_and_keeps_the_previous_output(
    merged_workspace: Path, tiny: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = merged_workspace / "models/merged/model.safetensors"
    before = sha256_file(weights)
    monkeypatch.setattr(
        merging, "load_adapted", lambda *arguments: with_wrong_scale(load_adapted(*arguments))
    )
    with pytest.raises(UserError, match=r"differs from base \+ adapter by"):
        merge.main(base=tiny, adapter=adapter)
    assert sha256_file(weights) == before


def with_wrong_scale(model: Any) -> Any:
    """Return a model whose merge doubles the change of one matrix."""
    layer = unwrap_adapter(model).model.layers[0].mlp.down_proj
    correct = layer.get_delta_weight
    layer.get_delta_weight = lambda name: correct(name) * 2
    return model


FIRST_ANSWERS = [
    [1, 2, 3, 4],
    [1, 9, 3, 4],
    [5, 6],
    [7, 8, 2],
]
SECOND_ANSWERS = [
    [1, 2, 3, 4],
    [1, 2, 3, 4],
    [5, 6, 2],
    [7, 8, 2],
]


def test_shared_prefix_counts_tokens_before_the_first_difference() -> None:
    prefixes = list(map(shared_prefix, FIRST_ANSWERS, SECOND_ANSWERS))
    assert prefixes == [4, 1, 2, 3]


def test_compare_returns_shares_of_equal_answers_and_of_shared_tokens() -> None:
    # Two of four answers are equal, and 4 + 1 + 2 + 3 of 4 + 4 + 3 + 3 tokens are shared.
    expected = {"equal_share": 0.5, "prefix_share": 10 / 14}
    assert compare(FIRST_ANSWERS, SECOND_ANSWERS) == expected


def test_until_end_cuts_an_answer_after_its_end_token() -> None:
    assert until_end([4, 2, 5, 2], [2, 0]) == [4, 2]
    assert until_end([4, 5], [2, 0]) == [4, 5]


def test_gaps_compares_the_logits_where_two_answers_first_differ(tiny: Path) -> None:
    model = load_model(tiny, "float32")
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([[1, 50, 60, 70]]))
    logits = output.logits[0, -1]
    # The first answers differ in their third token, 80 or 90; the second answers are equal.
    prompts = [[1, 50], [1]]
    first = [[60, 70, 80], [5]]
    second = [[60, 70, 90], [5]]
    found = gaps(model, prompts, first, second)
    expected = float(logits[80] - logits[90])
    assert found == [pytest.approx(expected, abs=1e-5)]
    assert math.isfinite(found[0])


@pytest.mark.parametrize(
    ("end", "sentence", "fix"),
    [
        ("raise OSError(28, 'No space left on device')", "it has no room", "Make room on the disk"),
        ("raise MemoryError('std::bad_alloc')", "it ran out of memory", "End other programs"),
        ("os.kill(os.getpid(), 9)", "it ran out of memory", "End other programs"),
        ("raise ValueError('no such layer')", "auto-round could not write", "Use another base"),
    ],
    ids=["disk", "memory", "killed", "model"],
)
def test_a_failed_rounding_blames_the_machine_or_the_model(
    end: str, sentence: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "rounds.py"
    program.write_text(f"import os\n{end}\n", encoding="utf-8")
    monkeypatch.setattr(gguf_converters, "__file__", str(program))
    with pytest.raises(UserError) as raised:
        gguf_export.round_to(tmp_path, "q4_k_m", tmp_path / "q4_k_m.gguf")
    assert raised.value.what.startswith(sentence)
    assert f"\n{fix}" in str(raised.value)
