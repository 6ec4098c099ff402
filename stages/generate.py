"""Answer validation questions under one variant, greedily, once; rouge, judge and the report read these answers.

A model directory is answered by transformers in batches of like length, a GGUF file by llama.cpp servers, each with one
request at a time. The prompt travels as token ids, so that every engine sees exactly what training saw.

    python -m stages.generate base models/base transformers
"""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import openai
import torch
import typer
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from bula.models import end_tokens, load_model, load_tokenizer, precisions, prepare
from bula.params import Generate, Params, load_params
from bula.privacy import KINDS, Finding, find, redact
from bula.prompts import encode_prompt, prompt_hash
from bula.records import Example, Row, validation_sets, write_rows
from bula.reports import peak_memory_gb, write_metrics
from bula.serving import Endpoint, connect_each, serve_llama_cpp, serve_vllm
from bula.stats import standard_error

# An answer is its text, why it ended (stop or length), and how many tokens it took, the end of turn included.
Answer = tuple[str, str, int]
Serve = Callable[[Path, int, int], AbstractContextManager[list[Endpoint]]]


def finish(tokenizer: PreTrainedTokenizerBase, ids: list[int], ends: list[int]) -> Answer:
    """Cut generated ids after the first token of `ends` and tell why they end."""
    end = next((place for place, token in enumerate(ids) if token in ends), None)
    ids = ids if end is None else ids[: end + 1]
    return tokenizer.decode(ids, skip_special_tokens=True).strip(), "length" if end is None else "stop", len(ids)


@torch.inference_mode()
def answer_locally(path: Path, dtype: str, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], params: Generate) -> list[Answer]:
    """Greedy answers by transformers, in batches of like prompt length, padded on the left."""
    model, ends = load_model(path, dtype), end_tokens(tokenizer)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: dict[int, Answer] = {}
    for start in tqdm(range(0, len(order), params.batch_size), desc="generate", unit="batch"):
        batch = order[start : start + params.batch_size]
        longest = max(len(prompts[i]) for i in batch)
        gaps = [longest - len(prompts[i]) for i in batch]
        ids = torch.tensor([[tokenizer.pad_token_id] * gap + prompts[i] for i, gap in zip(batch, gaps, strict=True)]).to(model.device)
        mask = torch.tensor([[0] * gap + [1] * (longest - gap) for gap in gaps]).to(model.device)
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=params.max_new_tokens,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
        )
        answers |= {i: finish(tokenizer, row[longest:].tolist(), ends) for i, row in zip(batch, output, strict=True)}
    return [answers[i] for i in range(len(prompts))]


def answer_by_server(path: Path, serve: Serve, prompts: list[list[int]], params: Generate) -> list[Answer]:
    """Greedy answers by OpenAI-compatible servers, at most `parallel` requests at once."""
    context = max(map(len, prompts)) + params.max_new_tokens
    with serve(path, params.parallel, context) as urls, connect_each(urls) as lend, ThreadPoolExecutor(params.parallel) as pool:

        def ask(prompt: list[int]) -> Answer:
            with lend() as client:
                reply = client.completions.create(model=path.name, prompt=prompt, max_tokens=params.max_new_tokens, temperature=0)
            choice, usage = reply.choices[0], reply.usage
            return choice.text.strip(), str(choice.finish_reason), usage.completion_tokens if usage else 0

        return list(tqdm(pool.map(ask, prompts), total=len(prompts), desc="generate", unit="answer"))


def answer(path: Path, engine: str, params: Params, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]) -> list[Answer]:
    """Answers by the engine that the variant names."""
    servers: dict[str, Serve] = {"llama.cpp": serve_llama_cpp, "vllm": serve_vllm}
    if engine in servers:
        return answer_by_server(path, servers[engine], prompts, params.generate)
    return answer_locally(path, params.dtype, tokenizer, prompts, params.generate)


