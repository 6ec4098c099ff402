"""Test greetings, typos, other words and turns in repeated questions."""

from pathlib import Path

import pytest

from bula.records import Row
from stages.preprocess.courtesy import core
from stages.preprocess.frames import find_frames, is_one_edit
from tests.test_preprocess import deduplicate_rows, row

SHORT = "Sim, pode tomar depois do almoço com água."
LONG = (
    "Esse remédio costuma dar sono nos primeiros dias, por isso evite dirigir e prefira a noite;"
    " se a tontura continuar depois de uma semana, volte ao posto para ajustar a dose."
)
OTHER_LONG = (
    "A bula pede cuidado com quem tem úlcera ou já sangrou do estômago. Nesses casos o médico"
    " costuma trocar o comprimido por outro ou juntar um protetor."
)
FOLLOW_UP = "E se a dor piorar?"
OTHER_ROWS = 12


def refused_in_train(rows: list[Row], tiny: Path, folder: Path) -> list[str]:
    """Return the reasons of refused training rows, and check that no other row left."""
    # Among few rows, most words would be frequent.
    others = [row() for _ in range(OTHER_ROWS)]
    result = deduplicate_rows([*rows, *others], tiny, folder)
    in_train = sum(found["split"] == "train" for found in rows)
    assert len(result.kept["train"]) == in_train + OTHER_ROWS - len(result.refused)
    return [refused["reason"] for refused in result.refused]


# --- greetings ---


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Olá doutor, bom dia! Posso usar iodo? Obrigado", "Posso usar iodo"),
        ("oi dra boa noite posso usar iodo por favor", "posso usar iodo"),
        (
            "Boa tarde, Dra. [NOME]! Tudo bem? Gostaria de saber se posso usar iodo.",
            "posso usar iodo",
        ),
        ("Prezados,\nposso usar iodo?\nAtt,\n[NOME]", "posso usar iodo"),
        ("Posso usar iodo, doutora? Muito obrigada pela atenção. Abraços!", "Posso usar iodo"),
        ("Tenho uma dúvida: posso usar iodo?", "posso usar iodo"),
        # Words of courtesy inside a question stay.
        ("Posso tomar café à noite?", "Posso tomar cafe a noite"),
        ("Devo ligar para o doutor?", "Devo ligar para o doutor"),
        ("Posso dar um abraço?", "Posso dar um abraco"),
        ("Médico pode receitar por telefone?", "Medico pode receitar por telefone"),
        ("Olá, bom dia!", "Olá, bom dia!"),
    ],
)
def test_the_core_of_a_question_has_no_greetings(question: str, expected: str) -> None:
    assert core(question) == expected


@pytest.mark.parametrize(
    "question",
    [
        "Olá doutor, bom dia! Posso tomar dipirona? Obrigado",
        "boa noite dra posso tomar dipirona por favor",
        "Oi, tudo bem? Gostaria de saber se posso tomar dipirona. Desde já agradeço!",
    ],
)
@pytest.mark.parametrize("greeted", ["train", "A"])
def test_a_question_inside_greetings_is_the_same_question(
    question: str, greeted: str, tiny: Path, tmp_path: Path
) -> None:
    plain = "A" if greeted == "train" else "train"
    rows = [row(question, LONG, greeted), row("Posso tomar dipirona?", OTHER_LONG, plain)]
    [reason] = refused_in_train(rows, tiny, tmp_path)
    assert reason.startswith("near-duplicate question of ")


def test_equal_greetings_make_no_equal_questions(tiny: Path, tmp_path: Path) -> None:
    rows = [
        row("Olá doutor, bom dia! Posso tomar dipirona? Obrigado", LONG, "A"),
        row("Olá doutor, bom dia! Posso fazer musculação? Obrigado", OTHER_LONG),
    ]
    assert refused_in_train(rows, tiny, tmp_path) == []


# --- one other word ---


@pytest.mark.parametrize("answer", [SHORT, LONG, LONG.replace("sono", "sonolência")])
def test_a_question_with_one_other_word_and_the_same_answer_leaves_train(
    answer: str, tiny: Path, tmp_path: Path
) -> None:
    first = SHORT if answer == SHORT else LONG
    rows = [
        row("Posso tomar dipirona em jejum?", first, "B"),
        row("Posso usar dipirona em jejum?", answer),
    ]
    [reason] = refused_in_train(rows, tiny, tmp_path)
    assert " in B " in reason


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        # Another answer, another number, another drug that the answer names.
        ("Posso usar dipirona em jejum?", OTHER_LONG),
        ("Posso tomar dipirona em gotas?", OTHER_LONG),
        ("Posso tomar naproxeno em jejum?", f"O naproxeno irrita. {OTHER_LONG}"),
    ],
)
def test_a_question_with_one_other_word_and_another_answer_stays(
    question: str, answer: str, tiny: Path, tmp_path: Path
) -> None:
    rows = [row("Posso tomar dipirona em jejum?", LONG, "B"), row(question, answer)]
    assert refused_in_train(rows, tiny, tmp_path) == []


