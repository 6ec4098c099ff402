"""Merged weights, GGUF files and the engine that reads them: exact where they can be, and carrying what their users rely on."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import gguf
import pytest
import sentencepiece
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bench.clones import ROOT
from bench.engines import by_llama_cpp, compare, gaps, shared_prefix
from bula.divergence import divergence_metrics, score_examples
from bula.errors import UserError
from bula.files import sha256_file
from bula.generation import until_end
from bula.models import load_adapted, load_model, load_tokenizer, save_model
from bula.prompts import Encoded, encode_prompt
from bula.records import SET_NAMES, read_rows, write_rows
from bula.scoring import pad_batch, supervised_hidden, unwrap_adapter
from stages import merge
from stages.quantize import carries, describe, export

QUESTION = "Posso tomar dipirona com febre?"


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the two-layer model whose second matrix is no longer zero."""
    torch.manual_seed(1)
    model = get_peft_model(
        load_model(tiny, "float32"),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(path)
    return path


def few_words(folder: Path, template: str) -> PreTrainedTokenizerFast:
    """A tokenizer of 512 pieces, and the same as SentencePiece's tokenizer.model in `folder`, which the converter reads."""
    texts = [row["answer"] for row in read_rows(ROOT / "data/demo/dev.jsonl")]
    options: dict[str, Any] = {
        "vocab_size": 512,
        "model_type": "unigram",
        "byte_fallback": True,
        "eos_id": -1,
        "pad_id": 2,
        "minloglevel": 2,
    }
    options["user_defined_symbols"] = ["<|im_start|>", "<|im_end|>"]
    prefix = str(folder / "tokenizer")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=prefix, **options
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    vocabulary = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))]
    inner = Tokenizer(Unigram(vocabulary, unk_id=0, byte_fallback=True))
    named = {
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
    }
    return PreTrainedTokenizerFast(tokenizer_object=inner, chat_template=template, **named)


