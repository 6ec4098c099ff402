"""Answer validation questions under one variant, greedily; rouge, judge and the report read them.

transformers answers for a model directory, in batches of like length, and llama.cpp servers for a
GGUF file, each with one request at a time. The prompt travels as token ids, so that every engine sees
exactly what training saw. Degenerate answers are counted.

    python -m stages.generate tuned
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import openai
import typer
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from bula.degeneration import is_degenerate, repeated_4gram_share
from bula.errors import UserError, run_stage
from bula.generation import generate_greedy
from bula.hardware import precision_settings, seed_everything
from bula.models import end_token_ids, load_model, load_tokenizer
from bula.params import Generate, Params, load_params, variant_of
from bula.privacy import PERSONAL_DATA_KINDS, Finding, find_personal_data, redact
from bula.prompts import encode_prompt, prompt_hash
from bula.records import Example, Row, read_validation_sets, write_rows
from bula.reports import peak_memory_gb, write_metrics
from bula.serving import Endpoint, client_pool, serve_llama_cpp, serve_vllm
from bula.stats import standard_error

# An answer is its text, why it ended (stop or length), and how many tokens it took, the end of turn included.
Answer = tuple[str, str, int]
Serve = Callable[[Path, int, int], AbstractContextManager[list[Endpoint]]]


def finish(tokenizer: PreTrainedTokenizerBase, ids: list[int], ends: list[int]) -> Answer:
    """Return an answer from its generated ids."""
    text = tokenizer.decode(ids, skip_special_tokens=True).strip()
    return text, "stop" if ids and ids[-1] in ends else "length", len(ids)


def answer_locally(
    path: Path,
    dtype: str,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    params: Generate,
) -> list[Answer]:
    """Return greedy answers by transformers, in batches of like prompt length, padded on the left."""
    model, ends = load_model(path, dtype), end_token_ids(tokenizer)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: dict[int, Answer] = {}
    for start in tqdm(range(0, len(order), params.batch_size), desc="generate", unit="batch"):
        batch = order[start : start + params.batch_size]
        generated = generate_greedy(
            model, tokenizer, [prompts[i] for i in batch], params.max_new_tokens
        )
        for i, ids in zip(batch, generated, strict=True):
            answers[i] = finish(tokenizer, ids, ends)
    return [answers[i] for i in range(len(prompts))]


def complete(client: openai.OpenAI, model: str, prompt: list[int], max_tokens: int) -> Answer:
    """Return the greedy answer of a server; UserError if the request fails or brings no answer."""
    fix = "run the stage again, and see that the machine has memory left"
    try:
        reply = client.completions.create(
            model=model, prompt=prompt, max_tokens=max_tokens, temperature=0
        )
    except openai.APIConnectionError:
        # serve_llama_cpp and serve_vllm say what became of their server.
        raise
    except (openai.OpenAIError, json.JSONDecodeError) as error:
        # The error's own words may repeat the prompt.
        what = f"a request failed ({type(error).__name__})"
        raise UserError(f"the server of {model}", what, fix) from error
    # The client makes no check of a reply that has another shape.
    choices = getattr(reply, "choices", None)
    if not choices or not isinstance(choices[0].text, str):
        raise UserError(f"the server of {model}", "a reply has no answer in it", fix)
    tokens = reply.usage.completion_tokens if reply.usage else 0
    return choices[0].text.strip(), str(choices[0].finish_reason), tokens


def answer_by_server(
    path: Path, serve: Serve, prompts: list[list[int]], params: Generate
) -> list[Answer]:
    """Return greedy answers by OpenAI-compatible servers, at most `parallel` requests at once."""
    context = max(map(len, prompts)) + params.max_new_tokens
    with (
        serve(path, params.parallel, context) as urls,
        client_pool(urls) as lend,
        ThreadPoolExecutor(params.parallel) as pool,
    ):

        def ask(prompt: list[int]) -> Answer:
            with lend() as client:
                return complete(client, path.name, prompt, params.max_new_tokens)

        return list(
            tqdm(pool.map(ask, prompts), total=len(prompts), desc="generate", unit="answer")
        )


def answer(
    path: Path,
    engine: str,
    params: Params,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
) -> list[Answer]:
    """Return answers by the engine that the variant names."""
    servers: dict[str, Serve] = {"llama.cpp": serve_llama_cpp, "vllm": serve_vllm}
    if engine in servers:
        return answer_by_server(path, servers[engine], prompts, params.generate)
    return answer_locally(path, params.dtype, tokenizer, prompts, params.generate)


def to_rows(
    variant: str,
    examples: list[Example],
    prompts: list[list[int]],
    answers: list[Answer],
    max_share: float,
) -> list[Row]:
    """Return answer rows: the example, and what the variant made of its question."""
    rows = []
    for example, prompt, (text, reason, tokens) in zip(examples, prompts, answers, strict=True):
        made = {
            "variant": variant,
            "prompt_hash": prompt_hash(prompt),
            "generated": text,
            "finish_reason": reason,
            "completion_tokens": tokens,
            "repeated_4gram_share": repeated_4gram_share(text),
            "degenerate": is_degenerate(text, max_share),
        }
        rows.append(example.model_dump(exclude_none=True) | made)
    return rows


def redact_answers(
    variant: str, answers: list[Answer], found: list[list[Finding]], rule: str
) -> list[Answer]:
    """Return answers with placeholders in place of personal data; UserError if the rule is to fail."""
    if rule == "fail" and any(found):
        kinds = sorted({finding.kind for findings in found for finding in findings})
        held = f"answers of {variant} hold personal data ({', '.join(kinds)})"
        what = f"{held}, and privacy.answers is fail"
        raise UserError(
            f"generate@{variant}",
            what,
            "nothing was written; set privacy.answers to redact, or use another model",
        )
    return [
        (redact(text, findings), reason, tokens)
        for (text, reason, tokens), findings in zip(answers, found, strict=True)
    ]


def settings(engine: str, dtype: str) -> dict[str, str]:
    """Return the engine and its precision; a server has an arithmetic of its own."""
    own = dict.fromkeys(("dtype", "compute_dtype"), "the engine's own")
    return {"engine": engine, **(precision_settings(dtype) if engine == "transformers" else own)}


def summarise(
    answers: list[Answer], found: list[list[Finding]], max_share: float
) -> dict[str, int | float]:
    """Return how answers ended, their length, and how many are degenerate or held personal data."""
    reasons = Counter(reason for _, reason, _ in answers)
    kinds = Counter(finding.kind for findings in found for finding in findings)
    degenerate = sum(is_degenerate(text, max_share) for text, _, _ in answers)
    shares = [repeated_4gram_share(text) for text, _, _ in answers]
    return {
        "items": len(answers),
        "finish_stop": reasons["stop"],
        "finish_length": reasons["length"],
        "empty": sum(not text for text, _, _ in answers),
        "degenerate": degenerate,
        "degenerate_share": degenerate / len(answers),
        "repeated_4gram_share": sum(shares) / len(shares),
        "repeated_4gram_share_stderr": standard_error(shares),
        "personal_data_answers": sum(map(bool, found)),
        **{f"personal_data_{kind}": kinds[kind] for kind in PERSONAL_DATA_KINDS},
        "completion_tokens_mean": sum(tokens for _, _, tokens in answers) / len(answers),
        "completion_tokens_stderr": standard_error([tokens for _, _, tokens in answers]),
    }


def read_questions(folder: Path, count: int) -> list[Example]:
    """Return the first `count` questions of each validation set; UserError if one stands there twice."""
    examples = [
        example for items in read_validation_sets(folder).values() for example in items[:count]
    ]
    counts = Counter(example.id for example in examples)
    twice = [item for item, times in counts.items() if times > 1]
    if twice:
        raise UserError(
            folder,
            f"{len(twice)} questions stand there twice (first: {twice[0]})",
            "run `dvc repro preprocess`",
        )
    return examples


def main(
    variant: Annotated[str, typer.Argument(help="Name of the variant.")],
    clean: Annotated[Path, typer.Option(help="Folder of validation/.")] = Path("data/clean"),
    out: Annotated[Path, typer.Option(help="Folder for answers.")] = Path("data/answers"),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics/generate"),
    speed: Annotated[
        Path, typer.Option(help="Folder for metrics that two runs cannot repeat.")
    ] = Path("metrics/speed/generate"),
) -> None:
    """Answer the questions."""
    params = load_params()
    chosen, limit = variant_of(params, variant), params.generate.max_repeated_share
    seed_everything(params.sampling_seed)
    examples = read_questions(clean / "validation", params.generate.items_per_set)
    model = Path(chosen.model)
    tokenizer = load_tokenizer(model)
    prompts = [encode_prompt(tokenizer, example.question) for example in examples]
    started = time.perf_counter()
    answers = answer(model, chosen.engine, params, tokenizer, prompts)
    seconds = time.perf_counter() - started
    found = [find_personal_data(text) for text, _, _ in answers]
    answers = redact_answers(variant, answers, found, params.privacy.answers)
    figures = summarise(answers, found, limit)
    write_rows(out / f"{variant}.jsonl", to_rows(variant, examples, prompts, answers, limit))
    write_metrics(
        metrics / f"{variant}.json", {"settings": settings(chosen.engine, params.dtype), **figures}
    )
    rate = sum(tokens for _, _, tokens in answers) / seconds
    write_metrics(
        speed / f"{variant}.json",
        {"seconds": seconds, "tokens_per_second": rate, "peak_memory_gb": peak_memory_gb()},
    )
    loops = f"{figures['degenerate']} of them degenerate"
    print(
        f"generate: {len(answers)} answers of {variant}, {loops}, at {rate:.0f} tokens/s in {out / variant}.jsonl"
    )


if __name__ == "__main__":
    run_stage(main)
