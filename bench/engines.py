"""Compare the greedy answers of llama.cpp and transformers token by token.

The bench also explains the differences. The merged model answers the questions of the generate
stage five times. transformers answers in float32 (one question at a time) and in bfloat16 (one at a
time, and in the batches of the stage), also on a CPU for which the stages choose float32; torch's
emulation is slow there. llama.cpp answers from the 16-bit file and from a 32-bit file. Its
attention, which is float16 by default, is float32 for the 32-bit file.

Where an answer leaves the float32 answer, its gap is the float32 logit of the float32 token minus
the float32 logit of the other token. A gap as small as rounding means that the tokens were tied.

    python -m bench.engines [--tokens 32]
"""

import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import openai
import torch
import typer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bench.summary import show
from bula.generation import batches_of_prompts, generate_greedy
from bula.gguf_export import export
from bula.hardware import seed_everything
from bula.models import end_token_ids, load_model, load_tokenizer
from bula.params import load_params
from bula.prompts import encode_prompt
from bula.records import read_validation_sets
from bula.serving import Endpoint, open_client, serve_llama_cpp

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = "transformers_float32"
# How much of the second engine's answers does the first engine repeat?
PAIRS = (
    ("llama_cpp_16_bit", "transformers_16_bit"),
    ("llama_cpp_16_bit", REFERENCE),
    ("llama_cpp_32_bit", REFERENCE),
    ("transformers_16_bit", REFERENCE),
    ("transformers_16_bit_batched", REFERENCE),
    ("transformers_16_bit_batched", "transformers_16_bit"),
)
GOAL = 0.95
# Token ids: one list per question, or per answer.
TokenLists = list[list[int]]
Figures = dict[str, float]


def shared_prefix(first: list[int], second: list[int]) -> int:
    """Return the number of equal tokens before the first difference."""
    shorter = min(len(first), len(second))
    for place in range(shorter):
        if first[place] != second[place]:
            return place
    return shorter


def compare(first: TokenLists, second: TokenLists) -> Figures:
    """Return how much of the second answers the first repeat.

    `equal_share` is the share of equal answers, `prefix_share` the share of the second's tokens
    before the first difference.
    """
    equal = 0
    prefixes = 0
    for mine, yours in zip(first, second, strict=True):
        equal += mine == yours
        prefixes += shared_prefix(mine, yours)
    tokens = sum(map(len, second))
    return {"equal_share": equal / len(second), "prefix_share": prefixes / tokens}


def by_transformers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: TokenLists,
    tokens: int,
    batch_size: int,
) -> TokenLists:
    """Return the greedy answers of transformers, batched as in generate."""
    answers: dict[int, list[int]] = {}
    for batch in batches_of_prompts(prompts, batch_size):
        asked = [prompts[index] for index in batch]
        generated = generate_greedy(model, tokenizer, asked, tokens)
        answers.update(zip(batch, generated, strict=True))
    return [answers[index] for index in range(len(prompts))]


def by_llama_cpp(
    file: Path,
    tokenizer: PreTrainedTokenizerBase,
    prompts: TokenLists,
    tokens: int,
    *,
    float32: bool = False,
) -> TokenLists:
    """Return the greedy answers of llama.cpp, one request at a time."""
    context_tokens = max(map(len, prompts)) + tokens
    with (
        serve_llama_cpp(file, 1, context_tokens, float32=float32) as [endpoint],
        open_client(endpoint) as client,
    ):
        return [complete(client, endpoint, tokenizer, prompt, tokens) for prompt in prompts]


def complete(
    client: openai.OpenAI,
    endpoint: Endpoint,
    tokenizer: PreTrainedTokenizerBase,
    prompt: list[int],
    tokens: int,
) -> list[int]:
    """Return the token ids of llama.cpp's answer to one prompt.

    The request has llama.cpp's own form, because OpenAI's form omits the ids of tokens that end
    within a character. The end of turn, which llama.cpp does not send, is appended.
    """
    url = endpoint.url.removesuffix("/v1") + "/completion"
    asked = {
        "prompt": prompt,
        "n_predict": tokens,
        "temperature": 0,
        "return_tokens": True,
    }
    reply: Any = client.post(url, cast_to=object, body=asked)
    ids = list(reply["tokens"])
    has_end = bool(ids) and ids[-1] in end_token_ids(tokenizer)
    if reply["stop_type"] != "limit" and not has_end:
        ids.append(tokenizer.eos_token_id)
    return ids


