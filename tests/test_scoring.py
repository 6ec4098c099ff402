"""likelihood, generate, benchmark and rouge on the two-layer model."""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
import torch

from bench.clones import ROOT, Edit, edit_params
from bula import serving
from bula.errors import UserError
from bula.hardware import compute_dtype
from bula.models import end_token_ids, load_model, load_tokenizer
from bula.params import VllmBackend, load_params
from bula.prompts import Encoded, encode_prompt
from bula.records import SET_NAMES, Example, read_rows, write_rows
from bula.scoring import batches_by_length
from stages import benchmark, generate, likelihood, quantize, rouge
from tests.conftest import leftovers, write_jsonl


def examples(split: Any, count: int = 3) -> list[Example]:
    return [
        Example(
            id=f"{split.lower() if split in 'ABCDE' else 'f'}{n:015d}",
            source="s",
            license="l",
            split=split,
            question=f"Pergunta {n} de {split}?",
            answer="Beba água, " * (n + 1) + "e repouse.",
        )
        for n in range(count)
    ]


@pytest.fixture
def validation(workspace: Path) -> Path:
    for split in SET_NAMES:
        write_rows(workspace / f"data/clean/validation/{split}.jsonl", examples(split))
    return workspace


def use(model: Path, engine: str) -> Edit:
    """Make `model` the model of the variant tuned, and of base."""

    def edit(params: dict[str, Any]) -> None:
        params["dtype"] = "float32"
        params["variants"] = {
            name: {"model": os.path.relpath(model), "engine": engine} for name in ("base", "tuned")
        }

    return edit


@pytest.fixture
def local(validation: Path, tiny: Path) -> Path:
    """The two-layer model as models/base of a workspace with questions."""
    shutil.copytree(tiny, validation / "models/base")
    return validation


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_figures_of_a_set_by_hand() -> None:
    rows = [
        {
            "tokens": 2,
            "nats": 2.0,
            "tokens_right": 1,
            "entropy_nats": 1.0,
            "characters": 8,
            "bytes": 10,
        },
        {
            "tokens": 6,
            "nats": 2.0,
            "tokens_right": 3,
            "entropy_nats": 3.0,
            "characters": 12,
            "bytes": 14,
        },
    ]
    figures = likelihood.summarise(rows)
    assert figures["loss_nats"] == pytest.approx(0.5)
    assert figures["perplexity"] == pytest.approx(1.6487213)
    assert figures["bits_per_token"] == pytest.approx(0.7213475)
    # 4 nats are 5.7707802 bits; over 20 characters and 24 bytes.
    assert figures["bits_per_character"] == pytest.approx(0.2885390)
    assert figures["bits_per_byte"] == pytest.approx(0.2404492)
    assert figures["token_accuracy"] == pytest.approx(0.5)
    assert figures["entropy_bits"] == pytest.approx(0.5 / math.log(2))
    # Residuals 2 - 0.5 * 2 = 1 and 2 - 0.5 * 6 = -1; sqrt(2 / 1 * 2) / 8.
    assert figures["loss_nats_stderr"] == pytest.approx(0.25)


def test_likelihood_does_not_depend_on_how_examples_are_batched(local: Path) -> None:
    edit_params(local / "params.yaml", lambda p: p.update(dtype="float32"))
    likelihood.main("base")
    together = list(read_rows(local / "data/likelihood/base.jsonl"))
    edit_params(local / "params.yaml", lambda p: p["likelihood"].update(batch_tokens=1))
    likelihood.main("base")
    alone = list(read_rows(local / "data/likelihood/base.jsonl"))
    assert [row["id"] for row in alone] == [e.id for split in SET_NAMES for e in examples(split)]
    for a, b in zip(together, alone, strict=True):
        assert a["nats"] == pytest.approx(b["nats"], rel=1e-4)
        assert (a["tokens"], a["tokens_right"]) == (b["tokens"], b["tokens_right"])
    figures = load(local / "metrics/likelihood/base.json")
    assert list(figures) == ["A", "B", "C", "D", "E", "pooled", "settings"]
    assert figures["pooled"]["items"] == 15
    assert figures["pooled"]["bits_per_byte"] < figures["pooled"]["bits_per_character"]


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (2, 2), (0, 3), (9, 3)])
def test_likelihood_scores_the_first_items_of_each_set(asked: int, given: int, local: Path) -> None:
    edit_params(local / "params.yaml", lambda p: p["likelihood"].update(items_per_set=asked))
    likelihood.main("base")
    rows = list(read_rows(local / "data/likelihood/base.jsonl"))
    assert [row["id"] for row in rows] == [
        e.id for split in SET_NAMES for e in examples(split)[:given]
    ]
    figures = load(local / "metrics/likelihood/base.json")
    assert figures["C"]["items"] == given
    assert figures["settings"] == {"dtype": "bfloat16", "compute_dtype": compute_dtype("bfloat16")}