def test_another_number_is_another_question(tiny: Path, tmp_path: Path) -> None:
    rows = [
        row("Qual a dose para 10 quilos?", SHORT, "B"),
        row("Qual a dose para 12 quilos?", SHORT),
    ]
    assert refused_in_train(rows, tiny, tmp_path) == []


def test_a_form_of_many_questions_stays_although_the_answers_are_equal(
    tiny: Path, tmp_path: Path
) -> None:
    names = ("dipirona", "losartana", "naproxeno", "cetoprofeno", "loratadina", "fluoxetina")
    rows = [row(f"Posso tomar {name} em jejum?", SHORT) for name in names]
    rows[0]["split"] = "C"
    assert refused_in_train(rows, tiny, tmp_path) == []


# --- typos ---


@pytest.mark.parametrize("typo", ["dipirna", "dipironna", "diporona", "dipiorna", "dpirona"])
@pytest.mark.parametrize("misspelt", ["train", "D"])
def test_a_typo_in_the_name_of_a_drug_is_the_same_question(
    typo: str, misspelt: str, tiny: Path, tmp_path: Path
) -> None:
    plain = "D" if misspelt == "train" else "train"
    rows = [
        row(f"Posso tomar {typo} em jejum?", LONG, misspelt),
        row("Posso tomar dipirona em jejum?", OTHER_LONG, plain),
    ]
    [reason] = refused_in_train(rows, tiny, tmp_path)
    assert reason.startswith("near-duplicate question of ")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("prednisona", "prednisolona"),
        ("hipertensão", "hipotensão"),
        ("losartana", "valsartana"),
        ("omeprazol", "esomeprazol"),
    ],
)
def test_names_that_differ_by_more_than_one_letter_are_no_typos(
    one: str, other: str, tiny: Path, tmp_path: Path
) -> None:
    rows = [
        row(f"Quem tem tontura com {one} deve parar?", LONG, "A"),
        row(f"Quem tem tontura com {other} deve parar?", OTHER_LONG),
    ]
    assert refused_in_train(rows, tiny, tmp_path) == []


def test_a_name_that_its_answer_repeats_is_no_typo(tiny: Path, tmp_path: Path) -> None:
    rows = [
        row("Posso comer alimento com sulfato?", LONG, "A"),
        row("Quando falta sulfato no posto?"),
        row("Posso comer alimento com sulfito?", f"O sulfito conserva vinhos. {OTHER_LONG}"),
    ]
    assert refused_in_train(rows, tiny, tmp_path) == []


def form_rows(typo: str) -> list[Row]:
    """Return six questions of one form in A, and another in train."""
    names = ("marapril", "carapril", "tarapril", "parapril", "sarapril", "larapril", "barapril")
    rows = [row(f"Esqueci de usar {name}, e agora?", split="A") for name in names[:6]]
    return [*rows, row(f"Esqueci de usar {typo}, e agora?")]


def test_similar_names_in_a_form_of_many_questions_are_no_typos(tiny: Path, tmp_path: Path) -> None:
    assert refused_in_train(form_rows("barapril"), tiny, tmp_path) == []


def test_a_typo_in_a_form_is_found_if_other_rows_have_the_name(tiny: Path, tmp_path: Path) -> None:
    known = row("Quanto custa o marapril na farmácia popular?")
    [reason] = refused_in_train([*form_rows("marpril"), known], tiny, tmp_path)
    assert reason.startswith("near-duplicate question of ")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("dipirona", "dipirna", True),
        ("dipirona", "dipironas", True),
        ("dipirona", "dipyrona", True),
        ("dipirona", "dipriona", True),
        ("dipirona", "pidirona", False),
        ("dipirona", "dipir", False),
        ("dipirona", "diripona", False),
    ],
)
def test_one_edit_by_hand(one: str, other: str, expected: bool) -> None:
    assert is_one_edit(one, other) is expected
    assert is_one_edit(other, one) is expected


def test_frames_by_hand() -> None:
    frames = find_frames(["um dois três", "um dois", "um quatro três", "sozinho"])
    keys = [set(frames.key[frames.is_plain & (frames.text == text)]) for text in range(4)]
    # The first two differ by a word more, and the first and the third by another word.
    assert len(keys[0]) == 4
    assert keys[1] == set()
    assert len(keys[0] & keys[2]) == 1
    assert keys[3] == set()


