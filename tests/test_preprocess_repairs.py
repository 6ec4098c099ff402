"""Test the repair of escapes, lost accents, the language of a pair, and long rows."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from bench.clones import ROOT
from bula.language import pair_language
from bula.models import load_tokenizer
from bula.params import Preprocess, load_params
from bula.prompts import encode
from bula.records import SET_NAMES, Example, example_id
from bula.text import sentences
from stages.preprocess.clean import repair_text
from stages.preprocess.encoding import has_lost_accents
from stages.preprocess.long_rows import fit_example
from tests.test_preprocess import deduplicate_rows, fresh, row, settings

PARAMS = load_params(ROOT / "profiles/smollm2-135m.yaml").preprocess

# --- escapes written as letters ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"Beba \u00e1gua.\n\nSe n\u00e3o ceder", "Beba água.\n\nSe não ceder"),
        (r"Lave.\r\nSeque.\tVolte", "Lave.\nSeque. Volte"),
        (r"linha um\nlinha dois", "linha um\nlinha dois"),
        (r"Ele disse \"sim\" e 120\/80", 'Ele disse "sim" e 120/80'),
        (r"\\u00e9 grave.\\nVolte", "é grave.\nVolte"),
        (r"Sorria \ud83d\ude00 hoje", "Sorria 😀 hoje"),
        (r"Sorria \U0001f600 hoje", "Sorria 😀 hoje"),
        (r"cora\xe7\xe3o", "coração"),
        (r"dor e\ou febre.\nVolte", "dor e\\ou febre.\nVolte"),
        (r"\u003cp\u003eBeba\u003c/p\u003e", "Beba"),
    ],
)
def test_an_escape_becomes_its_character(text: str, expected: str) -> None:
    repaired, repairs = repair_text(text)
    assert repaired == expected
    assert "escapes_repaired" in repairs


def test_escaped_bytes_of_utf_8_are_repaired_as_mojibake() -> None:
    wanted = ("coração", ["escapes_repaired", "mojibake_repaired"])
    assert repair_text(r"cora\xc3\xa7\xc3\xa3o") == wanted


@pytest.mark.parametrize(
    "text",
    [
        r"Dose = \frac{1}{2} mg\n",
        r"Se \theta > 2,\nvolte",
        r"O valor \nabla f\nmuda",
        r"Com \(x\) mg:\n10",
        r"Salve em C:\temp\novo",
        r"Veja \\servidor\novos\textos",
    ],
)
def test_latex_and_paths_of_windows_stay_and_are_counted(text: str) -> None:
    assert repair_text(text) == (text, ["escapes_left"])


@pytest.mark.parametrize(
    "text",
    [
        *(r"\ud83d", "100 % \\", "a\\b"),
        # A backslash in place of a slash.
        *(r"Dói? sim\não", r"Tome de manhã\tarde\noite", r"dias\noites"),
    ],
)
def test_a_backslash_without_an_escape_stays(text: str) -> None:
    assert repair_text(text) == (text, [])


def test_escapes_are_counted(tiny: Path, tmp_path: Path) -> None:
    rows = [row(answer=r"Beba bastante \u00e1gua e descanse.\nVolte depois."), row()]
    result = deduplicate_rows(rows, tiny, tmp_path)
    assert result.counts["repaired escapes_repaired"] == 1
    answers = {kept["answer"] for kept in result.kept["train"]}
    assert "Beba bastante água e descanse.\nVolte depois." in answers


# --- lost accents ---


@pytest.mark.parametrize(
    "text",
    [
        "N?o h? motivo para preocupa??o",
        "A infec??o piorou",
        "Estou com press?o alta",
        "As les?es co?am",
        "infecç?o no pulm?o",
        "avalia????o m??dica",
        "N?O USE. PRESS?O ALTA",
        "Procure um m?dico",
        "Isso conv?m tamb?m",
        "Tome o rem?dio ap?s o almoço",
        "Beba bastante ?gua",
        "Minha crian?a chora",
        "Voc? tem febre",
        "Ol?, tenho febre",
        "Meu beb? chora muito",
        "O diab?tico pode comer",
        "Pode interromp?-la",
        "Tenho les?o no joelho e press?o alta",
        "a lesao e a hipertens?o",
        "N?o como camar?o",
        "As medica?es que a press?o que subiu",
        "uma por??o de arroz",
        "a medica??o faz mal",
        "O c?o mordeu a m?e",
    ],
)
def test_a_question_mark_in_a_word_is_a_lost_accent(text: str) -> None:
    assert has_lost_accents(text)


@pytest.mark.parametrize(
    "text",
    [
        "Devo tomar?",
        "sim?não",
        "Tenho febre?Posso tomar banho?",
        "tomei dipirona ontem?posso tomar hoje",
        "É grave?o que faço?",
        "Passou a dor?o que faco",
        "Veja https://exemplo.org/busca?n=o e exemplo.com/x?o=1",
        "Febre?? Dor???",
        "É isso mesmo??o que faço",
        "É dengue ?ou gripe",
        "Dor? Febre? Tosse?",
        "O que pode ser? tenho febre",
        "É dor? é febre?, não sei",
        "já tomei?não lembro?sim?talvez?quem sabe",
        "Tenho hepatite C?Como tratar",
        "Posso tomar vitamina D?Obrigada",
        "Posso tomar?o remédio é forte",
        "posso tomar?o remedio e forte",
        "Posso beber?os remédios são novos",
        "Faz mal?o médico não disse",
        "Quantas vezes?o rótulo não diz",
        "É normal?o nariz sangra",
        "Devo ir também?o posto abre",
        "Pode ser HIV?o teste deu negativo",
        "Parei o Ozempic?o médico sabe",
        "Dói a barriga??o médico já viu",
        "Posso tomar??o remédio é forte",
        "Falta vitamina D?posso repor",
        "Fiz sorologia para hepatite C?e agora",
    ],
)
def test_a_question_mark_between_words_is_none(text: str) -> None:
    assert not has_lost_accents(text)


def test_many_question_marks_in_a_text_without_accents_are_lost_accents() -> None:
    assert has_lost_accents("op??es: bo?na, fl?cido, dro?ada, ma?ante, tra?ado")


def test_a_row_with_lost_accents_is_refused_by_name(tiny: Path, tmp_path: Path) -> None:
    rows = [row("A medica??o faz mal?"), row(answer="N?o pare de tomar o rem?dio hoje."), row()]
    result = deduplicate_rows(rows, tiny, tmp_path)
    assert [refused["reason"] for refused in result.refused] == [
        "accents replaced by ? (question)",
        "accents replaced by ? (answer)",
    ]


# --- HTML of Word and Outlook ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<p class=MsoNormal>Tome <b>10</b> mg<o:p>&nbsp;</o:p></p>", "Tome 10 mg"),
        (
            "<!--[if gte mso 9]><xml><w:View>Normal</w:View></xml><![endif]--><p>Beba água</p>",
            "Beba água",
        ),
        ("<p><![if !supportLists]>1.<span>&nbsp; </span><![endif]>Lave</p>", "1. Lave"),
        ('<st1:PersonName w:st="on">Dor</st1:PersonName> forte', "Dor forte"),
        ('<?xml:namespace prefix = o ns = "urn:x" /><p>Beba</p>', "Beba"),
        ("<xml><w:LatentStyles>Normal 0</w:LatentStyles></xml>Beba", "Beba"),
        ("<style><!-- p.MsoNormal {margin:0cm;} --></style><div>Beba</div>", "Beba"),
        ("<p style='mso-list:l0 level1 lfo1;text-indent:-18.0pt'>Lave</p>", "Lave"),
        ("<![CDATA[<p>Beba</p>]]>", "Beba"),
        ("Tome <del>5</del><ins>10</ins> <mark>mg</mark>", "Tome 510 mg"),
        ("O exame de <xml> deu 3 <b>mg</b>", "O exame de <xml> deu 3 mg"),
    ],
)
def test_html_of_word_leaves_what_a_reader_sees(text: str, expected: str) -> None:
    assert repair_text(text) == (expected, ["html_stripped"])


@pytest.mark.parametrize(
    "text", ["PA < 120 e p<0,05", "se <obs:tomar> 3", "TFG<60 ou <o que for>", "a <![ b"]
)
def test_signs_beside_words_stay_text(text: str) -> None:
    assert repair_text(text) == (text, [])


# --- language ---

ANSWER = "Sim, pode tomar, mas procure o posto de saúde se a dor não passar em dois dias."
ENGLISH = "You can take it twice a day, but see your doctor if the pain does not go away."


@pytest.mark.parametrize(
    "question",
    [
        # The identifier takes these for Italian, Spanish and French with a score above 0.6.
        "posso comer pizza gravida?",
        "tomo biotina para o cabelo e",
        "Quais sintomas persistentes?",
        "Tem cura?",
    ],
)
def test_a_short_question_is_judged_with_its_answer(question: str) -> None:
    assert pair_language(question, ANSWER, PARAMS) == ""


@pytest.mark.parametrize(
    ("question", "answer", "language"),
    [
        ("Posso tomar sol?", ENGLISH, "en"),
        ("¿Cuánto tiempo dura la fiebre del dengue en los niños pequeños?", ANSWER * 3, "es"),
        ("Can I drink alcohol while I am taking antibiotics for my cough?", ANSWER * 3, "en"),
        (ANSWER * 5, ENGLISH, "en"),
    ],
)
def test_a_long_text_in_another_language_is_found_beside_the_other_text(
    question: str, answer: str, language: str
) -> None:
    assert pair_language(question, answer, PARAMS) == language


# --- long rows ---


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Beba água. Descanse! Dói?", ["Beba água.", " Descanse!", " Dói?"]),
        ("O Dr. Silva e a Dra. Ana viram. Fim", ["O Dr. Silva e a Dra. Ana viram.", " Fim"]),
        ("Faça:\n1. Lave\n2. Seque", ["Faça:\n", "1. Lave\n", "2. Seque"]),
        ("Tome 1.5 mg p. ex. hoje", ["Tome 1.5 mg p. ex. hoje"]),
        ("sem ponto", ["sem ponto"]),
    ],
)
def test_sentences_join_to_their_text(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(smollm2)


SENTENCES = [
    "Beba bastante água durante o dia.",
    "Descanse em um lugar fresco e arejado.",
    "Anote os horários da febre em um papel.",
    "Procure o posto de saúde se piorar.",
]


def long_example(*parts: str, question: str = "O que faço com febre?") -> Example:
    fields = {"id": "0" * 16, "source": "s", "license": "l", "split": "train"}
    return Example.model_validate(fields | {"question": question, "answer": " ".join(parts)})


def fit(
    example: Example, tokenizer: PreTrainedTokenizerBase, **changes: Any
) -> tuple[list[str] | str, Counter[str]]:
    """Return the answers that `fit_example` keeps, or its reason, and the counts."""
    params: Preprocess = PARAMS.model_copy(update=changes)
    encoded = encode(tokenizer, example)
    lengths = (len(encoded.prompt), len(encoded.input_ids))
    counts: Counter[str] = Counter()
    found = fit_example(example, lengths, tokenizer, params, counts)
    if isinstance(found, str):
        return found, counts
    for part, length in found:
        assert length == len(encode(tokenizer, part).input_ids) <= params.max_tokens
        assert part.id == example_id("s", part.question, part.answer) or part is example
    return [part.answer for part, _ in found], +counts


def length_of(tokenizer: PreTrainedTokenizerBase, *parts: str) -> int:
    """Return the tokens of an example with these sentences."""
    return len(encode(tokenizer, long_example(*parts)).input_ids)


def test_a_long_row_of_dots_is_searched_in_linear_time() -> None:
    # A quadratic search would take minutes, and the tests' own limit would end it.
    dots = "." * 90_000
    assert sentences(f"Nome: {dots}fim. Volte.") == [f"Nome: {dots}fim.", " Volte."]


@pytest.mark.parametrize("room", [0, -1])
def test_truncation_keeps_the_most_sentences_that_fit(
    room: int, tokenizer: PreTrainedTokenizerBase
) -> None:
    limit = length_of(tokenizer, *SENTENCES[:3]) + room
    found = fit(long_example(*SENTENCES), tokenizer, long_rows="truncate", max_tokens=limit)
    kept = SENTENCES[: 3 + room]
    assert found == ([" ".join(kept)], {"repaired answers_truncated": 1})


def test_a_split_answer_becomes_examples_of_one_question(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    limit = max(length_of(tokenizer, *SENTENCES[:2]), length_of(tokenizer, *SENTENCES[2:]))
    found = fit(long_example(*SENTENCES), tokenizer, long_rows="split", max_tokens=limit)
    halves = [" ".join(SENTENCES[:2]), " ".join(SENTENCES[2:])]
    assert found == (halves, {"repaired answers_split": 1})


def test_a_sentence_that_does_not_fit_alone_is_left_out_of_a_split_answer(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    limit = length_of(tokenizer, SENTENCES[0], SENTENCES[1])
    endless = "Palavra " * limit + "fim."
    example = long_example(SENTENCES[0], endless, SENTENCES[3])
    found = fit(example, tokenizer, long_rows="split", max_tokens=limit)
    counts = {"repaired answers_split": 1, "repaired answers_truncated": 1}
    assert found == ([SENTENCES[0], SENTENCES[3]], counts)


@pytest.mark.parametrize("rule", ["refuse", "truncate", "split"])
def test_a_long_row_is_refused_if_no_sentence_fits(
    rule: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    limit = length_of(tokenizer, SENTENCES[0]) - 1
    example = long_example(SENTENCES[0].replace(".", ""), SENTENCES[1])
    found, _ = fit(example, tokenizer, long_rows=rule, max_tokens=limit)
    assert found == f"longer than {limit} tokens"


@pytest.mark.parametrize("rule", ["truncate", "split"])
def test_a_long_prompt_is_never_cut(rule: str, tokenizer: PreTrainedTokenizerBase) -> None:
    example = long_example(*SENTENCES, question="O que faço? " * 200)
    found, _ = fit(example, tokenizer, long_rows=rule)
    assert found == f"prompt longer than {PARAMS.max_prompt_tokens} tokens"


def test_a_short_row_is_unchanged_under_every_rule(tokenizer: PreTrainedTokenizerBase) -> None:
    for rule in ("refuse", "truncate", "split"):
        found = fit(long_example(*SENTENCES), tokenizer, long_rows=rule)
        assert found == ([" ".join(SENTENCES)], {})


def test_a_split_answer_that_moves_to_a_validation_set_keeps_its_first_part(
    tiny: Path, tmp_path: Path
) -> None:
    # Two wordings of one answer: their splits are joined after their answers were split.
    answers = [" ".join(fresh()[1] for _ in range(4)) for _ in range(30)]
    rows = [row(answer=answer, split=None) for answer in answers for _ in range(2)]
    params = settings(long_rows="split", dev_share=0.1, validation_share=0.1)
    result = deduplicate_rows(rows, tiny, tmp_path, params)
    starts = set()
    for split in (*SET_NAMES, "dev"):
        starts |= {example["answer"] for example in result.kept[split]}
    assert starts
    for start in starts:
        assert any(answer.startswith(start) for answer in answers)
    assert result.counts["repaired answers_split"] + result.counts[
        "repaired answers_truncated"
    ] == len(rows)


@pytest.mark.parametrize("split", ["train", "B"])
def test_only_training_rows_are_split(split: str, tiny: Path, tmp_path: Path) -> None:
    answer = " ".join(fresh()[1] for _ in range(4))
    long = row("O que faço com febre alta desde ontem?", answer, split=split)
    result = deduplicate_rows([long], tiny, tmp_path, settings(long_rows="split"))
    kept = result.kept[split]
    words = sum(len(part["answer"].split()) for part in kept)
    if split == "train":
        assert len(kept) > 1
        assert words == len(answer.split())
        assert result.counts["repaired answers_split"] == 1
    else:
        assert len(kept) == 1
        assert words < len(answer.split())
        assert result.counts["repaired answers_truncated"] == 1