def test_likelihood_equals_transformers_own_loss(local: Path, tiny: Path) -> None:
    from bula.prompts import encode
    from bula.scoring import pad_batch

    edit_params(local / "params.yaml", lambda p: p.update(dtype="float32"))
    likelihood.main("base")
    tokenizer, model = load_tokenizer(tiny), load_model(tiny, "float32")
    for row, example in zip(
        read_rows(local / "data/likelihood/base.jsonl"), examples("A"), strict=False
    ):
        batch = pad_batch([encode(tokenizer, example)], tokenizer.pad_token_id)
        with torch.inference_mode():
            loss = model(**batch).loss
        assert row["nats"] / row["tokens"] == pytest.approx(float(loss), rel=1e-4)


def test_an_empty_validation_set_is_a_sentence_and_no_output(local: Path) -> None:
    (local / "data/clean/validation/C.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"data/clean/validation/C\.jsonl: the file is empty"):
        likelihood.main("base")
    assert not (local / "metrics").exists()
    assert not (local / "data/likelihood").exists()


def test_batches_hold_like_lengths_and_every_example_once() -> None:
    lengths = [3, 10, 4, 9, 30]
    encoded = [Encoded(prompt=[1] * (n - 1), completion=[2]) for n in lengths]
    # Longest first; 2 x 10 fit into 20 padded tokens, 3 x 10 do not; 30 exceeds the limit and goes alone.
    assert batches_by_length(encoded, 20) == [[4], [1, 3], [2, 0]]


def test_generated_answers_end_at_the_end_of_turn_or_the_limit(smollm2: Path) -> None:
    tokenizer = load_tokenizer(smollm2)
    eos = tokenizer.eos_token_id
    ids = tokenizer("Sim.", add_special_tokens=False)["input_ids"]
    assert generate.finish(tokenizer, [*ids, eos, tokenizer.pad_token_id, 5], [eos]) == (
        "Sim.",
        "stop",
        len(ids) + 1,
    )
    assert generate.finish(tokenizer, ids, [eos]) == ("Sim.", "length", len(ids))


def test_batched_answers_equal_answers_one_by_one(local: Path, tiny: Path) -> None:
    edit_params(local / "params.yaml", use(Path("models/base"), "transformers"))
    generate.main("base")
    rows = list(read_rows(local / "data/answers/base.jsonl"))
    assert [row["split"] for row in rows] == list("AABBCCDDEE")
    tokenizer, model = load_tokenizer(tiny), load_model(tiny, "float32")
    for row in rows[:4]:
        ids = torch.tensor([encode_prompt(tokenizer, row["question"])])
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=8,
            )
        assert (
            generate.finish(
                tokenizer, output[0, ids.shape[1] :].tolist(), end_token_ids(tokenizer)
            )[0]
            == row["generated"]
        )


def test_llama_cpp_gives_the_answers_of_transformers(local: Path, tiny: Path) -> None:
    quantize.convert(tiny, "bf16", local / "models/tiny.gguf")
    edit_params(local / "params.yaml", use(Path("models/base"), "transformers"))
    generate.main("base")
    edit_params(local / "params.yaml", use(Path("models/tiny.gguf"), "llama.cpp"))
    generate.main("tuned")
    first, second = (list(read_rows(local / f"data/answers/{v}.jsonl")) for v in ("base", "tuned"))
    assert [row["prompt_hash"] for row in first] == [row["prompt_hash"] for row in second]
    assert [row["finish_reason"] for row in first] == [row["finish_reason"] for row in second]
    same = sum(a["generated"] == b["generated"] for a, b in zip(first, second, strict=True))
    # Engines round differently; a random model has near ties that a trained one has not.
    assert same >= 0.8 * len(first)
    figures = load(local / "metrics/generate/tuned.json")
    assert figures["items"] == figures["finish_stop"] + figures["finish_length"] == 10
    assert figures["settings"] == {
        "engine": "llama.cpp",
        "dtype": "the engine's own",
        "compute_dtype": "the engine's own",
    }
    told = load(local / "metrics/generate/base.json")["settings"]
    assert told == {"engine": "transformers", "dtype": "float32", "compute_dtype": "float32"}
    # What the metrics count stands beside each answer.
    assert figures["degenerate"] == sum(row["degenerate"] for row in second)
    assert figures["repeated_4gram_share"] == pytest.approx(
        sum(row["repeated_4gram_share"] for row in second) / 10, rel=1e-5
    )