# --- turns of conversations ---


def conversation(question: str, split: str = "train", answer: str = LONG) -> Row:
    """Return a conversation of three turns with a question in the middle."""
    turns = [
        {"question": "Posso falar sobre remédios?", "answer": "Pode, conte o que você usa hoje."},
        {"question": question, "answer": answer},
    ]
    fields = row(f"E quantas vezes por {'dia' if split == 'train' else 'mês'}?", split=split)
    return fields | {"history": turns}


@pytest.mark.parametrize(
    "question",
    [
        "Quem usa anticoncepcional pode tomar antibiótico sem perder o efeito?",
        "Doutora, quem usa anticoncepcional pode tomar antibiótico sem perder o efeito? Obrigada",
        "Quem usa anticoncepcional pode tomar antibióico sem perder o efeito?",
        "Sem perder o efeito, quem usa anticoncepcional pode tomar antibiótico?",
    ],
)
@pytest.mark.parametrize("split", ["train", "E"])
def test_a_turn_that_nearly_repeats_a_question_of_another_split_is_found(
    question: str, split: str, tiny: Path, tmp_path: Path
) -> None:
    other = "E" if split == "train" else "train"
    plain = "Quem usa anticoncepcional pode tomar antibiótico sem perder o efeito?"
    rows = [conversation(question, split), row(plain, OTHER_LONG, other)]
    [reason] = refused_in_train(rows, tiny, tmp_path)
    assert reason.startswith("near-duplicate question of ")


def test_a_turn_about_another_drug_stays(tiny: Path, tmp_path: Path) -> None:
    rows = [
        conversation("Quem usa anticoncepcional pode tomar fluconazol sem perder o efeito?"),
        row(
            "Quem usa anticoncepcional pode tomar antibiótico sem perder o efeito?", OTHER_LONG, "E"
        ),
    ]
    assert refused_in_train(rows, tiny, tmp_path) == []


def test_the_turns_of_two_conversations_are_not_compared(tiny: Path, tmp_path: Path) -> None:
    rows = [conversation(FOLLOW_UP), conversation(FOLLOW_UP, "B", OTHER_LONG)]
    assert refused_in_train(rows, tiny, tmp_path) == []


# --- texts of items in many rows ---

ITEM = {
    "question": "Qual afirmação sobre a doença está correta?",
    "answer": (
        "A transmissão ocorre pelo contato com secreções durante a primeira etapa e diminui depois"
        " do quinto dia de tratamento adequado com o antibiótico de primeira escolha."
    ),
}
NOTICE = (
    "Este aviso vale para todas as respostas da página e em nada substitui a consulta de rotina."
)


def quoting_rows(text: str, count: int) -> list[Row]:
    """Return training rows with a text between their own words."""
    rows = [row() for _ in range(count)]
    for number, quoting in enumerate(rows):
        quoting["answer"] = f"Resposta {number}. {text} {quoting['answer']}"
    return rows


@pytest.mark.parametrize("count", [1, 6, 12])
@pytest.mark.parametrize("notice", ["", f" {NOTICE}"])
def test_the_answer_of_a_benchmark_is_found_in_any_number_of_rows(
    count: int, notice: str, tiny: Path, tmp_path: Path
) -> None:
    item = {**ITEM, "answer": ITEM["answer"] + notice}
    rows = quoting_rows(ITEM["answer"], count)
    # The notice stands in so many rows that it is boilerplate.
    rows += quoting_rows(NOTICE, 4 * count + 6)
    result = deduplicate_rows([*rows, row()], tiny, tmp_path, items={"exam": [item]})
    assert len(result.refused) == count
    assert all(found["reason"].startswith("contains the text of") for found in result.refused)
    assert result.matrix["exam"]["items_shared_run"] == 1


def test_a_title_in_a_benchmark_and_in_many_rows_removes_no_row(tiny: Path, tmp_path: Path) -> None:
    item = {**ITEM, "question": f"{NOTICE} Qual é a conduta no primeiro retorno?"}
    rows = quoting_rows(NOTICE, 9)
    result = deduplicate_rows([*rows, row()], tiny, tmp_path, items={"exam": [item]})
    assert result.refused == []


def test_a_long_answer_of_a_validation_set_is_found_in_many_rows(
    tiny: Path, tmp_path: Path
) -> None:
    answer = f"{LONG} {OTHER_LONG}"
    rows = [row("Por que dá sono?", answer, "A"), *quoting_rows(answer, 8)]
    reasons = refused_in_train(rows, tiny, tmp_path)
    assert len(reasons) == 8
    assert all(reason.startswith("contains the text of") for reason in reasons)
