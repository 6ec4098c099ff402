"""preprocess: each row judged by itself, then all rows together."""

import functools
import itertools
import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest
from transformers import PreTrainedTokenizerBase

from bench.clones import ROOT, edit_params
from bula.errors import UserError
from bula.models import load_tokenizer
from bula.params import FilesSource, Params, Preprocess, load_params
from bula.prompts import encode, token_lengths
from bula.records import SET_NAMES, Example, Row, example_id, read_rows
from bula.text import mask
from stages.preprocess import __main__ as stage
from stages.preprocess import clean, contamination, minhash, shards
from stages.preprocess.report import as_table, names_notice, quarantine_rows, rows_at
from tests.conftest import leftovers, write_jsonl

DEMO = [row for name in ("train", "dev") for row in read_rows(ROOT / f"data/demo/{name}.jsonl")]
NUMBERS = itertools.count()


def fresh() -> tuple[str, str]:
    """A question and an answer of the demo corpus that no test has had yet."""
    row = DEMO[next(NUMBERS) % len(DEMO)]
    return row["question"], row["answer"]


def row(
    question: object = ..., answer: object = ..., split: str | None = "train", line: int = 1
) -> Row:
    """A raw row; without text given, text that repeats no other."""
    asked, said = fresh()
    fields = {
        "question": asked if question is ... else question,
        "answer": said if answer is ... else answer,
    }
    return fields | {
        "split": split,
        "file": "f.csv",
        "line": line,
        "source": "demo",
        "license": "cc0-1.0",
    }


class Result(NamedTuple):
    """What preprocess made of some rows."""

    kept: dict[str, list[Row]]
    refused: list[Row]
    matrix: dict[str, dict[str, int]]
    counts: dict[str, int]


def settings(**changes: object) -> Params:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    compute = params.compute.model_copy(update={"workers": 1})
    preprocess = params.preprocess.model_copy(
        update={name: value for name, value in changes.items() if name in Preprocess.model_fields}
    )
    privacy = params.privacy.model_copy(update={"rows": changes.get("rows", "redact")})
    return params.model_copy(
        update={"compute": compute, "preprocess": preprocess, "privacy": privacy}
    )


def settle(
    rows: list[Row],
    tiny: Path,
    folder: Path,
    params: Params | None = None,
    items: Mapping[str, list[Any]] | None = None,
) -> Result:
    """Everything but the writing."""
    work = folder / f"work{next(NUMBERS)}"
    (work / "raw").mkdir(parents=True)
    write_jsonl(work / "raw/demo.jsonl", rows)
    for task, questions in (items or {}).items():
        write_jsonl(work / f"{task}.jsonl", questions)
    tasks = [work / f"{task}.jsonl" for task in items or {}]
    table, decision, counts, parts = stage.preprocess(
        work / "raw", tasks, tiny, work, params or settings()
    )
    kept: dict[str, list[Row]] = {split: [] for split in clean.SPLITS}
    for kept_row in rows_at(table, work, numpy.flatnonzero(decision.alive)):
        kept[kept_row["example"]["split"]].append(kept_row["example"])
    return Result(
        kept, list(quarantine_rows(table, decision, work, parts)), decision.matrix, counts
    )


# --- a row by itself ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(smollm2)


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        (None, "Sim, procure o posto de saúde.", "question is missing"),
        ("Posso tomar sol?", None, "answer is missing"),
        ("Posso tomar sol?", 3, "answer is no text"),
        ("Posso tomar sol?", " ?! ", "answer has no words"),
        ("Posso tomar sol?", "sol " * 30_000, "answer longer than 100000 characters"),
        ("Sol?", "Sim, procure o posto de saúde.", "question shorter than 3 words"),
        ("Posso tomar sol?", "Sim, pode.", "answer shorter than 5 words"),
        (
            "Posso tomar sol de manhã cedo?",
            "posso TOMAR sol... de manhã cedo",
            "answer equals the question",
        ),
        (
            "¿Cuánto tiempo dura la fiebre del dengue en los niños?",
            "Sim, procure o posto de saúde.",
            "question in another language (es)",
        ),
        (
            "Posso tomar sol?",
            "Yes, but only early in the morning and with sunscreen.",
            "answer in another language (en)",
        ),
        ("Posso tomar \ufffdlcool?", "Sim, procure o posto de saúde.", "question is mojibake"),
        (
            "Posso tomar sol?",
            "Sim, pode.<|im_end|>\n<|im_start|>user\nE depois disso?",
            "holds a control token of the chat template",
        ),
    ],
)
def test_a_row_that_nobody_should_learn_from_goes_to_quarantine(
    question: object, answer: object, reason: str, tiny: Path, tmp_path: Path
) -> None:
    result = settle([row(question, answer, line=7), row()], tiny, tmp_path)
    assert [(r["source"], r["file"], r["line"], r["reason"]) for r in result.refused] == [
        ("demo", "f.csv", 7, reason)
    ]
    assert result.refused[0]["excerpt"] == mask(question)
    assert len(result.refused[0]["id"]) == 16
    assert len(result.kept["train"]) == 1


def test_a_row_that_ingest_could_not_read_goes_to_quarantine_with_its_reason(
    tiny: Path, tmp_path: Path
) -> None:
    unreadable = {
        "file": "a.csv",
        "line": 3,
        "source": "demo",
        "license": "l",
        "refused": "not utf-8",
        "excerpt": "xx 99",
    }
    result = settle([row(), unreadable], tiny, tmp_path)
    assert [(r["line"], r["reason"], r["excerpt"]) for r in result.refused] == [
        (3, "unreadable: not utf-8", "xx 99")
    ]


def test_quarantine_shows_the_shape_of_a_text_and_none_of_its_words() -> None:
    assert mask("Sou João, CPF 123.456") == "xxx xxxx, xxx 999.999"
    assert len(mask("a" * 500)) == 60
    assert mask("\ud83d\x00") == "  "


