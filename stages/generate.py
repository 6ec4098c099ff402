"""Answer the validation questions under one variant, greedily.

transformers answers for a model directory, in batches of prompts of similar length, or one vLLM
server on a GPU. llama.cpp servers answer for a GGUF file, each one request at a time. The prompt
travels as token ids, and with it vLLM's end tokens, so that every engine sees exactly the prompt of
training and stops at the same tokens. The stage counts degenerate answers. The stages rouge, judge
and compare read the answers.

    python -m stages.generate tuned
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import openai
import typer
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from bula.degeneration import is_degenerate, repeated_4gram_share
from bula.errors import UserError, run_stage
from bula.generation import batches_of_prompts, generate_greedy
from bula.hardware import precision_settings, prepare_device, seed_everything
from bula.models import end_token_ids, load_model, load_tokenizer
from bula.params import Generate, Params, load_params, variant_of
from bula.privacy import PERSONAL_DATA_KINDS, Finding, find_personal_data, redact
from bula.prompts import encode_prompt, prompt_hash
from bula.records import Example, Row, read_validation_sets, write_rows
from bula.reports import peak_memory_gb, write_metrics
from bula.serving import (
    Endpoint,
    Placement,
    VllmSettings,
    client_pool,
    serve_llama_cpp,
    serve_vllm,
)
from bula.stats import standard_error

RERUN = "check that the machine has free memory, and run the stage again"
# Starts servers for a model, a number of concurrent requests, and the tokens of the longest.
Serve = Callable[[Path, int, int], AbstractContextManager[list[Endpoint]]]
Figures = dict[str, int | float]
# Token ids, one list per prompt.
Prompts = list[list[int]]
# Personal data, one list per answer.
Findings = list[list[Finding]]


class Answer(NamedTuple):
    """One generated answer; its tokens include the end of turn.

    The finish reason is `stop` after an end token and `length` at the limit of new tokens.
    """

    text: str
    finish_reason: str
    completion_tokens: int


def answer_locally(
    path: Path,
    dtype: str,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Prompts,
    params: Generate,
) -> list[Answer]:
    """Return the greedy answers of transformers.

    The answers keep the order of the prompts, although the batches do not.
    """
    model = load_model(path, dtype)
    end_ids = end_token_ids(tokenizer)
    answers: dict[int, Answer] = {}
    batches = batches_of_prompts(prompts, params.batch_size)
    for batch in tqdm(batches, desc="generate", unit="batch"):
        asked = [prompts[index] for index in batch]
        generated = generate_greedy(model, tokenizer, asked, params.max_new_tokens)
        for index, ids in zip(batch, generated, strict=True):
            answers[index] = to_answer(tokenizer, ids, end_ids)
    return [answers[index] for index in range(len(prompts))]


def to_answer(tokenizer: PreTrainedTokenizerBase, ids: list[int], end_ids: list[int]) -> Answer:
    """Return the answer that consists of the generated ids."""
    text = tokenizer.decode(ids, skip_special_tokens=True)
    stopped = bool(ids) and ids[-1] in end_ids
    reason = "stop" if stopped else "length"
    return Answer(text.strip(), reason, len(ids))


def answer_by_server(
    path: Path,
    serve: Serve,
    prompts: Prompts,
    params: Generate,
    extra: dict[str, Any] | None = None,
) -> list[Answer]:
    """Return the greedy answers of OpenAI-compatible servers.

    At most `params.parallel` requests run at once. The context of a server has room for the longest
    prompt and a complete answer. `extra` are fields of a request that only some servers know.
    """
    longest = max(map(len, prompts))
    context_tokens = longest + params.max_new_tokens
    with (
        serve(path, params.parallel, context_tokens) as endpoints,
        client_pool(endpoints) as lend,
        ThreadPoolExecutor(params.parallel) as pool,
    ):

        def ask(prompt: list[int]) -> Answer:
            with lend() as client:
                return complete(client, path.name, prompt, params.max_new_tokens, extra)

        answers = pool.map(ask, prompts)
        return list(tqdm(answers, total=len(prompts), desc="generate", unit="answer"))


def complete(
    client: openai.OpenAI,
    model: str,
    prompt: list[int],
    max_tokens: int,
    extra: dict[str, Any] | None = None,
) -> Answer:
    """Return the greedy answer of a server to one prompt.

    Raise UserError if the request fails or its reply contains no answer.
    """
    where = f"the server of {model}"
    try:
        reply = client.completions.create(
            model=model,
            prompt=prompt,
            max_tokens=max_tokens,
            temperature=0,
            extra_body=extra,
        )
    except openai.APIConnectionError:
        # serve_llama_cpp and serve_vllm explain why their server is gone.
        raise
    except (openai.OpenAIError, json.JSONDecodeError) as error:
        # Only the type is shown, because the error's message may repeat the prompt.
        what = f"a request failed ({type(error).__name__})"
        raise UserError(where, what, RERUN) from error
    # The client does not validate the shape of a reply.
    choices = getattr(reply, "choices", None)
    if not choices or not isinstance(choices[0].text, str):
        raise UserError(where, "a reply contains no answer", RERUN)
    first = choices[0]
    return Answer(
        text=first.text.strip(),
        finish_reason=str(first.finish_reason),
        completion_tokens=reply.usage.completion_tokens if reply.usage else 0,
    )


def answer(
    path: Path,
    engine: str,
    params: Params,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Prompts,
) -> list[Answer]:
    """Return the answers of the variant's engine."""
    limits = params.generate
    if engine == "transformers":
        return answer_locally(path, params.dtype, tokenizer, prompts, limits)
    if engine == "vllm":
        # vLLM itself only knows the tokenizer's own end token.
        end_tokens = {"stop_token_ids": end_token_ids(tokenizer)}
        return answer_by_server(path, vllm_server(params), prompts, limits, end_tokens)
    placement = Placement(limits.gpu_layers, limits.gpu_servers)
    serve = partial(serve_llama_cpp, placement=placement)
    return answer_by_server(path, serve, prompts, limits)


