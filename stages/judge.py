"""Let an LLM judge the answers of one variant: medical accuracy and style, 1 to 3 each, with a written reason.

A call that fails is counted and never scored. Verdicts are kept in .bula/ledger.jsonl as they arrive, so that a killed
run pays for nothing twice.

    python -m stages.judge base
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Annotated, Literal

import openai
import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from tqdm import tqdm

from bula.params import Judge, Params, load_params
from bula.privacy import find, redact
from bula.records import Row, append_row, read_rows, sha256_file, sha256_values, write_rows
from bula.reports import write_metrics, write_plot
from bula.serving import Lend, connect_each, serve_llama_cpp
from bula.stats import standard_error

LEDGER = Path(".bula/ledger.jsonl")
LEDGER_LOCK = Lock()
# Rubric, question, reference and answer of 110 words each, and the verdict, in tokens of an English vocabulary.
CONTEXT_TOKENS = 2048
RUBRIC = """Você avalia respostas a perguntas de saúde escritas para pessoas leigas no Brasil.
Compare a resposta com a referência e dê duas notas inteiras, de 1 a 3.

Exatidão (accuracy):
3 = tudo o que a resposta afirma está correto e nada de importante falta;
2 = há uma imprecisão ou omissão que não põe a pessoa em risco;
1 = há um erro que pode causar dano, ou a resposta não responde à pergunta.

Estilo (style):
3 = linguagem simples, acolhedora e clara;
2 = um deslize, como um termo técnico sem explicação ou um tom um pouco frio;
1 = linguagem técnica, confusa, assustadora ou que repreende a pessoa.

Escreva primeiro a razão (reason), em uma ou duas frases curtas, e depois as notas."""


class Verdict(BaseModel):
    """What the judge must return; the JSON schema sent with every call is made from this class."""

    model_config = ConfigDict(extra="forbid")

    reason: str
    accuracy: Literal[1, 2, 3]
    style: Literal[1, 2, 3]


def verdict_type(settings: Judge) -> type[Verdict]:
    """The schema's type: for a local judge with the longest reason allowed, since a weak one writes until its tokens run out.

    OpenAI refuses a schema with maxLength; its judge keeps the reason short because the rubric says so.
    """
    if settings.base_url != "local":
        return Verdict
    return create_model("Verdict", __base__=Verdict, reason=(str, Field(max_length=settings.reason_characters)))


def to_messages(row: Row) -> list[dict[str, str]]:
    """The judge's prompt for one answer. A row has question, reference and the answer to judge."""
    content = f"Pergunta:\n{row['question']}\n\nReferência:\n{row['reference']}\n\nResposta a avaliar:\n{row['answer']}"
    return [{"role": "system", "content": RUBRIC}, {"role": "user", "content": content}]


