"""Whether llama.cpp and transformers give the same greedy answers, and if not, why: the same questions, token by token.

The merged model answers the questions of the generate stage by transformers in float32 (one at a time), in bfloat16 (one at a
time, and in batches as the stage does it), and by llama.cpp from the 16-bit file and from a 32-bit one; with the latter attention
is in float32 too, which llama.cpp computes with float16 unless told otherwise. Bfloat16 also where the stage would take float32,
on a CPU without such products; torch's stand-in is slow there. Each is set against the others. Where an answer leaves that of
float32, the gap is the float32 logit of float32's own token less that of the other: if it is small beside what rounding moves,
the two tokens were as good as tied.

    python -m bench.engines [--tokens 32]
"""

import statistics
import tempfile
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bench.summary import show
from bula.hardware import seed_everything
from bula.models import end_token_ids, load_model, load_tokenizer
from bula.params import load_params
from bula.prompts import encode_prompt
from bula.records import read_validation_sets
from bula.serving import open_client, serve_llama_cpp
from stages.quantize import export

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = "transformers_float32"
# Who is set against whom: the first is asked how much of the second it repeats.
PAIRS = (
    ("llama_cpp_16_bit", "transformers_16_bit"),
    ("llama_cpp_16_bit", REFERENCE),
    ("llama_cpp_32_bit", REFERENCE),
    ("transformers_16_bit", REFERENCE),
    ("transformers_16_bit_batched", REFERENCE),
    ("transformers_16_bit_batched", "transformers_16_bit"),
)
GOAL = 0.95


def shared_prefix(first: list[int], second: list[int]) -> int:
    """Number of tokens before the first that differs, or that only one of the two has."""
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    )


def compare(first: list[list[int]], second: list[list[int]]) -> dict[str, float]:
    """Share of the questions with equal answers, and of the second's tokens that come before the first difference."""
    equal = sum(a == b for a, b in zip(first, second, strict=True))
    prefixes = sum(shared_prefix(a, b) for a, b in zip(first, second, strict=True))
    return {"equal_share": equal / len(second), "prefix_share": prefixes / sum(map(len, second))}


def until_end(ids: list[int], ends: list[int]) -> list[int]:
    """Generated ids up to and including the first that ends an answer."""
    return ids[: next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))]


@torch.inference_mode()
def by_transformers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    tokens: int,
    batch: int,
) -> list[list[int]]:
    """Greedy answers, `batch` questions of like length at once, padded on the left as in the generate stage."""
    ends, pad = end_token_ids(tokenizer), tokenizer.pad_token_id
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: dict[int, list[int]] = {}
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        longest = max(len(prompts[i]) for i in chosen)
        ids = torch.tensor([[pad] * (longest - len(prompts[i])) + prompts[i] for i in chosen]).to(
            model.device
        )
        mask = torch.tensor(
            [[0] * (longest - len(prompts[i])) + [1] * len(prompts[i]) for i in chosen]
        ).to(model.device)
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=tokens,
            eos_token_id=ends,
            pad_token_id=pad,
        )
        answers |= {
            i: until_end(row[longest:].tolist(), ends)
            for i, row in zip(chosen, output, strict=True)
        }
    return [answers[i] for i in range(len(prompts))]


def by_llama_cpp(
    file: Path,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    tokens: int,
    *,
    float32: bool = False,
) -> list[list[int]]:
    """Greedy answers by llama.cpp's server, one request at a time; the end of turn, which it does not send, is put back."""
    answers = []
    context = max(map(len, prompts)) + tokens
    with (
        serve_llama_cpp(file, 1, context, float32=float32) as [endpoint],
        open_client(endpoint) as client,
    ):
        for prompt in prompts:
            # llama.cpp's own form of the request: OpenAI's leaves out the ids of tokens that end within a character.
            asked = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "return_tokens": True}
            reply: Any = client.post(
                f"{endpoint.url.removesuffix('/v1')}/completion", cast_to=object, body=asked
            )
            ids = list(reply["tokens"])
            stopped = reply["stop_type"] != "limit" and not (
                ids and ids[-1] in end_token_ids(tokenizer)
            )
            answers.append(ids + [tokenizer.eos_token_id] * stopped)
    return answers