@pytest.mark.parametrize("command", [generate.main, rouge.main])
def test_an_unknown_variant_is_a_sentence(local: Path, command: Callable[[str], None]) -> None:
    with pytest.raises(UserError, match=r"variants has no 'tunned'\. Name one of base, "):
        command("tunned")
    assert not (local / "data/answers").exists()


def test_a_question_in_two_sets_is_a_sentence_and_no_output(local: Path) -> None:
    write_rows(local / "data/clean/validation/B.jsonl", examples("A"))
    with pytest.raises(
        UserError,
        match=r"data/clean/validation: 2 questions stand there twice \(first: a0+\). Run `dvc repro preprocess`",
    ):
        generate.main("base")
    assert not (local / "data/answers").exists()


def server(reply: Callable[[httpx.Request], httpx.Response]) -> openai.OpenAI:
    """A client whose server answers by `reply`."""
    http = openai.DefaultHttpxClient(transport=httpx.MockTransport(reply))
    return openai.OpenAI(
        base_url="http://127.0.0.1:1/v1", api_key="k", max_retries=0, http_client=http
    )


def refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


REPLIES: dict[str, tuple[Callable[[httpx.Request], httpx.Response], str]] = {
    "an error of the server": (
        lambda _: httpx.Response(500, json={"error": "Pergunta secreta"}),
        "a request failed \\(InternalServerError\\)",
    ),
    "no JSON": (
        lambda _: httpx.Response(200, text="{", headers={"content-type": "application/json"}),
        "a request failed|has no answer",
    ),
    "a web page": (lambda _: httpx.Response(200, text="<html>"), "a reply has no answer in it"),
    "an error with code 200": (
        lambda _: httpx.Response(200, json={"error": "x"}),
        "a reply has no answer in it",
    ),
    "no choices": (
        lambda _: httpx.Response(200, json={"choices": []}),
        "a reply has no answer in it",
    ),
    "no text": (
        lambda _: httpx.Response(200, json={"choices": [{"index": 0}]}),
        "a reply has no answer in it",
    ),
}


def test_a_lost_connection_is_left_to_whoever_started_the_server() -> None:
    with server(refuse) as client, pytest.raises(openai.APIConnectionError):
        generate.complete(client, "m", [1], 2)


@pytest.mark.parametrize(("reply", "message"), REPLIES.values(), ids=REPLIES)
def test_a_request_that_fails_is_a_sentence_without_the_servers_words(
    reply: Any, message: str
) -> None:
    with (
        server(reply) as client,
        pytest.raises(UserError, match=f"the server of m: ({message})") as caught,
    ):
        generate.complete(client, "m", [1, 2], 8)
    assert "secreta" not in str(caught.value)


def test_degenerate_answers_are_counted_by_hand() -> None:
    loop = "O chá é o chá, e o chá é o chá, e o chá é o chá."
    answers = [("Beba água e descanse.", "stop", 5), (loop, "length", 20), ("", "stop", 1)]
    figures = generate.summarise(answers, [[], [], []], 0.3)
    assert (figures["degenerate"], figures["empty"]) == (2, 1)
    assert figures["degenerate_share"] == pytest.approx(2 / 3)
    # 17 words, 14 runs of four, of which 6 are distinct: o chá é o, chá é o chá, é o chá e, o chá e o, chá e o chá, e o chá é.
    assert figures["repeated_4gram_share"] == pytest.approx((8 / 14) / 3)
    # 0, 8/14, 0: standard deviation 8/14 / sqrt(3), over sqrt(3).
    assert figures["repeated_4gram_share_stderr"] == pytest.approx(8 / 14 / 3)
    strict = generate.summarise(answers, [[], [], []], 0.6)
    assert strict["degenerate"] == 1


def test_answers_through_llama_cpp_do_not_depend_on_when_their_neighbours_came(
    validation: Path, tiny: Path
) -> None:
    file = validation / "tiny.gguf"
    quantize.convert(tiny, "q8_0", file)
    tokenizer, settings = load_tokenizer(tiny), load_params().generate
    prompts = [
        encode_prompt(
            tokenizer, f"Posso tomar {n} copos de água por dia, ou é {'muito ' * (n % 3)}demais?"
        )
        for n in range(10)
    ]

    def answers(parallel: int, order: int) -> list[Any]:
        asked = settings.model_copy(update={"parallel": parallel, "max_new_tokens": 24})
        return generate.answer_by_server(file, serving.serve_llama_cpp, prompts[::order], asked)[
            ::order
        ]

    alone = answers(1, 1)
    assert answers(4, 1) == answers(4, -1) == alone


