import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from bench.clones import ROOT, Edit, edit_params, small
from bula import answering, generation, gguf_export, server_answers, serving
from bula.answers import Answer
from bula.errors import UserError
from bula.generation import until_end
from bula.models import end_token_ids, load_model, load_tokenizer, save_model
from bula.params import Decoding, Params, Variant, load_params
from bula.privacy import find_personal_data
from bula.prompts import encode_prompt
from bula.records import Row, read_rows, write_rows
from bula.server_answers import Asked
from stages import generate
from tests.conftest import validation_examples, write_validation_sets


def use(model: Path, engine: str) -> Edit:
    """Return an edit that sets the model of the variants."""

    def edit(params: dict[str, Any]) -> None:
        variant = {"model": os.path.relpath(model), "engine": engine}
        params["dtype"] = "float32"
        # Two dictionaries, because one would be written as a YAML alias, which is refused.
        params["variants"] = {"base": dict(variant), "tuned": dict(variant)}
        params["compare"]["pairs"] = []

    return edit


def with_generate(changes: dict[str, Any]) -> Params:
    """Return the default parameters with changes of the section generate."""
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    small_answers = {"max_new_tokens": 8}
    changed = params.generate.model_copy(update=small_answers | changes)
    return params.model_copy(update={"generate": changed, "dtype": "float32"})


def by_llama_cpp(
    file: Path, prompts: list[list[int]], params: Params, *, float32: bool = False
) -> list[Answer]:
    """Return the answers of llama.cpp servers, in the order of the prompts."""
    variant = variant_at(file, "llama.cpp")
    servers = server_answers.servers_of(variant, params, prompts)
    start: Any = servers.start
    servers = servers._replace(start=partial(start, float32=float32))
    fields = server_answers.request_fields(variant, params, [], Asked(prompts, []))
    return server_answers.answer_by_server(servers, prompts, fields, lambda prompts, answers: None)


def variant_at(model: Path, engine: Any) -> Variant:
    """Return a variant whose model lies anywhere, which params.yaml could not name."""
    return Variant.model_construct(model=str(model), engine=engine)


def rows_of(folder: Path, variant: str) -> list[Row]:
    return list(read_rows(folder / f"data/answers/{variant}.jsonl"))