@torch.inference_mode()
def gaps(
    model: PreTrainedModel, prompts: TokenLists, exact: TokenLists, other: TokenLists
) -> list[float]:
    """Return the gap of each answer that differs from the exact one.

    `model` is the float32 model, and a gap is a difference of its logits at the first difference.
    """
    found = []
    for prompt, mine, yours in zip(prompts, exact, other, strict=True):
        if mine == yours:
            continue
        place = shared_prefix(mine, yours)
        ids = torch.tensor([prompt + mine[:place]]).to(model.device)
        logits = model(input_ids=ids).logits[0, -1]
        found.append(float(logits[mine[place]] - logits[yours[place]]))
    return found


def in_16_bit(merged: Path, exact: PreTrainedModel) -> PreTrainedModel:
    """Return the model that computes in bfloat16 on any machine."""
    half = load_model(merged, "bfloat16").to(torch.bfloat16)
    # The cast rounds the rotary frequencies, which are float32 in a model loaded in bfloat16.
    half.model.rotary_emb.inv_freq = exact.model.rotary_emb.inv_freq
    return half


def answer_all(
    merged: Path, file: Path, prompts: TokenLists, tokens: int
) -> tuple[dict[str, TokenLists], PreTrainedModel]:
    """Return the answers of each engine, and the float32 model."""
    tokenizer = load_tokenizer(merged)
    batch_size = load_params().generate.batch_size
    exact = load_model(merged, "float32")
    half = in_16_bit(merged, exact)
    answers = {
        "transformers_16_bit": by_transformers(half, tokenizer, prompts, tokens, 1),
        "transformers_16_bit_batched": by_transformers(
            half, tokenizer, prompts, tokens, batch_size
        ),
        REFERENCE: by_transformers(exact, tokenizer, prompts, tokens, 1),
        "llama_cpp_16_bit": by_llama_cpp(file, tokenizer, prompts, tokens),
    }
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "f32.gguf"
        export(merged, "f32", exported)
        answers["llama_cpp_32_bit"] = by_llama_cpp(
            exported, tokenizer, prompts, tokens, float32=True
        )
    return answers, exact


def summarise(
    prompts: TokenLists, answers: dict[str, TokenLists], exact: PreTrainedModel
) -> Figures:
    """Return the figures of each pair and the gaps of each engine."""
    figures: Figures = {
        "questions": len(prompts),
        "tokens": sum(map(len, answers[REFERENCE])),
    }
    for first, second in PAIRS:
        shares = compare(answers[first], answers[second])
        for name, value in shares.items():
            figures[f"{first}_as_{second}_{name}"] = value
    for name in sorted(set(answers) - {REFERENCE}):
        # Equal answers have no gap; the figure is then 0, beside an equal_share of 1.
        found = gaps(exact, prompts, answers[REFERENCE], answers[name]) or [0.0]
        figures[f"{name}_gap_median"] = statistics.median(found)
        figures[f"{name}_gap_largest"] = max(found)
    return figures


def main(
    merged: Annotated[Path, typer.Option(help="Merged model.")] = ROOT / "models/merged",
    file: Annotated[Path, typer.Option(help="Its 16-bit GGUF.")] = ROOT / "models/gguf/bf16.gguf",
    clean: Annotated[Path, typer.Option(help="Folder of validation/.")] = ROOT / "data/clean",
    tokens: Annotated[int, typer.Option(help="Compared tokens of an answer.")] = 32,
) -> None:
    """Answer with each engine, and compare."""
    params = load_params()
    tokenizer = load_tokenizer(merged)
    seed_everything(params.seed)
    sets = read_validation_sets(clean / "validation")
    count = params.generate.items_per_set
    examples = [example for items in sets.values() for example in items[:count]]
    prompts = [encode_prompt(tokenizer, item.question, item.history) for item in examples]
    answers, exact = answer_all(merged, file, prompts, tokens)
    report(summarise(prompts, answers, exact))


def report(figures: Figures) -> None:
    """Print the figures, and whether the engines agree.

    The goal is met if llama.cpp and transformers return equal answers in 16 bit, or if rounding
    explains the difference: the engines agree in 32 bit, and in 16 bit llama.cpp leaves float32 at
    nearer ties than transformers does.
    """
    limit = figures["transformers_16_bit_gap_largest"]
    goals = {
        "llama_cpp_16_bit_as_transformers_16_bit_equal_share": GOAL,
        "or_llama_cpp_32_bit_as_transformers_float32_equal_share": GOAL,
        "or_llama_cpp_16_bit_gap_at_most": limit,
    }
    equal = figures["llama_cpp_16_bit_as_transformers_16_bit_equal_share"] >= GOAL
    equal_in_32_bit = figures["llama_cpp_32_bit_as_transformers_float32_equal_share"] >= GOAL
    explained = equal_in_32_bit and figures["llama_cpp_16_bit_gap_largest"] <= limit
    shown = {**figures, "equal": equal, "explained": explained}
    show("engines", shown, goals, equal or explained)


if __name__ == "__main__":
    typer.run(main)