def test_llama_cpp_runs_one_server_for_each_request_up_to_the_processors(
    tiny: Path, tmp_path: Path
) -> None:
    quantize.convert(tiny, "bf16", tmp_path / "tiny.gguf")
    with serving.serve_llama_cpp(tmp_path / "tiny.gguf", 1, 64) as urls:
        assert len(urls) == 1
    with serving.serve_llama_cpp(tmp_path / "tiny.gguf", 1000, 64) as urls:
        assert len(set(urls)) == len(urls) == len(os.sched_getaffinity(0))


def test_a_folder_without_weights_is_a_sentence(validation: Path, tiny: Path) -> None:
    shutil.copytree(
        tiny, validation / "models/base", ignore=shutil.ignore_patterns("*.safetensors")
    )
    with pytest.raises(UserError, match="models/base"):
        generate.main("base")


def test_a_model_that_is_missing_is_a_sentence(validation: Path) -> None:
    with pytest.raises(UserError, match="models/base"):
        generate.main("base")
    assert not (validation / "data/answers").exists()


def test_the_three_tasks_give_one_row_an_item(workspace: Path, tiny: Path) -> None:
    (workspace / "models/base").symlink_to(tiny)
    for task in ("medmcqa", "medqa_4options", "squad_completion"):
        rows = list(read_rows(workspace / f"data/demo/benchmarks/{task}.jsonl"))
        write_jsonl(workspace / f"data/benchmarks/bula_{task}.jsonl", rows)
    benchmark.main("base")
    rows = list(read_rows(workspace / "data/samples/base.jsonl"))
    assert [row["item"] for row in rows] == [0, 1, 2, 3] * 3
    figures = load(workspace / "metrics/benchmark/base.json")
    for task, metric in (
        ("bula_medmcqa", "acc"),
        ("bula_medqa_4options", "acc"),
        ("bula_squad_completion", "contains"),
    ):
        values = [row["scores"][metric] for row in rows if row["task"] == task]
        assert figures[task]["items"] == 4
        assert figures[task][metric] == sum(values) / 4
        mean = sum(values) / 4
        assert figures[task][f"{metric}_stderr"] == pytest.approx(
            math.sqrt(mean * (1 - mean) / 3), rel=1e-5
        )
    for row in rows[:8]:
        assert row["scores"]["acc"] == float(row["answer"] == row["target"])
    for task in ("bula_medmcqa", "bula_medqa_4options", "bula_squad_completion"):
        given = [row["answer"] for row in rows if row["task"] == task]
        assert figures[task]["commonest_answer_share"] == max(map(given.count, given)) / 4
    assert figures["settings"]["lm_eval"] == "0.4.13"
    assert figures["settings"]["chat_template"] is False
    assert figures["settings"]["compute_dtype"] == compute_dtype("bfloat16")
    # Another backend has a precision of its own.
    params = load_params()
    vllm = VllmBackend(
        kind="vllm", gpu_memory_utilization=0.5, max_model_len=64, tensor_parallel_size=1
    )
    other = params.model_copy(
        update={"benchmark": params.benchmark.model_copy(update={"backend": vllm})}
    )
    assert not {"dtype", "compute_dtype"} & benchmark.summarise(rows, other)["settings"].keys()


def test_the_benchmark_ends_where_the_answers_end(tiny: Path) -> None:
    # The file of the model names one of the two; of a directory and a GGUF file of it they may be different ones.
    ends = end_token_ids(load_tokenizer(tiny))
    assert len(ends) == 2
    backend = benchmark.backend(tiny, load_params(ROOT / "profiles/smollm2-135m.yaml"))
    assert backend["model"].model.generation_config.eos_token_id == ends


def test_an_unknown_task_is_a_sentence(workspace: Path, tiny: Path) -> None:
    (workspace / "models/base").symlink_to(tiny)
    edit_params(workspace / "params.yaml", lambda p: p["benchmark"].update(tasks=["medmcqa_pt"]))
    with pytest.raises(
        UserError,
        match=r"benchmark\.tasks has medmcqa_pt, which is no task of tasks/ and not reviewed",
    ):
        benchmark.main("base")
    assert not (workspace / "data/samples").exists()