def to_rows(variant: str, examples: list[Example], prompts: list[list[int]], answers: list[Answer]) -> list[Row]:
    """Answer rows: the example, and what the variant made of its question."""
    return [
        example.model_dump(exclude_none=True)
        | {"variant": variant, "prompt_hash": prompt_hash(prompt), "generated": text, "finish_reason": reason, "completion_tokens": tokens}
        for example, prompt, (text, reason, tokens) in zip(examples, prompts, answers, strict=True)
    ]


def redact_answers(variant: str, answers: list[Answer], found: list[list[Finding]], rule: str) -> list[Answer]:
    """Answers with placeholders in place of personal data; ValueError if there is any and the rule is to fail."""
    if rule == "fail" and any(found):
        kinds = sorted({finding.kind for findings in found for finding in findings})
        raise ValueError(f"answers of {variant} hold personal data ({', '.join(kinds)}), and privacy.answers is fail; nothing was written")
    return [(redact(text, findings), reason, tokens) for (text, reason, tokens), findings in zip(answers, found, strict=True)]


def settings(engine: str, dtype: str) -> dict[str, str]:
    """The engine and its precision; what serves a file has an arithmetic of its own."""
    own = dict.fromkeys(("dtype", "compute_dtype"), "the engine's own")
    return {"engine": engine, **(precisions(dtype) if engine == "transformers" else own)}


def summarise(answers: list[Answer], found: list[list[Finding]]) -> dict[str, int | float]:
    """How many answers ended by themselves, how many were cut, their length, and the personal data that they held, by kind."""
    reasons = Counter(reason for _, reason, _ in answers)
    kinds = Counter(finding.kind for findings in found for finding in findings)
    return {
        "items": len(answers),
        "finish_stop": reasons["stop"],
        "finish_length": reasons["length"],
        "empty": sum(not text for text, _, _ in answers),
        "personal_data_answers": sum(map(bool, found)),
        **{f"personal_data_{kind}": kinds[kind] for kind in KINDS},
        "completion_tokens_mean": sum(tokens for _, _, tokens in answers) / len(answers),
        "completion_tokens_stderr": standard_error([tokens for _, _, tokens in answers]),
    }


def main(
    variant: Annotated[str, typer.Argument(help="Name of the variant.")],
    model: Annotated[Path, typer.Argument(help="Its model directory or GGUF file.")],
    engine: Annotated[str, typer.Argument(help="transformers, llama.cpp or vllm.")],
    clean: Annotated[Path, typer.Option(help="Folder of validation/.")] = Path("data/clean"),
    out: Annotated[Path, typer.Option(help="Folder for answers.")] = Path("data/answers"),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics/generate"),
    speed: Annotated[Path, typer.Option(help="Folder for metrics that two runs cannot repeat.")] = Path("metrics/speed/generate"),
) -> None:
    """Answer the questions."""
    params = load_params()
    prepare(params.seed)
    try:
        examples = [e for items in validation_sets(clean / "validation").values() for e in items[: params.generate.items_per_set]]
        tokenizer = load_tokenizer(model)
        prompts = [encode_prompt(tokenizer, example.question) for example in examples]
        started = time.perf_counter()
        answers = answer(model, engine, params, tokenizer, prompts)
        seconds = time.perf_counter() - started
        found = [find(text) for text, _, _ in answers]
        answers = redact_answers(variant, answers, found, params.privacy.answers)
    except (ValueError, FileNotFoundError, openai.OpenAIError) as error:
        raise SystemExit(str(error)) from error
    write_rows(out / f"{variant}.jsonl", to_rows(variant, examples, prompts, answers))
    write_metrics(metrics / f"{variant}.json", {"settings": settings(engine, params.dtype), **summarise(answers, found)})
    rate = sum(tokens for _, _, tokens in answers) / seconds
    write_metrics(speed / f"{variant}.json", {"seconds": seconds, "tokens_per_second": rate, "peak_memory_gb": peak_memory_gb()})
    print(f"generate: {len(answers)} answers of {variant} at {rate:.0f} tokens/s in {out / variant}.jsonl")


if __name__ == "__main__":
    typer.run(main)