def metrics_of(folder: Path, variant: str) -> dict[str, Any]:
    text = (folder / f"metrics/generate/{variant}.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def values(rows: list[Row], key: str) -> list[Any]:
    return [row[key] for row in rows]


@pytest.fixture
def validation(workspace: Path) -> Path:
    """Return the workspace with validation sets."""
    write_validation_sets(workspace)
    return workspace


@pytest.fixture(scope="module")
def answered(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the answers of two engines.

    Both have the same model; transformers answered as base and llama.cpp as tuned.
    """
    folder = tmp_path_factory.mktemp("answered")
    write_validation_sets(folder)
    shutil.copytree(tiny, folder / "models/base")
    gguf_export.convert(tiny, "bf16", folder / "models/tiny.gguf")
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", folder / "params.yaml")
    edit_params(folder / "params.yaml", small(tiny))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        edit_params(folder / "params.yaml", use(Path("models/base"), "transformers"))
        generate.main("base")
        edit_params(folder / "params.yaml", use(Path("models/tiny.gguf"), "llama.cpp"))
        generate.main("tuned")
    return folder


@pytest.fixture(scope="module")
def loop() -> str:
    """Return an answer that repeats itself.

    It has 14 word 4-grams, of which 6 are distinct: o chá é o, chá é o chá, é o chá e, o chá e o,
    chá e o chá, e o chá é.
    """
    return "O chá é o chá, e o chá é o chá, e o chá é o chá."


def test_an_answer_that_ends_with_an_end_token_has_stopped(smollm2: Path) -> None:
    tokenizer = load_tokenizer(smollm2)
    end = tokenizer.eos_token_id
    ids = tokenizer("Sim.", add_special_tokens=False)["input_ids"]
    found = answering.to_answer(tokenizer, [*ids, end], [end])
    assert found == Answer("Sim.", "stop", len(ids) + 1)


def test_an_answer_without_an_end_token_has_reached_the_limit(smollm2: Path) -> None:
    tokenizer = load_tokenizer(smollm2)
    ids = tokenizer("Sim.", add_special_tokens=False)["input_ids"]
    found = answering.to_answer(tokenizer, ids, [tokenizer.eos_token_id])
    assert found == Answer("Sim.", "length", len(ids))


def test_batched_answers_equal_single_answers(answered: Path, tiny: Path) -> None:
    rows = rows_of(answered, "base")
    assert values(rows, "split") == list("AABBCCDDEE")
    tokenizer = load_tokenizer(tiny)
    model = load_model(tiny, "float32")
    end_ids = end_token_ids(tokenizer)
    for row in rows[:4]:
        ids = torch.tensor([encode_prompt(tokenizer, row["question"])])
        # The library's own call, so that bula.generation is not compared with itself.
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=8,
            )
        new_ids = output[0, ids.shape[1] :].tolist()
        found = answering.to_answer(tokenizer, until_end(new_ids, end_ids), end_ids)
        assert found.text == row["generated"]


def test_llama_cpp_returns_the_answers_of_transformers(answered: Path) -> None:
    first = rows_of(answered, "base")
    second = rows_of(answered, "tuned")
    assert values(first, "prompt_hash") == values(second, "prompt_hash")
    assert values(first, "finish_reason") == values(second, "finish_reason")
    pairs = zip(values(first, "generated"), values(second, "generated"), strict=True)
    same = sum(one == other for one, other in pairs)
    # The engines round differently, and a random model has more near ties than a trained one.
    assert same >= 0.8 * len(first)


def test_metrics_name_the_engine_and_its_precision(answered: Path) -> None:
    own = "the engine's own"
    assert metrics_of(answered, "tuned")["settings"] == {
        "engine": "llama.cpp",
        "dtype": own,
        "compute_dtype": own,
        "few_shot": 0,
    }
    assert metrics_of(answered, "base")["settings"] == {
        "engine": "transformers",
        "dtype": "float32",
        "compute_dtype": "float32",
        "few_shot": 0,
    }


def test_metrics_summarise_the_answer_rows(answered: Path) -> None:
    rows = rows_of(answered, "tuned")
    figures = metrics_of(answered, "tuned")
    assert figures["items"] == figures["finish_stop"] + figures["finish_length"] == 10
    assert figures["degenerate"] == sum(values(rows, "degenerate"))
    share = sum(values(rows, "repeated_4gram_share")) / 10
    assert figures["repeated_4gram_share"] == pytest.approx(share, rel=1e-5)


def test_answers_of_llama_cpp_do_not_depend_on_parallel_requests(
    workspace: Path, tiny: Path
) -> None:
    file = workspace / "tiny.gguf"
    gguf_export.convert(tiny, "q8_0", file)
    tokenizer = load_tokenizer(tiny)
    prompts = []
    for number in range(10):
        words = f"{number} copos de água por dia, ou é {'muito ' * (number % 3)}demais?"
        prompts.append(encode_prompt(tokenizer, f"Posso tomar {words}"))

    def answers(parallel: int, step: int) -> list[Answer]:
        """Answer the prompts, in reverse with step -1."""
        params = with_generate({"parallel": parallel, "max_new_tokens": 24})
        return by_llama_cpp(file, prompts[::step], params)[::step]

    one_at_a_time = answers(1, 1)
    assert answers(4, 1) == one_at_a_time
    assert answers(4, -1) == one_at_a_time


def long_prompts(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return prompts of more than 64 tokens, which is llama.cpp's default window."""
    prompts = []
    for number in range(8):
        question = f"Tomei {number} copos de água e {number + 3} de chá. " * 6
        prompts.append(encode_prompt(tokenizer, question))
    assert min(map(len, prompts)) > 64
    return prompts


@pytest.fixture
def few_words(tiny: Path, tmp_path: Path) -> Path:
    """Return a model that answers with 40 different tokens, so that it must repeat some."""
    model = load_model(tiny, "float32")
    head = model.get_output_embeddings()
    weight = torch.zeros_like(head.weight)
    weight[1000:1040] = head.weight[1000:1040]
    head.weight = torch.nn.Parameter(weight.detach())
    model.config.tie_word_embeddings = False
    save_model(model, load_tokenizer(tiny), tmp_path / "few_words")
    return tmp_path / "few_words"


def test_both_engines_apply_the_same_repetition_penalty(
    few_words: Path, tmp_path: Path, workspace: Path
) -> None:
    file = tmp_path / "few_words.gguf"
    gguf_export.convert(few_words, "f32", file)
    tokenizer = load_tokenizer(few_words)
    prompts = long_prompts(tokenizer)

    def answers(penalty: float) -> tuple[list[Answer], list[Answer]]:
        decoding = Decoding(temperature=0, repetition_penalty=penalty, no_repeat_ngram=0)
        params = with_generate({"decoding": decoding, "max_new_tokens": 16, "parallel": 1})
        variant = variant_at(few_words, "transformers")
        asked = Asked(prompts, [])
        with answering.answer("generate@t", variant, params, tokenizer, asked) as (mine, _):
            pass
        return mine, by_llama_cpp(file, prompts, params, float32=True)

    plain, plain_by_llama_cpp = answers(1.0)
    mine, by_other = answers(1.2)
    same = sum(one.text == other.text for one, other in zip(mine, by_other, strict=True))
    # The engines round differently, and a random model has more near ties than a trained one.
    assert same >= 0.8 * len(prompts), (same, mine, by_other)
    assert mine != plain
    assert by_other != plain_by_llama_cpp


def test_rules_in_a_gguf_file_do_not_change_answers(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny, folder)
    # The converter copies these keys into the file's fields general.sampling.*.
    unwanted = {"penalty_repeat": 1.5, "penalty_last_n": 64, "top_k": 3, "mirostat": 2}
    (folder / "generation_config.json").write_text(json.dumps(unwanted), encoding="utf-8")
    gguf_export.convert(folder, "bf16", tmp_path / "unwanted.gguf")
    assert b"general.sampling.penalty_repeat" in (tmp_path / "unwanted.gguf").read_bytes()
    gguf_export.convert(tiny, "bf16", tmp_path / "plain.gguf")
    prompts = long_prompts(load_tokenizer(tiny))[:2]
    params = with_generate({"parallel": 1, "max_new_tokens": 12})
    expected = by_llama_cpp(tmp_path / "plain.gguf", prompts, params)
    assert by_llama_cpp(tmp_path / "unwanted.gguf", prompts, params) == expected


def test_llama_cpp_starts_one_server_per_request_up_to_the_processors(
    tiny: Path, tmp_path: Path
) -> None:
    gguf_export.convert(tiny, "bf16", tmp_path / "tiny.gguf")
    with serving.serve_llama_cpp(tmp_path / "tiny.gguf", 1, 64) as urls:
        assert len(urls) == 1
    with serving.serve_llama_cpp(tmp_path / "tiny.gguf", 1000, 64) as urls:
        assert len(set(urls)) == len(urls) == len(os.sched_getaffinity(0))


# A stand-in for vLLM's server: it checks its key, keeps the requests and returns one answer.
VLLM = """
import http.server, json, os, pathlib, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_GET(self):
        ours = self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        self.reply(200 if ours else 401, {})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open("requests.jsonl", "a") as requests:
            print(json.dumps(asked), file=requests)
        choice = {"index": 0, "text": f" {len(asked['prompt'])} ", "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
        self.reply(200, {"choices": [choice], "usage": usage})

pathlib.Path("arguments.json").write_text(json.dumps(sys.argv))
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def test_vllm_receives_the_token_ids_and_end_tokens_of_transformers(
    workspace: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = workspace / "site/vllm/entrypoints/openai"
    place.mkdir(parents=True)
    (place / "api_server.py").write_text(VLLM, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(workspace / "site"))
    tokenizer = load_tokenizer(tiny)
    questions = ("Dói?", "Posso tomar água?", "Quantos copos de água devo beber por dia?")
    prompts = [encode_prompt(tokenizer, question) for question in questions]
    rules = Decoding(temperature=0, repetition_penalty=1.2, no_repeat_ngram=0)
    params = with_generate({"decoding": rules})
    variant = variant_at(tiny, "vllm")
    asked_of = Asked(prompts, [])
    with answering.answer("generate@t", variant, params, tokenizer, asked_of) as (answers, tokens):
        assert tokens == 9
    # The stand-in answers with the length of the prompt, so that the order is seen.
    assert answers == [Answer(str(len(prompt)), "stop", 3) for prompt in prompts]
    asked = list(read_rows(workspace / "requests.jsonl"))
    assert sorted(values(asked, "prompt")) == sorted(prompts)
    same = {"stop_token_ids": end_token_ids(tokenizer), "temperature": 0, "max_tokens": 8}
    same["repetition_penalty"] = 1.2
    assert [request | same for request in asked] == asked
    arguments = json.loads((workspace / "arguments.json").read_text(encoding="utf-8"))
    longest = max(map(len, prompts))
    assert arguments[arguments.index("--max-model-len") + 1] == str(longest + 8)


@pytest.mark.parametrize(
    ("engine", "gpu_layers", "expected"),
    [
        ("vllm", "all", {"dtype": "bfloat16", "compute_dtype": "bfloat16"}),
        ("llama.cpp", "all", {"gpu_layers": "all"}),
        ("llama.cpp", 8, {"gpu_layers": "8"}),
    ],
)
def test_metrics_name_the_precision_of_vllm_and_the_gpu_layers_of_llama_cpp(
    engine: str, gpu_layers: Any, expected: dict[str, str]
) -> None:
    params = with_generate({"gpu_layers": gpu_layers}).model_copy(update={"dtype": "bfloat16"})
    variant = params.variants["base"].model_copy(update={"engine": engine})
    found = answering.settings(variant, params)
    assert {"engine": engine, **expected}.items() <= found.items()


def test_a_killed_stage_resumes_with_its_finished_batches(
    validation: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny, validation / "models/base")
    edit_params(validation / "params.yaml", lambda params: params["generate"].update(batch_size=4))
    generate.main("base")
    expected = (validation / "data/answers/base.jsonl").read_bytes()
    folder = validation / ".bula/answers/generate@base"
    assert list(folder.iterdir()) == []
    generated: list[int] = []
    own = generation.generate_batch

    def generate_batch(*args: Any) -> list[list[int]]:
        generated.append(len(args[2]))
        if len(generated) == 3:
            raise KeyboardInterrupt
        return own(*args)

    monkeypatch.setattr(generation, "generate_batch", generate_batch)
    with pytest.raises(KeyboardInterrupt):
        generate.main("base")
    [file] = folder.iterdir()
    assert file.stat().st_mode & 0o077 == 0
    assert len(file.read_bytes().splitlines()) == 2
    # A kill of the machine can leave part of a line.
    with file.open("ab") as ledger:
        ledger.write(b'{"answers": [["Si')
    generate.main("base")
    # 10 questions are batches of 4, 4 and 2.
    assert generated == [4, 4, 2, 2]
    assert (validation / "data/answers/base.jsonl").read_bytes() == expected
    assert list(folder.iterdir()) == []


def test_a_kill_before_the_rows_are_written_loses_no_answer(
    validation: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny, validation / "models/base")

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(generate, "write_rows", stop)
        with pytest.raises(KeyboardInterrupt):
            generate.main("base")
    monkeypatch.setattr(answering, "answer_locally", lambda *args: args[3])
    generate.main("base")
    assert len(rows_of(validation, "base")) == 10
    assert list((validation / ".bula/answers/generate@base").iterdir()) == []


def to_rows(answers: list[Answer], max_share: float) -> list[Row]:
    """Return the rows of answers to as many examples of set A."""
    examples = validation_examples("A", len(answers))
    prompts = [[1]] * len(answers)
    params = with_generate({"max_repeated_share": max_share})
    return generate.to_rows("tuned", examples, prompts, answers, params)


def test_degenerate_answers_are_counted_by_hand(loop: str) -> None:
    answers = [
        Answer("Beba água e descanse.", "stop", 5),
        Answer(loop, "length", 20),
        Answer("", "stop", 1),
    ]
    figures = generate.summarise(to_rows(answers, 0.3), [[], [], []])
    assert figures["degenerate"] == 2
    assert figures["empty"] == 1
    assert figures["degenerate_share"] == pytest.approx(2 / 3)
    assert figures["repeated_4gram_share"] == pytest.approx((8 / 14) / 3)
    # The shares 0, 8/14, 0 have the standard deviation 8/14 / sqrt(3), divided by sqrt(3).
    assert figures["repeated_4gram_share_stderr"] == pytest.approx(8 / 14 / 3)
    # At a limit of 0.6 only the empty answer is degenerate.
    figures = generate.summarise(to_rows(answers, 0.6), [[], [], []])
    assert figures["degenerate"] == 1


def test_answers_that_cannot_be_read_are_counted_by_hand() -> None:
    english = "You should drink a lot of water and see your doctor if the fever does not go away."
    answers = [
        Answer("Beba água e descanse, e meça a temperatura de noite.", "stop", 5),
        Answer("Se a febre passar de três dias, procure um médico.", "length", 9),
        Answer(english, "length", 20),
        # Two words are too few for the language.
        Answer("Thank you.", "stop", 3),
        Answer("", "stop", 1),
        Answer("", "failed", 0),
    ]
    figures = generate.summarise(to_rows(answers, 0.3), [[]] * 6)
    counts = {
        "finish_stop": 3,
        "finish_length": 2,
        "empty": 1,
        "degenerate": 1,
        "other_language": 1,
        "seeks_care": 1,
    }
    assert {name: figures[name] for name in counts} == counts
    for name, count in counts.items():
        assert figures[f"{name}_share"] == pytest.approx(count / 5)


def test_failed_requests_count_in_no_other_figure() -> None:
    answers = [
        Answer("Beba água.", "stop", 4),
        Answer("", "length", 6, reasoning_removed=True),
        Answer("", "failed", 0),
        Answer("", "failed", 0),
    ]
    rows = to_rows(answers, 0.3)
    assert values(rows, "degenerate") == [False, True, False, False]
    assert [row.get("reasoning_removed", False) for row in rows] == [False, True, False, False]
    figures = generate.summarise(rows, [[]] * 4)
    expected = {
        "items": 4,
        "failed": 2,
        "failed_share": 0.5,
        "degenerate_share": 0.5,
        "empty_share": 0.5,
        "reasoning_removed": 1,
        "completion_tokens_mean": 5,
    }
    assert {name: figures[name] for name in expected} == expected


def test_each_set_counts_its_failed_and_empty_answers() -> None:
    answers = [Answer("Beba água.", "stop", 4), Answer("", "stop", 1), Answer("", "failed", 0)]
    rows = to_rows(answers, 0.3)
    failed = [row | {"split": "B"} for row in rows if row["finish_reason"] == "failed"]
    assert generate.summarise_sets([*rows, *failed]) == {
        "A": {
            "items": 3,
            "failed": 1,
            "failed_share": pytest.approx(1 / 3),
            "empty_share": 0.5,
            "degenerate_share": 0.5,
        },
        "B": {"items": 1, "failed": 1, "failed_share": 1.0},
    }


ANSWERS = [Answer("Ligue para (11) 91234-5678.", "stop", 9), Answer("Beba água.", "length", 4)]
FOUND = [find_personal_data(given.text) for given in ANSWERS]


def test_personal_data_in_answers_is_redacted_and_counted() -> None:
    redacted = answering.redact_answers("generate@tuned", ANSWERS, FOUND, "redact")
    assert redacted == [Answer("Ligue para [TELEFONE].", "stop", 9), ANSWERS[1]]
    figures = generate.summarise(to_rows(redacted, 0.3), FOUND)
    assert figures["personal_data_answers"] == 1
    assert figures["personal_data_phone"] == 1
    assert figures["personal_data_cpf"] == 0


def test_personal_data_in_answers_stops_the_stage_under_the_rule_fail() -> None:
    message = r"answers of tuned contain personal data \(phone\), and privacy\.answers is fail"
    with pytest.raises(UserError, match=message):
        answering.redact_answers("generate@tuned", ANSWERS, FOUND, "fail")


def test_answers_without_personal_data_pass_the_rule_fail() -> None:
    assert answering.redact_answers("generate@tuned", ANSWERS[1:], FOUND[1:], "fail") == ANSWERS[1:]


def test_an_unknown_variant_is_refused_with_the_known_names(validation: Path) -> None:
    with pytest.raises(UserError, match=r"variants has no 'tunned'\. Name one of base, "):
        generate.main("tunned")
    assert not (validation / "data/answers").exists()


def test_a_question_in_two_sets_is_refused(validation: Path) -> None:
    write_rows(validation / "data/clean/validation/B.jsonl", validation_examples("A"))
    message = (
        r"data/clean/validation: 2 questions appear more than once \(first: a0+\)\. "
        "Run `dvc repro preprocess`"
    )
    with pytest.raises(UserError, match=message):
        generate.main("base")
    assert not (validation / "data/answers").exists()


def test_a_folder_without_weights_is_refused(validation: Path, tiny: Path) -> None:
    weights = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(tiny, validation / "models/base", ignore=weights)
    with pytest.raises(UserError, match="models/base"):
        generate.main("base")
    assert not (validation / "data/answers").exists()


def test_a_missing_model_is_refused(validation: Path) -> None:
    with pytest.raises(UserError, match="models/base"):
        generate.main("base")
    assert not (validation / "data/answers").exists()