def test_rouge_by_hand_with_portuguese_letters() -> None:
    row = {
        "id": "1",
        "split": "A",
        "variant": "v",
        "answer": "Não tome sol",
        "generated": "não, TOME água e sol",
    }
    scores = rouge.score([row])[0]
    # Reference: não tome sol. Answer: não tome água e sol. Three words shared; runs of two: "não tome" alone of 4 and 2.
    assert (scores["rouge1_precision"], scores["rouge1_recall"]) == (
        pytest.approx(3 / 5),
        pytest.approx(1.0),
    )
    assert scores["rouge1_f"] == pytest.approx(0.75)
    assert (scores["rouge2_precision"], scores["rouge2_recall"]) == (
        pytest.approx(1 / 4),
        pytest.approx(1 / 2),
    )
    assert scores["rougeL_f"] == pytest.approx(0.75)


def test_an_empty_answer_scores_zero() -> None:
    row = {"id": "1", "split": "A", "variant": "v", "answer": "Não tome sol", "generated": ""}
    assert all(
        value == 0 for name, value in rouge.score([row])[0].items() if name.startswith("rouge")
    )


def test_rouge_never_imports_torch() -> None:
    import subprocess
    import sys

    code = "import stages.rouge, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def answers_of(variant: str) -> list[dict[str, Any]]:
    """Four answers of each set."""
    texts = {
        "variant": variant,
        "question": "O que tomo?",
        "answer": "tome água e repouse",
        "finish_reason": "stop",
    }
    return [
        {"id": f"{split}{n}", "split": split, "generated": "tome " * (n + 1), **texts}
        for split in SET_NAMES
        for n in range(4)
    ]


def test_rouge_writes_figures_plot_and_picture(workspace: Path) -> None:
    write_rows(workspace / "data/answers/base.jsonl", answers_of("base"))
    rouge.main("base")
    figures = load(workspace / "metrics/rouge/base.json")
    assert figures["A"]["items"] == 4
    assert figures["pooled"]["items"] == 20
    assert figures["A"]["rouge1_f_low"] <= figures["A"]["rouge1_f"] <= figures["A"]["rouge1_f_high"]
    first = (workspace / "plots/rouge/base.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    rouge.main("base")
    assert (workspace / "plots/rouge/base.png").read_bytes() == first
    assert leftovers(workspace) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: [],
            r"answers/base\.jsonl: the file contains no row. Run `dvc repro generate@base`",
        ),
        (
            lambda rows: [*rows, rows[0]],
            r"answers/base\.jsonl: 1 items appear more than once \(first: A0\)",
        ),
        (
            lambda rows: [*rows[:2], {"id": "x", "split": "A"}],
            r"answers/base\.jsonl:3: .*generated: Field required",
        ),
        (
            lambda rows: [rows[0] | {"variant": "tuned"}],
            r"answers/base\.jsonl:1: the row is about the variant 'tuned'",
        ),
        (
            lambda rows: [rows[0] | {"generated": None}],
            r"answers/base\.jsonl:1: .*generated: Input should be a valid string",
        ),
        (lambda rows: [rows[0] | {"split": "train"}], r"answers/base\.jsonl:1: .*split: "),
    ],
    ids=["empty", "twice", "fields missing", "another variant", "no text", "another set"],
)
def test_answers_that_rouge_cannot_use_are_a_sentence_and_no_output(
    change: Any, message: str, workspace: Path
) -> None:
    write_rows(workspace / "data/answers/base.jsonl", change(answers_of("base")))
    with pytest.raises(UserError, match=message):
        rouge.main("base")
    assert not (workspace / "data/scores").exists()
    assert not (workspace / "metrics").exists()


def test_answers_that_are_missing_are_a_sentence(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"answers/base\.jsonl: .*Run `dvc repro generate@base`"):
        rouge.main("base")


def test_personal_data_in_answers_is_redacted_and_counted_or_stops() -> None:
    from bula.privacy import find_personal_data

    answers = [("Ligue para (11) 91234-5678.", "stop", 9), ("Beba água.", "length", 4)]
    found = [find_personal_data(text) for text, _, _ in answers]
    clean = generate.redact_answers("tuned", answers, found, "redact")
    assert clean == [("Ligue para [TELEFONE].", "stop", 9), ("Beba água.", "length", 4)]
    figures = generate.summarise(clean, found, 0.3)
    assert (
        figures["personal_data_answers"],
        figures["personal_data_phone"],
        figures["personal_data_cpf"],
    ) == (1, 1, 0)
    with pytest.raises(
        UserError,
        match=r"answers of tuned hold personal data \(phone\), and privacy\.answers is fail",
    ):
        generate.redact_answers("tuned", answers, found, "fail")
    assert generate.redact_answers("tuned", answers[1:], found[1:], "fail") == answers[1:]