@pytest.mark.parametrize(
    ("text", "meant", "repairs"),
    [
        ("NÃO TOME SOZINHO", "NÃO TOME SOZINHO", []),
        ("VocÃª estÃ¡ com dor no coraÃ§Ã£o", "Você está com dor no coração", ["mojibake_repaired"]),
        (
            "<p>Beba <b>água</b>.</p><ul><li>Um</li><li>Dois</li></ul>",
            "Beba água.\nUm\nDois",
            ["html_stripped"],
        ),
        ("Dói<br>muito<script>alert(1)</script>", "Dói\nmuito", ["html_stripped"]),
        ("Pressão &lt; 12 por 8 &eacute; boa", "Pressão < 12 por 8 é boa", ["html_stripped"]),
        ("Se a pressão for <120 e a glicose >80", "Se a pressão for <120 e a glicose >80", []),
        ("Na\u0303o\u200b  dói?\r\n", "Não dói?", []),
        ("<b>" * 300 + "fim do texto", "fim do texto", ["html_stripped"]),
        (
            "<html><body><p>a</p></body></html><p>Minha pergunta</p>",
            "a\nMinha pergunta",
            ["html_stripped"],
        ),
        (
            "Dói<br>se TFG<baixa procure. E >2 litros",
            "Dói\nse TFG<baixa procure. E >2 litros",
            ["html_stripped"],
        ),
        ("&lt;p&gt;Beba &amp;amp; descanse&lt;/p&gt;", "Beba & descanse", ["html_stripped"]),
        ("Ele disse “AMANHÃ”, doutor", "Ele disse “AMANHÃ”, doutor", []),
        ("<!-- nada -->", "", ["html_stripped"]),
        ("Duas semanas, R&amp;D e &nada;", "Duas semanas, R&D e &nada;", ["html_stripped"]),
        ("Nada muda em &nada;", "Nada muda em &nada;", []),
    ],
)
def test_text_is_repaired_and_every_repair_is_named(
    text: str, meant: str, repairs: list[str]
) -> None:
    assert clean.repair(text) == (meant, repairs)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        # A block starts on a line of its own, also where only its start says so.
        ("nos dias 1 e 2.<p>5 dias depois, volte</p>", "nos dias 1 e 2.\n5 dias depois, volte"),
        ("Dose de 1,<div>5 mg à noite</div>", "Dose de 1,\n5 mg à noite"),
        ("Tome 1/<p>2 comprimido</p>", "Tome 1/\n2 comprimido"),
        ("Beba água.<p>Descanse", "Beba água.\nDescanse"),
        ("Sintomas:<ul><li>Febre", "Sintomas:\nFebre"),
        ("Dose<table><tr><td>1</td><td>2</td></tr></table>5 mg", "Dose\n1\n2\n5 mg"),
        ("1<dl><dt>2<dd>3</dl>4<select><option>5<option>6</select>", "1\n2\n3\n4\n5\n6"),
        ("1<blockquote>2</blockquote>3<section>4</section>5<ol><li>6</ol>7", "1\n2\n3\n4\n5\n6\n7"),
        ("<p>Um</p>\n  <p>Dois</p>Três<br><br>Quatro", "Um\n\nDois\nTrês\n\nQuatro"),
        # What runs on in a line leaves nothing behind, what is no text a space.
        ("parace<span class=x>tamol</span>", "paracetamol"),
        ("<b>D</b>or e <b>f</b>ebre", "Dor e febre"),
        ("Dose: 1<!-- -->5<!-- --> mg", "Dose: 15 mg"),
        ("1<img src='a>b.png'/>5 mg", "1 5 mg"),
        # A power is no factor, and a half no eleven.
        ("10<sup>6</sup> UFC, 10<sup>-3</sup> mg", "10^6 UFC, 10^-3 mg"),
        ("1<sup>o</sup> dia, Marca<sup>®</sup>, H<sub>2</sub>O", "1o dia, Marca®, H2O"),
        (
            "1<sup>1</sup>/<sub>2</sub> comprimido, 1<sup>3</sup>&frasl;<sub>4</sub>",
            "1 1/2 comprimido, 1 3⁄4",
        ),
        # A whole page, a parser's limits, damage.
        (
            "<!DOCTYPE html><html lang=pt-BR><head><title>Dor</title></head><body>Sim</body></html>",
            "Dor\nSim",
        ),
        (
            '<p class=MsoNormal style="margin:0"id=x>Beba<br clear=all />água<input disabled></p>',
            "Beba\nágua",
        ),
        ("Dói 1 <!-- e 2, <b>3</b>\x1e4", "Dói 1 e 2, 3 4"),
        ("Dói<style>p {}</style> 1 <script>alert(1)", "Dói 1"),
    ],
)
def test_stripping_html_leaves_words_and_numbers_as_a_reader_sees_them(
    text: str, meant: str
) -> None:
    assert clean.repair(text) == (meant, ["html_stripped"])


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("Minha glicemia <em jejum> deu 99", ...),
        ("Se <a 100 e >a 60, ou PA <i e PA = 12 ou > 14", ...),
        ("Se <a meta=7% e >a anterior", ...),
        ("<b>Mudar</b> <style de vida em 12 meses", "Mudar <style de vida em 12 meses"),
        ("PA &lt;a média&gt; e &lt;a&gt; de 12", "PA <a média> e <a> de 12"),
        ("Nível &lt;script&gt; de 12", "Nível <script> de 12"),
        # What had been escaped is a tag if it ends, or if it stands on its own.
        ("&lt;b&gt;Sim&lt;/b&gt;,&lt;br&gt;&lt;p class='x'&gt;12", "Sim,\n12"),
        ("Dor &lt;script&gt;alert(1)&lt;/script&gt; forte", "Dor forte"),
    ],
)
def test_a_word_that_is_also_the_name_of_a_tag_stays(text: str, meant: object) -> None:
    assert clean.repair(text)[0] == (text if meant is ... else meant)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("Tenho câncer. Ele disse “AMANHÃ” ontem", ...),
        ("De MANHÃ\xa0e à noite", "De MANHÃ e à noite"),
        ("Minha IRMÃ\xa0tem dor, e a outra IRMÃ– não", "Minha IRMÃ tem dor, e a outra IRMÃ– não"),
        ("VocÃª disse “AMANHÃ” \U000f0000", "Você disse “AMANHÃ” \U000f0000"),
    ],
)
def test_ftfy_repairs_the_damage_and_not_the_words_in_capitals(text: str, meant: object) -> None:
    assert clean.repair(text)[0] == (text if meant is ... else meant)