def vllm_server(params: Params) -> Serve:
    """Return the function that starts vLLM for a model."""

    def serve(
        path: Path, parallel: int, context_tokens: int
    ) -> AbstractContextManager[list[Endpoint]]:
        settings = VllmSettings(
            parallel=parallel,
            context_tokens=context_tokens,
            dtype=params.dtype,
            seed=params.sampling_seed,
            gpu_memory_share=params.generate.gpu_memory_share,
            gpus=1,
        )
        return serve_vllm(path, settings)

    return serve


def redact_answers(variant: str, answers: list[Answer], found: Findings, rule: str) -> list[Answer]:
    """Return the answers with placeholders for personal data.

    `found` contains the personal data of each answer. `rule` is privacy.answers of params.yaml:
    redact or fail. Raise UserError if there is personal data and the rule is fail.
    """
    if rule == "fail" and any(found):
        kinds = sorted(count_kinds(found))
        fault = f"answers of {variant} contain personal data ({', '.join(kinds)})"
        what = f"{fault}, and privacy.answers is fail"
        fix = "nothing was written; set privacy.answers to redact, or use another model"
        raise UserError(f"generate@{variant}", what, fix)
    redacted = []
    for original, findings in zip(answers, found, strict=True):
        text = redact(original.text, findings)
        redacted.append(original._replace(text=text))
    return redacted


def count_kinds(found: Findings) -> Counter[str]:
    """Return the number of findings per kind of personal data."""
    kinds: Counter[str] = Counter()
    for findings in found:
        kinds.update(finding.kind for finding in findings)
    return kinds


def to_rows(
    variant: str,
    examples: list[Example],
    prompts: Prompts,
    answers: list[Answer],
    max_share: float,
) -> list[Row]:
    """Return one row per answer, with the example that it answers."""
    rows = []
    for example, prompt, given in zip(examples, prompts, answers, strict=True):
        row = example.model_dump(exclude_none=True)
        row["variant"] = variant
        row["prompt_hash"] = prompt_hash(prompt)
        row["generated"] = given.text
        row["finish_reason"] = given.finish_reason
        row["completion_tokens"] = given.completion_tokens
        row["repeated_4gram_share"] = repeated_4gram_share(given.text)
        row["degenerate"] = is_degenerate(given.text, max_share)
        rows.append(row)
    return rows