def ask(client: openai.OpenAI, settings: Judge, messages: list[dict[str, str]]) -> Verdict | str:
    """One verdict, or the name of what failed; ConnectionError if no further call can succeed either."""
    try:
        reply = client.chat.completions.parse(
            model=settings.model,
            messages=messages,  # type: ignore[arg-type]
            response_format=verdict_type(settings),
            max_tokens=settings.max_tokens,
            temperature=0,
            seed=0,
        )
    except openai.APITimeoutError as error:
        return type(error).__name__
    except (openai.APIConnectionError, openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
        raise ConnectionError(str(error)) from error
    except (openai.OpenAIError, ValidationError) as error:
        return type(error).__name__
    return reply.choices[0].message.parsed or "Refusal"


def read_ledger(path: Path) -> dict[str, Verdict]:
    """Verdicts already paid for, by their key; a last line that a full disk cut short is dropped."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    return {row["key"]: Verdict.model_validate(row["verdict"]) for row in read_rows(path)}


def ledger_key(identity: str, messages: list[dict[str, str]], settings: Judge) -> str:
    """Hash of everything that shapes a verdict: the judge, its settings, the prompt and the schema."""
    return sha256_values(identity, settings.model, settings.max_tokens, messages, verdict_type(settings).model_json_schema())


def append_verdict(path: Path, key: str, judge: str, verdict: Verdict) -> None:
    """Remember a verdict as soon as it is there; several calls may end at once."""
    with LEDGER_LOCK:
        append_row(path, {"key": key, "judge": judge, "verdict": verdict.model_dump()})


@contextmanager
def judge_clients(params: Params, folder: Path) -> Iterator[tuple[Lend, str]]:
    """Clients to be lent, and what identifies the judge: the model file's hash, or the URL."""
    settings = params.judge
    if settings.base_url != "local":
        key = os.environ.get("OPENAI_API_KEY")
        if not key:
            raise ConnectionError("the environment variable OPENAI_API_KEY is not set")
        with connect_each([settings.base_url] * settings.parallel, settings.timeout_seconds, settings.retries, key) as lend:
            yield lend, settings.base_url
        return
    file = folder / "judge.gguf"
    with serve_llama_cpp(file, settings.parallel, CONTEXT_TOKENS) as urls, connect_each(urls, settings.timeout_seconds) as lend:
        yield lend, sha256_file(file)


def judge_rows(rows: list[Row], params: Params, folder: Path, ledger: Path = LEDGER) -> list[Row]:
    """One verdict row for each row (id, split, question, reference, answer): the scores, or `failed` with the reason."""
    with judge_clients(params, folder) as (lend, identity), ThreadPoolExecutor(params.judge.parallel) as pool:
        known = read_ledger(ledger)
        keys = [ledger_key(identity, to_messages(row), params.judge) for row in rows]
        # Rows that are alike are asked once.
        different = dict(zip(keys, rows, strict=True))

        def judge(key: str) -> Verdict | str:
            if key in known:
                return known[key]
            with lend() as client:
                verdict = ask(client, params.judge, to_messages(different[key]))
            if isinstance(verdict, Verdict):
                append_verdict(ledger, key, params.judge.model, verdict)
            return verdict

        verdicts = tqdm(pool.map(judge, different), total=len(different), desc="judge", unit="verdict")
        found = dict(zip(different, verdicts, strict=True))
    return [verdict_row(row, found[key], params.judge.model) for key, row in zip(keys, rows, strict=True)]


def verdict_row(row: Row, verdict: Verdict | str, judge: str) -> Row:
    """What is written of one verdict, or of the call that failed."""
    result = verdict.model_dump() if isinstance(verdict, Verdict) else {"failed": verdict}
    if isinstance(verdict, Verdict):
        # The answer was redacted; what a model writes about it may still look like somebody's number.
        result["reason"] = redact(verdict.reason, find(verdict.reason))
    return {"id": row["id"], "split": row["split"], "judge": judge} | result


def summarise(verdicts: list[Row], settings: Judge) -> dict[str, int | float | str | bool]:
    """Mean, standard error and shares of each score, over the calls that succeeded; who judged, and whether to believe it."""
    good = [row for row in verdicts if "failed" not in row]
    metrics: dict[str, int | float | str | bool] = {"judge": settings.model, "trustworthy": settings.trustworthy}
    metrics |= {"items": len(verdicts), "scored": len(good), "failed": len(verdicts) - len(good)}
    for part in ("accuracy", "style"):
        scores = [row[part] for row in good]
        metrics |= {f"{part}_mean": sum(scores) / len(scores), f"{part}_stderr": standard_error(scores)}
        metrics |= {f"{part}_{score}_share": scores.count(score) / len(scores) for score in (1, 2, 3)}
    return metrics


def verdicts_or_exit(rows: list[Row], params: Params, folder: Path) -> list[Row]:
    """judge_rows, ending the program with a sentence if the judge cannot be used or never gave a verdict."""
    try:
        verdicts = judge_rows(rows, params, folder)
    except (ConnectionError, ValueError) as error:
        raise SystemExit(f"the judge {params.judge.model} at {params.judge.base_url} cannot be used: {error}") from error
    if all("failed" in row for row in verdicts):
        raise SystemExit(
            f"all {len(verdicts)} calls to the judge {params.judge.model} failed ({verdicts[0]['failed']}); nothing was scored"
        )
    return verdicts


def main(
    variant: Annotated[str, typer.Argument(help="Name of the variant.")],
    answers: Annotated[Path, typer.Option(help="Folder of answers.")] = Path("data/answers"),
    judge: Annotated[Path, typer.Option(help="Folder of a local judge.")] = Path("models/judge"),
    out: Annotated[Path, typer.Option(help="Folder for verdicts.")] = Path("data/verdicts"),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics/judge"),
    plots: Annotated[Path, typer.Option(help="Folder for plots.")] = Path("plots/judge"),
) -> None:
    """Judge the answers of one variant."""
    params = load_params()
    try:
        rows = list(read_rows(answers / f"{variant}.jsonl"))
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    chosen = [row for name in "ABCDE" for row in [r for r in rows if r["split"] == name][: params.judge.items_per_set]]
    to_judge = [{**row, "reference": row["answer"], "answer": row["generated"]} for row in chosen]
    verdicts = verdicts_or_exit(to_judge, params, judge)
    write_rows(out / f"{variant}.jsonl", verdicts)
    figures = summarise(verdicts, params.judge)
    write_metrics(metrics / f"{variant}.json", figures)
    shares = [
        {"group": part, "score": score, "share": figures[f"{part}_{score}_share"]} for part in ("accuracy", "style") for score in (1, 2, 3)
    ]
    write_plot(plots / f"{variant}.json", shares)
    print(f"judge: {figures['scored']} verdicts on {variant}, {figures['failed']} calls failed, in {out / variant}.jsonl")


if __name__ == "__main__":
    typer.run(main)