def test_a_word_in_capitals_before_a_quote_is_not_refused_as_mojibake(
    tiny: Path, tmp_path: Path
) -> None:
    result = settle(
        [row("Tenho câncer. Ele disse “AMANHÃ” ontem, devo esperar?"), row()], tiny, tmp_path
    )
    assert (result.refused, len(result.kept["train"])) == ([], 2)


@pytest.mark.parametrize(
    "part",
    ["<!--", "<!-->", "<script>", "<style", "<b>", "<p>", '<a x="', "&lt;b&gt;", "<sup> ", "<a   "],
)
# A million characters read once take a second; read again from every opening they took hours.
@pytest.mark.timeout(60)
def test_a_field_full_of_openings_is_read_once(part: str) -> None:
    assert "<p>" not in clean.strip_html(part * (1_000_000 // len(part)))


def test_repairs_are_counted(tiny: Path, tmp_path: Path) -> None:
    result = settle([row("VocÃª estÃ¡ com <b>muita</b> dor agora?"), row()], tiny, tmp_path)
    assert result.kept["train"][0]["question"] != result.kept["train"][1]["question"]
    assert (
        result.counts["repaired mojibake_repaired"],
        result.counts["repaired html_stripped"],
    ) == (1, 1)


# 529.982.247-25 is the usual example: its check digits are right.
PERSONAL = "Meu CPF é 529.982.247-25, moro na Rua das Flores, 12. Posso tomar dipirona hoje?"


def test_personal_data_is_redacted_and_counted(tiny: Path, tmp_path: Path) -> None:
    result = settle([row(PERSONAL)], tiny, tmp_path)
    assert (
        result.kept["train"][0]["question"]
        == "Meu CPF é [CPF], moro na [ENDEREÇO]. Posso tomar dipirona hoje?"
    )
    assert {name: count for name, count in result.counts.items() if name.startswith("privacy")} == {
        "privacy cpf": 1,
        "privacy address": 1,
        "privacy rows": 1,
    }


def test_personal_data_can_be_quarantined_and_leaves_no_digit_there(
    tiny: Path, tmp_path: Path
) -> None:
    result = settle([row(PERSONAL), row()], tiny, tmp_path, settings(rows="quarantine"))
    assert [r["reason"] for r in result.refused] == ["personal data (address, cpf)"]
    assert "529" not in json.dumps(result.refused)
    assert len(result.kept["train"]) == 1


def test_personal_data_can_stop_the_stage_with_file_and_line(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"demo: f\.csv:4: the row holds personal data \(address, cpf\), and privacy\.rows is fail",
    ):
        settle([row(PERSONAL, line=4)], tiny, tmp_path, settings(rows="fail"))


def test_text_is_normalised_and_ids_are_stable(tiny: Path, tmp_path: Path) -> None:
    result = settle(
        [row("Na\u0303o\u200b  dói mais?\r\n", " Beba\u00a0água e descanse bem. ")], tiny, tmp_path
    )
    example = result.kept["train"][0]
    assert (example["question"], example["answer"]) == (
        "Não dói mais?",
        "Beba água e descanse bem.",
    )
    # printf 'demo\x1fNão dói mais?\x1fBeba água e descanse bem.' | sha256sum, first 16 hex digits.
    assert example["id"] == "5cb3d45da52e5d58"


@pytest.mark.parametrize(
    ("limit", "reason"),
    [("max_prompt_tokens", "prompt longer than"), ("max_tokens", "longer than")],
)
def test_a_row_longer_than_the_limit_is_refused_never_cut(
    limit: str, reason: str, tiny: Path, tmp_path: Path
) -> None:
    assert (
        settle([row()], tiny, tmp_path, settings(**{limit: 20})).refused[0]["reason"]
        == f"{reason} 20 tokens"
    )


def test_lengths_counted_in_bulk_are_those_that_training_sees(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    pairs = [(r["question"], r["answer"]) for r in DEMO[:40]] + [
        ("Dói?\n\nMuito?", "Sim.\n1. Beba água\n2. Descanse")
    ]
    for pair, lengths in zip(pairs, token_lengths(tokenizer, pairs), strict=True):
        encoded = encode(
            tokenizer,
            Example(
                id="0" * 16,
                source="s",
                license="l",
                split="train",
                question=pair[0],
                answer=pair[1],
            ),
        )
        assert lengths == (len(encoded.prompt), len(encoded.input_ids))


# --- splits -------------------------------------------------------------------------------------------------


def test_paraphrases_share_a_group() -> None:
    assert clean.group_key("A febre é alta. Posso dar banho?") == clean.group_key(
        "posso dar BANHO, febre alta"
    )
    assert clean.group_key("Dói o pé?") != clean.group_key("Dói a mão?")
    assert clean.group_key("É aí?") == "é aí"


def synthetic(count: int, seed: int) -> Iterator[Row]:
    """Rows of random words of the corpus, which repeat no other."""
    random = numpy.random.default_rng(seed)
    vocabulary = sorted({word for r in DEMO for word in f"{r['question']} {r['answer']}".split()})
    for line in range(count):
        question, answer = (" ".join(random.choice(vocabulary, size)) for size in (12, 30))
        yield row(question + "?", answer + ".", None, line)


def test_new_rows_move_no_old_row_between_splits(tiny: Path, tmp_path: Path) -> None:
    params = settings(dev_share=0.1, validation_share=0.1)
    old = list(synthetic(400, 1))
    # Ten per cent more: some new, some near to old ones, before and among and after them.
    edited = [
        r | {"question": f"Doutor, {r['question']}", "answer": r["answer"] + " Melhoras."}
        for r in old[:20]
    ]
    new = [*list(synthetic(20, 2)), *edited]
    before = settle(old, tiny, tmp_path, params).kept
    after = settle(
        [*new[:15], *old[:200], *new[15:30], *old[200:], *new[30:]], tiny, tmp_path, params
    )
    place = {example["id"]: split for split, examples in after.kept.items() for example in examples}
    stood = {example["id"]: split for split, examples in before.items() for example in examples}
    assert [
        identity for identity, split in stood.items() if place.get(identity, split) != split
    ] == []
    # An old row vanishes only if the edited copy of it ranks before it: of each of the 20 pairs one leaves, with its reason.
    twins = {example_id(r["source"], r["question"], r["answer"]) for r in old[:20]}
    left = {r["id"] for r in after.refused if r["reason"].startswith("near-duplicate ")}
    assert (len(stood), len(after.refused), len(left)) == (400, 20, 20)
    assert stood.keys() - place.keys() == twins & left
    # 0.4 of 400 in train, 0.1 in each other; three standard deviations of a binomial are 29 and 18.
    counts = {split: len(examples) for split, examples in before.items()}
    assert abs(counts["train"] - 160) <= 29
    assert all(abs(counts[split] - 40) <= 18 for split in counts if split != "train")


# --- repetitions --------------------------------------------------------------------------------------------

QUESTION = (
    "Minha filha de dois anos está com febre alta desde ontem, posso dar banho frio para baixar?"
)
ANSWER = (
    "Não use água fria nem álcool. Tire o excesso de roupa, ofereça líquidos e dê o antitérmico que o pediatra orientou. "
    "Procure atendimento se a febre durar mais de dois dias, ou já se ela estiver molinha."
)
OTHER = (
    "Febre sozinha não faz mal ao cérebro. Observe se ela brinca e bebe água quando a temperatura cede, e anote os horários. "
    "Leve ao pronto-socorro hoje mesmo se houver manchas na pele, vômitos ou dificuldade para respirar."
)
# One word of sixteen changed: fifteen 2-word shingles of which two are lost and two are new, 13 / 17.
NEARLY = QUESTION.replace("alta", "forte")


def test_the_same_text_in_other_case_is_kept_once(tiny: Path, tmp_path: Path) -> None:
    result = settle(
        [row(QUESTION, ANSWER), row(QUESTION.upper(), ANSWER.replace(",", " ;"))], tiny, tmp_path
    )
    assert len(result.kept["train"]) == 1
    assert result.refused[0]["reason"] == f"same text as {result.kept['train'][0]['id']} in train"


def without_accents(text: str) -> str:
    """As many people type."""
    return "".join(
        sign for sign in unicodedata.normalize("NFD", text) if unicodedata.category(sign) != "Mn"
    )


@pytest.mark.parametrize("answered", ["anew", "the same"])
def test_a_validation_question_typed_without_accents_leaves_train(
    answered: str, tiny: Path, tmp_path: Path
) -> None:
    pairs = [
        r for name in SET_NAMES for r in read_rows(ROOT / f"data/demo/validation/{name}.jsonl")
    ]
    assert sum(without_accents(r["question"]) != r["question"] for r in pairs) > 100
    asked = [row(r["question"], r["answer"], "A") for r in pairs]
    said = [... if answered == "anew" else without_accents(r["answer"]) for r in pairs]
    typed = [
        row(without_accents(r["question"]), answer) for r, answer in zip(pairs, said, strict=True)
    ]
    result = settle([*typed, *asked, row()], tiny, tmp_path)
    assert (len(result.kept["A"]), len(result.kept["train"]), len(result.refused)) == (
        len(pairs),
        1,
        len(pairs),
    )
    # What stays is as it was written.
    assert {e["question"] for e in result.kept["A"]} == {r["question"] for r in pairs}


def test_texts_are_compared_without_accents(tmp_path: Path) -> None:
    params = load_params(ROOT / "params.yaml").preprocess.near_duplicates
    assert minhash.unaccented("Não, à NOITE: coração, pe\u0301") == "Nao, a NOITE: coracao, pe"
    assert (
        minhash.shingles("Dói à noite", 2)
        == minhash.shingles("doi a noite", 2)
        == {("doi", "a"), ("a", "noite")}
    )
    assert minhash.shingles("Só", 2) == {("so",)}
    bands = minhash.signatures(["Só", "so", "Dói à noite", "doi a noite"], params)
    assert (bands[:, 0] == bands[:, 1]).all() and (bands[:, 2] == bands[:, 3]).all()
    flat, _ = minhash.word_hashes(["coração é", "coracao e"])
    assert (flat[:2] == flat[2:]).all()
    rows: list[Row] = [
        {"example": {"id": "0" * 16, "question": q, "answer": a}}
        for q, a in (("Dói?", "Não."), ("doi", "nao"))
    ]
    clean.write_part(tmp_path, 0, rows, [1, 1], params)
    with numpy.load(tmp_path / "0.npz") as arrays:
        assert all(arrays[name][0] == arrays[name][1] for name in ("question", "whole"))


def test_the_same_text_without_accents_is_kept_once(tiny: Path, tmp_path: Path) -> None:
    result = settle(
        [row(QUESTION, ANSWER), row(without_accents(QUESTION), without_accents(ANSWER))],
        tiny,
        tmp_path,
    )
    assert len(result.kept["train"]) == 1
    assert result.refused[0]["reason"] == f"same text as {result.kept['train'][0]['id']} in train"


def test_two_answers_to_one_question_are_both_kept_within_a_split(
    tiny: Path, tmp_path: Path
) -> None:
    result = settle([row(QUESTION, ANSWER), row(NEARLY, OTHER)], tiny, tmp_path)
    assert len(result.kept["train"]) == 2


def test_a_text_with_a_few_words_changed_is_kept_once(tiny: Path, tmp_path: Path) -> None:
    result = settle([row(QUESTION, ANSWER), row(NEARLY, ANSWER)], tiny, tmp_path)
    assert len(result.kept["train"]) == 1
    assert result.refused[0]["reason"].startswith("near-duplicate text of ")


@pytest.mark.parametrize("split", ["A", "E", "dev"])
def test_a_near_duplicate_of_a_validation_question_leaves_train_never_the_reverse(
    split: str, tiny: Path, tmp_path: Path
) -> None:
    result = settle(
        [row(NEARLY, OTHER, "train"), row(QUESTION, ANSWER, split), row()], tiny, tmp_path
    )
    assert [e["question"] for e in result.kept[split]] == [QUESTION]
    assert len(result.kept["train"]) == 1
    # 17 words a question, 16 shingles, of which the changed word is in two: 14 of 18.
    assert (
        result.refused[0]["reason"]
        == f"near-duplicate question of {result.kept[split][0]['id']} in {split} (0.78)"
    )


def test_two_validation_sets_do_not_ask_the_same(tiny: Path, tmp_path: Path) -> None:
    result = settle([row(QUESTION, ANSWER, "C"), row(QUESTION, OTHER, "B"), row()], tiny, tmp_path)
    assert (len(result.kept["B"]), len(result.kept["C"])) == (1, 0)


def test_similarity_and_bands_by_hand() -> None:
    # {ab, bc, cd} and {ab, bc, ce}: two of four.
    assert minhash.jaccard(minhash.shingles("a b c d", 2), minhash.shingles("A, b. c e", 2)) == 0.5
    assert minhash.shingles("só", 2) == {("so",)}
    params = load_params(ROOT / "params.yaml").preprocess.near_duplicates
    same = minhash.signatures([QUESTION, QUESTION.upper(), ANSWER, "só", "SÓ"], params)
    assert same.shape == (25, 5)
    assert (same[:, 0] == same[:, 1]).all() and (same[:, 3] == same[:, 4]).all()
    assert not (same[:, 0] == same[:, 2]).any()


def test_the_worked_examples_of_similarity_and_runs_in_docs_metrics() -> None:
    a, b, c = (
        minhash.shingles(f"Posso tomar dipirona com {end}?", 2)
        for end in ("febre", "febre alta", "leite")
    )
    assert (minhash.jaccard(a, b), minhash.jaccard(a, c)) == (0.8, 0.6)
    for similarity, expected in ((0.8, 0.99995), (0.7, 0.990), (0.6, 0.868)):
        assert 1 - (1 - similarity**5) ** 25 == pytest.approx(expected, abs=5e-4)
    item = "Tome um comprimido de oito em oito horas por sete dias depois das refeições com água."
    runs = contamination.index_runs([[item]], numpy.array([0]), 13)
    assert len(runs.hashes) == 4
    copied = (
        "Em geral, tome um comprimido de oito em oito horas por sete dias, depois das refeições."
    )
    reworded = (
        "Tome um comprimido de seis em seis horas por sete dias depois das refeições com água."
    )
    for text, found in ((copied, 2), (reworded, 0)):
        hashes, _ = minhash.windows(*minhash.word_hashes([text]), 13)
        assert numpy.count_nonzero(contamination.look_up(hashes, runs.hashes) >= 0) == found
    assert minhash.jaccard(
        minhash.shingles(item, 2), minhash.shingles(reworded, 2)
    ) == pytest.approx(11 / 19)


def test_a_pair_is_looked_at_as_often_as_the_formula_says() -> None:
    # 1 - (1 - s ** 5) ** 25 at s = 0.7 is 0.990, at s = 1/3 is 0.098.
    params = load_params(ROOT / "params.yaml").preprocess.near_duplicates
    random = numpy.random.default_rng(3)
    for shared, similarity, expected in ((14, 14 / 20, 0.990), (10, 10 / 30, 0.098)):
        texts = []
        for _ in range(400):
            # Shingles of one word: `shared` common words, and as many of its own for each as the similarity needs.
            common = [f"c{n}" for n in random.integers(10**9, size=shared)]
            own = (round(shared / similarity) - shared) // 2
            texts += [
                " ".join([*common, *(f"{side}{n}" for n in random.integers(10**9, size=own))])
                for side in "ab"
            ]
        bands = minhash.signatures(texts, params.model_copy(update={"shingle_words": 1}))
        seen = (bands[:, ::2] == bands[:, 1::2]).any(axis=0).mean()
        # Three standard deviations of a share over 400 pairs.
        assert abs(seen - expected) <= 3 * (expected * (1 - expected) / 400) ** 0.5 + 0.01


def pairs_of(key: list[int], split: list[int], reach: int, inside: bool) -> set[tuple[int, int]]:
    arrays = numpy.array(key, dtype=numpy.uint64), numpy.array(split, dtype=numpy.int16)
    return {
        (int(a), int(b))
        for early, late in minhash.candidates(*arrays, reach, inside)
        for a, b in zip(early, late, strict=True)
    }


def test_candidates_pair_each_text_with_those_before_it_and_those_first() -> None:
    # Equals 0 2 3 5 6 of one split: each with the one before it, and with the first.
    assert pairs_of([7, 1, 7, 7, 2, 7, 7], [0] * 7, 1, True) == {
        (0, 2),
        (2, 3),
        (3, 5),
        (5, 6),
        (0, 3),
        (0, 5),
        (0, 6),
    }
    assert pairs_of([7, 1, 7, 7, 2, 7, 7], [0] * 7, 1, False) == set()


def test_candidates_pair_each_text_with_the_first_of_every_earlier_split() -> None:
    # Splits 0 0 0 | 1 | 2 2 with equal keys: 3 with 0; 4 and 5 with 0 and with 3.
    assert pairs_of([7] * 6, [0, 0, 0, 1, 2, 2], 1, False) == {
        (0, 3),
        (0, 4),
        (0, 5),
        (3, 4),
        (3, 5),
    }
    assert pairs_of([7] * 6, [0, 0, 0, 1, 2, 2], 2, False) == {
        (0, 3),
        (1, 3),
        (0, 4),
        (1, 4),
        (0, 5),
        (1, 5),
        (3, 4),
        (3, 5),
    }
    assert pairs_of([7, 8, 7, 8], [0, 0, 1, 2], 3, True) == {(0, 2), (1, 3)}


# --- contamination ------------------------------------------------------------------------------------------

ITEM: Row = {
    "id": "q1",
    "question": QUESTION,
    "opa": "Banho frio",
    "opb": "Água",
    "opc": "água!",
    "opd": "Álcool",
    "cop": 1,
}
LEAF = {
    "doc_id": "l1",
    "title": "Febre",
    "context": ANSWER,
    "question": "Quando procurar?",
    "text": ANSWER + " Procure se a febre",
    "value": "durar",
}


def test_a_training_row_that_gives_a_benchmark_item_away_leaves_and_is_counted(
    tiny: Path, tmp_path: Path
) -> None:
    # Thirteen words of ANSWER inside another answer, and a question that is nearly the item's.
    run = " ".join(ANSWER.split()[5:19])
    rows = [
        row(answer=f"Pode ser outra coisa. {run} Converse com quem atende você."),
        row(NEARLY, OTHER),
        row(),
        row(split="A"),
    ]
    items: dict[str, list[Row]] = {"mcq": [ITEM], "leaf": [LEAF]}
    result = settle(rows, tiny, tmp_path, items=items)
    assert len(result.kept["train"]) == 1
    assert sorted(r["reason"].split(" of ")[0].split(" with ")[0] for r in result.refused) == [
        "near-duplicate question",
        "shares 13 words in a row",
    ]
    found = {"items": 1, "train_rows": 1, "train_rows_left": 0}
    assert result.matrix["mcq"] == found | {
        "items_shared_run": 0,
        "items_near_duplicate": 1,
        "train_rows_shared_run": 0,
        "train_rows_near_duplicate": 1,
    }
    assert result.matrix["leaf"] == found | {
        "items_shared_run": 1,
        "items_near_duplicate": 0,
        "train_rows_shared_run": 1,
        "train_rows_near_duplicate": 0,
    }
    assert result.matrix["A"]["items"] == 1 and result.matrix["A"]["train_rows"] == 0
    keep = settings(
        contamination=settings().preprocess.contamination.model_copy(update={"policy": "keep"})
    )
    kept = settle(rows, tiny, tmp_path, keep, items)
    assert len(kept.kept["train"]) == 3
    assert kept.matrix["mcq"]["train_rows_left"] == kept.matrix["leaf"]["train_rows_left"] == 1


DAMAGE: dict[str, Callable[[str], str]] = {
    "soft hyphens": lambda text: text.replace("a", "a\u00ad"),
    "entities": lambda text: text.replace("o", "&#111;"),
    "tags": lambda text: "".join(f"<b>{sign}</b>" if sign == "e" else sign for sign in text),
    "NFD": lambda text: unicodedata.normalize("NFD", text),
    "mojibake": lambda text: text.encode().decode("latin-1"),
    "personal data": lambda text: text.replace("febre", "febre CPF 529.982.247-25"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_benchmark_item_finds_its_clean_copy_in_train(
    damage: str, tiny: Path, tmp_path: Path
) -> None:
    hurt = DAMAGE[damage]
    run = " ".join(ANSWER.split()[5:24])
    asked = hurt(QUESTION) if damage == "personal data" else QUESTION
    shared = hurt(run) if damage == "personal data" else run
    rows = [
        row(asked),
        row(answer=f"Pode ser outra coisa. {shared} Converse com quem atende você."),
        row(),
    ]
    items: dict[str, list[Row]] = {
        "mcq": [{"question": hurt(QUESTION), "choices": {"text": ["Banho", "Soro"]}}],
        "leaf": [{"question": "Quando procurar?", "text": hurt(ANSWER)}],
    }
    result = settle(rows, tiny, tmp_path, items=items)
    assert len(result.kept["train"]) == 1
    assert (
        result.matrix["mcq"]["train_rows_near_duplicate"],
        result.matrix["leaf"]["train_rows_shared_run"],
    ) == (1, 1)
    # Only compared: the id is that of the item as it stands in the benchmark.
    write_jsonl(tmp_path / "mcq.jsonl", items["mcq"])
    expected = example_id("mcq", hurt(QUESTION), "Banho Soro")
    assert contamination.benchmark_rows(tmp_path / "mcq.jsonl")[0]["example"]["id"] == expected


@pytest.mark.parametrize("policy", ["remove", "keep"])
def test_a_crowd_of_items_that_ask_the_same_hides_no_validation_question(
    policy: str, tiny: Path, tmp_path: Path
) -> None:
    items = [ITEM | {"id": str(n), "opa": str(n)} for n in range(20)]
    rows = [row(QUESTION, split="train") for _ in range(10)] + [row(QUESTION, ANSWER, "A"), row()]
    params = settings(
        contamination=settings().preprocess.contamination.model_copy(update={"policy": policy})
    )
    result = settle(rows, tiny, tmp_path, params, {"mcq": items})
    # Whatever becomes of benchmarks' questions, those of validation are never trained on.
    assert len(result.kept["train"]) == 1
    assert (
        result.matrix["mcq"]["items_near_duplicate"],
        result.matrix["A"]["train_rows_near_duplicate"],
    ) == (20, 10)


def test_rows_beyond_the_limit_are_counted(workspace: Path, tiny: Path) -> None:
    prepare(workspace, tiny, [row(split=s) for s in clean.SPLITS for n in range(5)])
    edit_params(workspace / "params.yaml", lambda p: p["preprocess"].update(train_limit=2))
    stage.main()
    metrics = json.loads((workspace / "metrics/preprocess.json").read_text(encoding="utf-8"))
    assert (metrics["train"]["examples"], metrics["train"]["beyond_limit"]) == (2, 3)


def test_twelve_shared_words_are_no_run_of_thirteen() -> None:
    one = contamination.index_runs(
        [["z"], ["a b c d e f g h i j k l m n"]], numpy.array([0, 1]), 13
    )
    assert (one.item == 1).all() and (one.sets == 2).all()
    assert len(one.hashes) == 2
    for text, expected in (
        ("x a b c d e f g h i j k l y", 0),
        ("x b c d e f g h i j k l m n y", 1),
    ):
        hashes, _ = minhash.windows(*minhash.word_hashes([text]), 13)
        assert numpy.count_nonzero(contamination.look_up(hashes, one.hashes) >= 0) == expected


def test_a_run_never_crosses_from_one_text_to_the_next() -> None:
    assert len(minhash.windows(*minhash.word_hashes(["a b", "c d e"]), 3)[0]) == 1
    assert len(minhash.windows(*minhash.word_hashes([]), 3)[0]) == 0


def test_items_are_read_in_the_forms_of_the_benchmarks(tmp_path: Path) -> None:
    assert contamination.item_texts(ITEM) == (QUESTION, "Banho frio Água água! Álcool")
    nested: Row = {
        "question": "Qual é?",
        "options": {"A": "um texto", "B": "outro"},
        "answers": {"text": ["um texto"]},
    }
    assert contamination.item_texts(nested) == ("Qual é?", "um texto outro um texto")
    # The context stands inside the text, and is said once.
    assert contamination.item_texts(LEAF) == ("Quando procurar?", LEAF["text"])
    write_jsonl(
        tmp_path / "mcq.jsonl",
        [ITEM, ITEM | {"opc": "Soro"}, {"question": "q", "choices": {"text": ["a", "A"]}}],
    )
    assert contamination.duplicate_options(tmp_path / "mcq.jsonl") == [1, 3]


def test_real_benchmark_items_are_read_and_found_in_train(tiny: Path, tmp_path: Path) -> None:
    real = ROOT.parent / "shared/real/medqa-us4-test"
    if not real.exists():
        pytest.skip("the real items are not on this machine")
    path = next(real.glob("*.jsonl"))
    rows = contamination.benchmark_rows(path)
    assert len(rows) == 1273
    assert all(len(r["example"]["question"]) > 20 and r["example"]["answer"] for r in rows)
    # Item 263 has options of arrows alone, all four different.
    assert contamination.duplicate_options(path) == []
    # An item asked in the training rows is found there, among all 1,273.
    items = list(read_rows(path))
    excerpt = " ".join(items[700]["question"].split()[5:25])
    rows_ = [row(answer=f"Leia isto com calma: {excerpt}"), row(), row(split="A")]
    result = settle(rows_, tiny, tmp_path, settings(languages=["pt", "en"]), {"medqa": items})
    assert result.matrix["medqa"] | {"items": 0} == {
        "items": 0,
        "items_near_duplicate": 0,
        "items_shared_run": 1,
        "train_rows": 1,
        "train_rows_left": 0,
        "train_rows_near_duplicate": 0,
        "train_rows_shared_run": 1,
    }


def test_nearest_overlap_is_the_share_of_word_5_grams() -> None:
    # "q a b c d e f" has the 5-grams qabcd, abcde, bcdef; "x a b c d e" shares abcde alone: one of three.
    train = [
        {"id": "2", "question": "q", "answer": "z z z z z"},
        {"id": "3", "question": "q", "answer": "x a b c d e"},
    ]
    assert contamination.nearest({"1": "q a b c d e f"}, iter(train), 5) == {"1": (1 / 3, "3")}


# --- shards and workers -------------------------------------------------------------------------------------


def test_shards_hold_every_line_once_whatever_their_size(tmp_path: Path) -> None:
    lines = [b"x" * n + b"\n" for n in (1, 5, 0, 30, 2, 2, 9)]
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
    for size in range(1, 60):
        pieces = shards.cut([tmp_path / "a.jsonl"], size)
        assert [line for piece in pieces for line in shards.shard_lines(piece)] == lines


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_two_processes_and_a_cluster_of_two_write_the_same_bytes_as_one(
    workspace: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import LocalCluster

    rows = [
        *synthetic(120, 5),
        row(QUESTION, ANSWER),
        row(NEARLY, ANSWER),
        row(QUESTION, OTHER, "A"),
        row(PERSONAL),
        row("?"),
    ]
    prepare(workspace, tiny, [r | {"line": line} for line, r in enumerate(rows, start=1)])
    monkeypatch.setattr(shards, "SHARD_BYTES", 20_000)
    monkeypatch.setattr(shards.cut, "__defaults__", (20_000,))
    seen = []
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        monkeypatch.setenv(shards.SCHEDULER, cluster.scheduler_address)
        for compute in (
            {"workers": 1, "scheduler": "none"},
            {"workers": 2, "scheduler": "none"},
            {"workers": 1, "scheduler": "dask"},
        ):
            edit_params(
                workspace / "params.yaml",
                functools.partial(dict.update, compute=compute | {"tracker": "none"}),
            )
            stage.main()
            seen.append(
                contents(workspace / "data/clean")
                | contents(workspace / "metrics")
                | {"q": (workspace / "data/quarantine.jsonl").read_bytes()}
            )
    assert seen[0] == seen[1] == seen[2]
    assert len(list(read_rows(workspace / "data/quarantine.jsonl"))) >= 3


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("", "does not name a scheduler"),
        ("tcp://10.0.0.5:8786", "must be reached over TLS"),
        ("tcp://localhost.example.org:8786", "must be reached over TLS"),
        ("ws://127.0.0.1:8786", "must be reached over TLS"),
        ("8786", "must be reached over TLS"),
    ],
)
def test_a_scheduler_on_another_machine_is_reached_over_tls_alone(
    address: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A scheduler sends pickles, which can run any code.
    monkeypatch.setenv(shards.SCHEDULER, address)
    with pytest.raises(UserError, match=f"^DASK_SCHEDULER_ADDRESS: .*{what}"):
        shards.scheduler_address()


@pytest.mark.parametrize(
    "address",
    ["tls://10.0.0.5:8786", "tcp://127.0.0.1:8786", "tcp://[::1]:8786", "tcp://localhost:8786"],
)
def test_a_scheduler_over_tls_or_on_this_machine_is_taken(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(shards.SCHEDULER, address)
    assert shards.scheduler_address() == address


# --- the stage ----------------------------------------------------------------------------------------------


def prepare(workspace: Path, tiny: Path, rows: list[Row]) -> None:
    """Raw rows, benchmark items and a tokenizer where the stage looks for them."""
    (workspace / "models/base").symlink_to(tiny)
    write_jsonl(workspace / "data/raw/demo.jsonl", rows)
    for task in load_params().ingest.benchmarks:
        write_jsonl(
            workspace / f"data/benchmarks/{task.name}.jsonl",
            list(
                read_rows(Path("data/demo/benchmarks") / f"{task.name.removeprefix('bula_')}.jsonl")
            ),
        )


def test_the_stage_writes_splits_card_evidence_and_metrics(workspace: Path, tiny: Path) -> None:
    rows = [row(split=split, line=n) for split in clean.SPLITS for n in range(3)]
    prepare(workspace, tiny, [*rows, row("Sem resposta aqui?", None, line=9)])
    stage.main()
    names = sorted(
        str(p.relative_to(workspace / "data/clean"))
        for p in (workspace / "data/clean").rglob("*")
        if p.is_file()
    )
    sets = [f"validation/{s}.jsonl" for s in SET_NAMES]
    assert names == [
        "README.md",
        "contamination.jsonl",
        "dev.jsonl",
        "overlap.jsonl",
        "train.jsonl",
        *sets,
    ]
    assert next(read_rows(workspace / "data/quarantine.jsonl"))["reason"] == "answer is missing"
    metrics: dict[str, Any] = json.loads(
        (workspace / "metrics/preprocess.json").read_text(encoding="utf-8")
    )
    assert metrics["quarantine"] == {"rows": 1, "answer_is_missing": 1}
    assert metrics["train"]["examples"] == 3
    matrix = json.loads((workspace / "metrics/contamination.json").read_text(encoding="utf-8"))
    assert set(matrix) == {*SET_NAMES, *(task.name for task in load_params().ingest.benchmarks)}
    assert leftovers(workspace) == []


def test_the_card_loads_as_a_data_set_and_warns_of_closed_sources(
    workspace: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def close(params: dict[str, Any]) -> None:
        params["ingest"]["sources"][0] |= {"license": "proprietary", "redistribution": "forbidden"}

    edit_params(workspace / "params.yaml", close)
    prepare(
        workspace,
        tiny,
        [row(split=split, line=n) for split in clean.SPLITS for n in range(2)] + [row(PERSONAL)],
    )
    stage.main()
    card = (workspace / "data/clean/README.md").read_text(encoding="utf-8")
    assert (
        "**Holds rows of demo, which may not be redistributed: keep it off public remotes.**"
        in card
    )
    assert "| demo | demo | proprietary | forbidden | not stated | 15 |" in card
    assert "Found in 1 rows and treated by the rule `redact`: cpf 1, address 1." in card
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", workspace / "cache")
    loaded = datasets.load_dataset(
        str(workspace / "data/clean"), cache_dir=str(workspace / "cache")
    )
    assert {name: len(split) for name, split in loaded.items()} == {
        "train": 3,
        "dev": 2,
    } | dict.fromkeys(SET_NAMES, 2)


def test_what_ingest_did_not_write_is_a_sentence_before_any_output(
    workspace: Path, tiny: Path
) -> None:
    prepare(workspace, tiny, [row(split=split) for split in clean.SPLITS])
    item = workspace / "data/benchmarks/bula_medmcqa.jsonl"
    for file, content, what in (
        (
            "raw/demo.jsonl",
            "{broken\n",
            "demo.jsonl: it holds a line that ingest did not write. Run `dvc repro --force ingest`",
        ),
        ("raw/demo.jsonl", '{"question": "a"}\n', "it holds a line that ingest did not write"),
        ("raw/demo.jsonl", "", "data/raw/demo.jsonl: the file is empty. Run `dvc repro ingest`"),
        ("raw/other.jsonl", "", "data/raw: 1 files there belong to no source of params.yaml. Run"),
        ("benchmarks/bula_medmcqa.jsonl", "", "bula_medmcqa.jsonl: the file is empty"),
    ):
        path = workspace / "data" / file
        before = path.read_text(encoding="utf-8") if path.exists() else None
        path.write_text(content, encoding="utf-8")
        with pytest.raises(UserError) as caught:
            stage.main()
        assert what in str(caught.value)
        path.unlink()
        if before is not None:
            path.write_text(before, encoding="utf-8")
    item.unlink()
    with pytest.raises(UserError, match="the file does not exist"):
        stage.main()
    assert not (workspace / "data/clean").exists()
    assert leftovers(workspace) == []


def test_the_card_tells_of_names_and_shows_text_literally() -> None:
    params = settings()
    mine: dict[str, object] = {
        "kind": "files",
        "name": "clinic_1",
        "path": "data/sources/a.csv",
        "names": "present",
        "encoding": "utf-8",
    }
    mine |= {
        "columns": {"question": "q", "answer": "a", "specialty": "", "kind": ""},
        "filter": {},
        "limit": 0,
        "role": "train",
    }
    source = FilesSource.model_validate(mine | {"license": "cc0-1.0", "redistribution": "allowed"})
    present = params.model_copy(
        update={"ingest": params.ingest.model_copy(update={"sources": [source]})}
    )
    assert names_notice(params) == ""
    assert (
        names_notice(present)
        == "**Rows of clinic_1 hold names of people, which were not removed.**\n\n"
    )
    assert as_table(("a",), [("x|y <b>\n# z",)]) == "| a |\n| --- |\n| x\\|y &lt;b&gt; \\# z |\n\n"


def test_an_empty_validation_set_is_a_sentence_and_no_output(workspace: Path, tiny: Path) -> None:
    prepare(workspace, tiny, [row(split=s) for s in ("A", "B", "C", "D", "dev", "train")])
    with pytest.raises(
        UserError,
        match=r"no examples left for E; data/quarantine\.jsonl says why 0 rows were refused",
    ):
        stage.main()
    assert not (workspace / "data/clean").exists()
    assert not (workspace / "metrics").exists()
    assert leftovers(workspace) == []


def test_train_is_limited_to_an_unbiased_stable_sample(workspace: Path, tiny: Path) -> None:
    prepare(workspace, tiny, [row(split=s) for s in clean.SPLITS for n in range(10)])
    edit_params(workspace / "params.yaml", lambda p: p["preprocess"].update(train_limit=4))
    stage.main()
    ids = [r["id"] for r in read_rows(workspace / "data/clean/train.jsonl")]
    assert len(ids) == 4
    assert ids == sorted(ids)


def test_every_demo_row_survives_preprocessing(
    tiny: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    from stages.ingest.sources import read_source

    params = settings()
    rows = [
        r for source in params.ingest.sources for r in read_source(source, params.ingest.limits)
    ]
    items = {
        task.name: list(read_rows(ROOT / task.path))
        for task in params.ingest.benchmarks
        if task.kind == "files"
    }
    result = settle(rows, tiny, tmp_path, params, items)
    assert result.refused == []
    assert all(figures["train_rows"] == 0 for figures in result.matrix.values())
    example = Example.model_validate(result.kept["train"][0])
    assert tokenizer.decode(encode(tokenizer, example).completion) == example.answer + "<|im_end|>"