@pytest.fixture(scope="module")
def wide(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers, as wide as Llama 3.2 1B, with heads as wide but half as many; its files twice.

    Few tokens and a narrow MLP: auto-round takes a minute for SmolLM2's 49,152 tokens at this width.
    """
    folder = tmp_path_factory.mktemp("wide")
    tokenizer = few_words(folder, load_tokenizer(tiny).chat_template)
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
    save_model(LlamaForCausalLM(config).to(torch.bfloat16), tokenizer, folder / "wide")
    shutil.copy(folder / "tokenizer.model", folder / "wide")
    return export_twice(folder / "wide", ["bf16", "q4_k_m"])


@pytest.fixture(scope="module")
def narrow(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two-layer model, 256 wide, with SmolLM2's tokenizer; its files twice."""
    path = tmp_path_factory.mktemp("narrow") / "narrow"
    shutil.copytree(tiny, path)
    return export_twice(path, ["bf16", "q8_0"])


def export_twice(model: Path, kinds: list[str]) -> Path:
    """Write each kind to gguf/ and once more to again/ beside the model."""
    for name in ("gguf", "again"):
        (model.parent / name).mkdir()
        for kind in kinds:
            export(model, kind, model.parent / name / f"{kind}.gguf")
    return model


FILES = [("narrow", "bf16"), ("narrow", "q8_0"), ("wide", "bf16"), ("wide", "q4_k_m")]


@pytest.mark.parametrize(("which", "kind"), FILES)
def test_a_file_is_the_same_to_the_last_bit_when_it_is_written_again(
    which: str, kind: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(which).parent
    assert sha256_file(folder / f"gguf/{kind}.gguf") == sha256_file(folder / f"again/{kind}.gguf")


@pytest.mark.parametrize(("which", "kind"), FILES)
def test_a_file_loads_in_llama_cpp_answers_and_carries_template_and_end(
    which: str, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Beside another worker, two threads of llama.cpp wait for each other longer than one works.
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})
    model: Path = request.getfixturevalue(which)
    tokenizer, file = load_tokenizer(model), model.parent / f"gguf/{kind}.gguf"
    fields = gguf.GGUFReader(file).fields
    assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.convert_tokens_to_ids(
        "<|im_end|>"
    )
    (answer,) = by_llama_cpp(file, tokenizer, [encode_prompt(tokenizer, QUESTION)], 4)
    assert len(answer) == 4 or answer[-1] == tokenizer.eos_token_id
    # The first token is the likeliest by the model's own weights, or as good as; most are several logits behind.
    (first,) = score_examples(
        load_model(model, "float32"),
        [Encoded(prompt=encode_prompt(tokenizer, QUESTION), completion=answer[:1])],
        0,
    )
    assert first[0].max() - first[0][0, answer[0]] < 0.5
    assert first[0].max() - first[0].median() > 2


def test_a_file_without_template_or_with_another_end_of_turn_is_refused(
    tiny: Path, wide: Path, tmp_path: Path
) -> None:
    carries(wide.parent / "gguf/q4_k_m.gguf", load_tokenizer(wide))
    tokenizer = load_tokenizer(tiny)
    for name, template, end in (
        ("none", None, tokenizer.eos_token_id),
        ("other", tokenizer.chat_template, tokenizer.eos_token_id + 1),
    ):
        writer = gguf.GGUFWriter(tmp_path / f"{name}.gguf", "llama")
        writer.add_eos_token_id(end)
        if template:
            writer.add_chat_template(template)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
    with pytest.raises(UserError, match=r"none\.gguf: it has no tokenizer\.chat_template"):
        carries(tmp_path / "none.gguf", tokenizer)
    with pytest.raises(UserError, match=r"other\.gguf: it has no tokenizer\.ggml\.eos_token_id"):
        carries(tmp_path / "other.gguf", tokenizer)


def test_a_width_of_2048_is_stored_in_k_types_and_costs_little(wide: Path) -> None:
    figures = describe(wide.parent / "gguf/q4_k_m.gguf")
    # llama.cpp's mix: of 14 matrices the last block's value and down projections are Q6_K, and the embedding, which is the head too.
    assert {name: count for name, count in figures.items() if name != "bytes"} == {
        "tensors_f32": 5,
        "tensors_q4_k": 12,
        "tensors_q6_k": 3,
    }
    torch.manual_seed(2)
    encoded = [
        Encoded(
            prompt=torch.randint(6, 512, (8,)).tolist(),
            completion=torch.randint(6, 512, (56,)).tolist(),
        )
        for _ in range(4)
    ]
    reference, found = (
        list(score_examples(load_model(wide.parent / f"gguf/{kind}.gguf", "float32"), encoded, 2))
        for kind in ("bf16", "q4_k_m")
    )
    cost = divergence_metrics(reference, found)
    assert cost["tokens"] == 4 * 56
    assert 0 < cost["kl_nats"] < 0.02
    # Another model of the same shape would be two independent draws apart.
    shuffled = [(a[:, torch.randperm(512)], targets) for a, targets in reference]
    assert divergence_metrics(reference, shuffled)["kl_nats"] > 20 * cost["kl_nats"]


def test_the_relative_difference_is_that_of_the_largest_logit_by_hand() -> None:
    targets = torch.tensor([0])
    figures = divergence_metrics(
        [(torch.tensor([[1.0, -8.0]]), targets)], [(torch.tensor([[1.5, -7.75]]), targets)]
    )
    # 0.5 of a largest logit of 8, whatever its sign.
    assert (figures["logit_difference_largest"], figures["logit_difference_relative"]) == (
        0.5,
        0.0625,
    )


def test_the_difference_of_merged_weights_by_hand() -> None:
    base = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    a, b = torch.tensor([[0.5, -1.0]]), torch.tensor([[1.0], [2.0]])
    layer = torch.nn.Linear(2, 2, bias=False)
    # base + 2 * B @ A = [[1 + 1, 2 - 2], [3 + 2, 4 - 4]], but for 0.25 in one place.
    layer.weight.data = torch.tensor([[2.0, 0.0], [5.25, 0.0]])
    holder: Any = torch.nn.ModuleDict({"q": layer})
    assert merge.weight_difference({"q.weight": (base, a, b, 2.0)}, holder) == 0.25


def test_merged_weights_are_base_plus_adapter_and_the_logits_differ_by_rounding_alone(
    tiny: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    # Llama's norm rounds to float32 whatever comes in, which would hide how small the difference is.
    def norm(self: Any, x: torch.Tensor) -> torch.Tensor:
        mean = x.square().mean(-1, keepdim=True)
        scaled: torch.Tensor = self.weight * x * torch.rsqrt(mean + self.variance_epsilon)
        return scaled

    monkeypatch.setattr(LlamaRMSNorm, "forward", norm)
    torch.manual_seed(3)
    encoded = Encoded(prompt=[1], completion=torch.randint(20, 40_000, (64,)).tolist())

    @torch.inference_mode()
    def logits(model: Any) -> torch.Tensor:
        hidden, _ = supervised_hidden(model, pad_batch([encoded], 0))
        head: torch.Tensor = unwrap_adapter(model).get_output_embeddings()(hidden)
        return head

    exact = logits(load_adapted(tiny, adapter, "float32").double())
    plain = logits(load_model(tiny, "float32").double())
    in_double = load_adapted(tiny, adapter, "float32").double().merge_and_unload(safe_merge=True)
    model = load_adapted(tiny, adapter, "float32")
    terms = merge.adapted(model)
    merged = model.merge_and_unload(safe_merge=True)
    # Seven linear layers in each of two blocks.
    assert len(terms) == 14
    assert 0 < merge.weight_difference(terms, merged) < 1e-6
    # The untouched base is far off, so that the check above can fail.
    assert merge.weight_difference(terms, load_model(tiny, "float32")) > 0.01
    assert (logits(in_double) - exact).abs().max() < 1e-11
    assert (logits(merged.double()) - exact).abs().max() < 1e-5
    assert (plain - exact).abs().max() > 1


def test_merge_writes_what_it_checked_and_refuses_a_wrong_merge(
    workspace: Path, tiny: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    figures = json.loads((workspace / "metrics/merge.json").read_text(encoding="utf-8"))
    assert figures["weights"]["matrices"] == 14
    assert 0 < figures["weights"]["difference_largest"] < 1e-6
    assert 0 < figures["before_cast"]["logit_difference_relative"] < 1e-5
    before = sha256_file(workspace / "models/merged/model.safetensors")
    monkeypatch.setattr(merge, "load_adapted", lambda *arguments: doubled(load_adapted(*arguments)))
    with pytest.raises(UserError, match=r"differs from base \+ adapter by"):
        merge.main(base=tiny, adapter=adapter)
    assert sha256_file(workspace / "models/merged/model.safetensors") == before


def doubled(model: Any) -> Any:
    """A model whose merge forgets to scale one matrix right."""
    layer = unwrap_adapter(model).model.layers[0].mlp.down_proj
    wrong = layer.get_delta_weight
    layer.get_delta_weight = lambda name: wrong(name) * 2
    return model


def test_answers_are_compared_token_by_token_by_hand() -> None:
    first = [[1, 2, 3, 4], [1, 9, 3, 4], [5, 6], [7, 8, 2]]
    second = [[1, 2, 3, 4], [1, 2, 3, 4], [5, 6, 2], [7, 8, 2]]
    assert [shared_prefix(a, b) for a, b in zip(first, second, strict=True)] == [4, 1, 2, 3]
    # Two of four are equal; 4 + 1 + 2 + 3 of the second's 4 + 4 + 3 + 3 tokens come before a difference.
    assert compare(first, second) == {"equal_share": 0.5, "prefix_share": 10 / 14}
    assert until_end([4, 2, 5, 2], [2, 0]) == [4, 2]
    assert until_end([4, 5], [2, 0]) == [4, 5]


def test_the_gap_is_read_where_answers_part(tiny: Path) -> None:
    model = load_model(tiny, "float32")
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[1, 50, 60, 70]])).logits[0, -1]
    # The prompt 1, 50; both go on with 60, 70; then 80 against 90. The second question is answered alike.
    found = gaps(model, [[1, 50], [1]], [[60, 70, 80], [5]], [[60, 70, 90], [5]])
    assert found == [pytest.approx(float(logits[80] - logits[90]), abs=1e-5)]
    assert math.isfinite(found[0])