def summarise(rows: list[Row], found: Findings) -> Figures:
    """Return counts and means over the answer rows.

    `found` contains the personal data of each answer, before it was redacted. docs/metrics.md
    defines each figure.
    """
    reasons = Counter(row["finish_reason"] for row in rows)
    degenerate = sum(row["degenerate"] for row in rows)
    shares = [row["repeated_4gram_share"] for row in rows]
    tokens = [row["completion_tokens"] for row in rows]
    figures: Figures = {
        "items": len(rows),
        "finish_stop": reasons["stop"],
        "finish_length": reasons["length"],
        "empty": sum(not row["generated"] for row in rows),
        "degenerate": degenerate,
        "degenerate_share": degenerate / len(rows),
        "repeated_4gram_share": sum(shares) / len(rows),
        "repeated_4gram_share_stderr": standard_error(shares),
        "completion_tokens_mean": sum(tokens) / len(rows),
        "completion_tokens_stderr": standard_error(tokens),
        "personal_data_answers": sum(map(bool, found)),
    }
    kinds = count_kinds(found)
    for kind in PERSONAL_DATA_KINDS:
        figures[f"personal_data_{kind}"] = kinds[kind]
    return figures


def settings(engine: str, dtype: str, gpu_layers: int | str) -> dict[str, str]:
    """Return the engine, its precision and its layers on a GPU, for the metrics."""
    if engine == "transformers":
        return {"engine": engine, **precision_settings(dtype)}
    if engine == "vllm":
        return {"engine": engine, "dtype": dtype, "compute_dtype": dtype}
    # The file and llama.cpp's kernels determine the precision.
    own = "the engine's own"
    found = {"engine": engine, "dtype": own, "compute_dtype": own}
    if gpu_layers != 0:
        found["gpu_layers"] = str(gpu_layers)
    return found


def measure_speed(answers: list[Answer], seconds: float) -> Figures:
    """Return the speed figures, which differ between runs."""
    tokens = sum(given.completion_tokens for given in answers)
    return {
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_memory_gb": peak_memory_gb(),
    }


def read_questions(folder: Path, count: int) -> list[Example]:
    """Return the first `count` examples of each validation set.

    Raise UserError if an example appears in two sets.
    """
    sets = read_validation_sets(folder)
    examples = [example for items in sets.values() for example in items[:count]]
    ids = Counter(example.id for example in examples)
    twice = [name for name, times in ids.items() if times > 1]
    if twice:
        what = f"{len(twice)} questions appear more than once (first: {twice[0]})"
        raise UserError(folder, what, "run `dvc repro preprocess`")
    return examples


def describe_run(file: Path, figures: Figures, speeds: Figures) -> str:
    """Return the last line of the stage: the counts, the speed and the path."""
    count = f"{figures['items']} answers of {file.stem}"
    degenerate = f"{figures['degenerate']} of them degenerate"
    rate = f"{speeds['tokens_per_second']:.0f} tokens/s"
    return f"generate: {count}, {degenerate}, at {rate} in {file}"


def main(
    variant: Annotated[str, typer.Argument(help="Name of the variant.")],
    clean: Annotated[Path, typer.Option(help="Folder of validation/.")] = Path("data/clean"),
    out: Annotated[Path, typer.Option(help="Folder for answers.")] = Path("data/answers"),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics/generate"),
    speed: Annotated[Path, typer.Option(help="Folder for speed.")] = Path("metrics/speed/generate"),
) -> None:
    """Answer the questions."""
    params = load_params()
    prepare_device(params.device, params.dtype)
    chosen = variant_of(params, variant)
    limits = params.generate
    seed_everything(params.sampling_seed)
    examples = read_questions(clean / "validation", limits.items_per_set)
    model = Path(chosen.model)
    tokenizer = load_tokenizer(model)
    prompts = [encode_prompt(tokenizer, item.question, item.history) for item in examples]
    started = time.perf_counter()
    answers = answer(model, chosen.engine, params, tokenizer, prompts)
    speeds = measure_speed(answers, time.perf_counter() - started)
    found = [find_personal_data(given.text) for given in answers]
    answers = redact_answers(variant, answers, found, params.privacy.answers)
    rows = to_rows(variant, examples, prompts, answers, limits.max_repeated_share)
    figures = summarise(rows, found)
    write_rows(out / f"{variant}.jsonl", rows)
    engine = settings(chosen.engine, params.dtype, limits.gpu_layers)
    write_metrics(metrics / f"{variant}.json", {"settings": engine, **figures})
    write_metrics(speed / f"{variant}.json", speeds)
    print(describe_run(out / f"{variant}.jsonl", figures, speeds))


if __name__ == "__main__":
    run_stage(main, less_memory="lower generate.batch_size")