@torch.inference_mode()
def gaps(
    model: PreTrainedModel, prompts: list[list[int]], exact: list[list[int]], other: list[list[int]]
) -> list[float]:
    """For each answer that leaves the float32 one: by how much float32 prefers its own token there, in logits."""
    found = []
    for prompt, mine, yours in zip(prompts, exact, other, strict=True):
        if mine != yours:
            place = shared_prefix(mine, yours)
            logits = model(input_ids=torch.tensor([prompt + mine[:place]]).to(model.device)).logits[
                0, -1
            ]
            found.append(float(logits[mine[place]] - logits[yours[place]]))
    return found


def in_16_bit(merged: Path, exact: PreTrainedModel) -> PreTrainedModel:
    """The model computed in bfloat16, also on a CPU where the stages take float32 for it."""
    half = load_model(merged, "bfloat16").to(torch.bfloat16)
    # The cast rounds them; where the model is loaded in bfloat16 they are float32.
    half.model.rotary_emb.inv_freq = exact.model.rotary_emb.inv_freq
    return half


def answer_all(
    merged: Path, file: Path, prompts: list[list[int]], tokens: int
) -> tuple[dict[str, list[list[int]]], PreTrainedModel]:
    """Everybody's answers, and the float32 model, whose logits tell why they differ."""
    params, tokenizer = load_params(), load_tokenizer(merged)
    exact = load_model(merged, "float32")
    half = in_16_bit(merged, exact)
    answers = {
        "transformers_16_bit": by_transformers(half, tokenizer, prompts, tokens, 1),
        "transformers_16_bit_batched": by_transformers(
            half, tokenizer, prompts, tokens, params.generate.batch_size
        ),
        REFERENCE: by_transformers(exact, tokenizer, prompts, tokens, 1),
        "llama_cpp_16_bit": by_llama_cpp(file, tokenizer, prompts, tokens),
    }
    with tempfile.TemporaryDirectory() as folder:
        export(merged, "f32", Path(folder) / "f32.gguf")
        answers["llama_cpp_32_bit"] = by_llama_cpp(
            Path(folder) / "f32.gguf", tokenizer, prompts, tokens, float32=True
        )
    return answers, exact


def main(
    merged: Annotated[Path, typer.Option(help="Merged model.")] = ROOT / "models/merged",
    file: Annotated[Path, typer.Option(help="16-bit GGUF file of it.")] = ROOT
    / "models/gguf/bf16.gguf",
    clean: Annotated[Path, typer.Option(help="Folder of validation/.")] = ROOT / "data/clean",
    tokens: Annotated[int, typer.Option(help="Tokens of an answer that are compared.")] = 32,
) -> None:
    """Answer with each engine, and compare."""
    params, tokenizer = load_params(), load_tokenizer(merged)
    seed_everything(params.seed)
    examples = [
        e
        for items in read_validation_sets(clean / "validation").values()
        for e in items[: params.generate.items_per_set]
    ]
    prompts = [encode_prompt(tokenizer, example.question) for example in examples]
    answers, exact = answer_all(merged, file, prompts, tokens)
    figures: dict[str, float] = {
        "questions": len(prompts),
        "tokens": sum(map(len, answers[REFERENCE])),
    }
    for first, second in PAIRS:
        figures |= {
            f"{first}_as_{second}_{name}": value
            for name, value in compare(answers[first], answers[second]).items()
        }
    for name in sorted(set(answers) - {REFERENCE}):
        # An answer that is never left has no gap: 0 says so, beside an equal_share of 1.
        found = gaps(exact, prompts, answers[REFERENCE], answers[name]) or [0.0]
        figures |= {
            f"{name}_gap_median": statistics.median(found),
            f"{name}_gap_largest": max(found),
        }
    goals = {
        "llama_cpp_16_bit_as_transformers_16_bit_equal_share": GOAL,
        # Or else the difference is explained: without 16-bit rounding there is none, and with it llama.cpp leaves float32 at
        # nearer ties than transformers does.
        "or_llama_cpp_32_bit_as_transformers_float32_equal_share": GOAL,
        "or_llama_cpp_16_bit_gap_at_most": figures["transformers_16_bit_gap_largest"],
    }
    equal = figures["llama_cpp_16_bit_as_transformers_16_bit_equal_share"] >= GOAL
    explained = figures["llama_cpp_32_bit_as_transformers_float32_equal_share"] >= GOAL
    explained = (
        explained
        and figures["llama_cpp_16_bit_gap_largest"] <= figures["transformers_16_bit_gap_largest"]
    )
    show("engines", figures | {"equal": equal, "explained": explained}, goals, equal or explained)


if __name__ == "__main__":
    typer.run(main)
