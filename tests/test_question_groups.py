"""Check which examples count as one question."""

from typing import Any

from bula.question_groups import example_groups, question_group
from bula.records import Example


def example(number: int, question: str, answer: str, **fields: Any) -> Example:
    """Return an example whose id ends with its number."""
    row = {
        "id": f"{number:016x}",
        "source": "s",
        "license": "l",
        "split": "A",
        "question": question,
        "answer": answer,
        **fields,
    }
    return Example.model_validate(row)


def sizes(*examples: Example) -> list[int]:
    """Return the sizes of the groups, in the order of their first examples."""
    groups = list(example_groups(examples).values())
    return [groups.count(group) for group in dict.fromkeys(groups)]


def test_paraphrases_share_a_group() -> None:
    one = question_group("A febre é alta. Posso dar banho?")
    other = question_group("posso dar BANHO, febre alta")
    assert one == other
    assert question_group("Dói o pé?") != question_group("Dói a mão?")
    assert question_group("É aí?") == "é aí"


def test_examples_with_one_question_or_one_answer_are_a_group() -> None:
    examples = [
        example(1, "Posso tomar dipirona?", "Sim, se não houver alergia."),
        # The question of 1 with another answer.
        example(2, "Dipirona, posso TOMAR?", "Pergunte ao farmacêutico."),
        # The answer of 2 to another question: the three are one group.
        example(3, "Que remédio serve para dor?", "pergunte ao farmacêutico"),
        example(4, "Tosse há um mês é grave?", "Procure um médico."),
    ]
    groups = example_groups(examples)
    first = examples[0].id
    assert [groups[item.id] for item in examples] == [first, first, first, examples[3].id]


def test_conversations_are_grouped_by_their_first_question() -> None:
    follow_up = "E na gravidez?"
    headache = [{"question": "Dor de cabeça?", "answer": "Descanse."}]
    cough = [{"question": "Tosse seca?", "answer": "Beba água."}]
    different = [
        example(1, follow_up, "Pergunte no pré-natal.", history=headache),
        example(2, follow_up, "Evite xaropes.", history=cough),
    ]
    assert sizes(*different) == [1, 1]
    same = [different[0], example(3, "Dor de cabeça?", "Procure ajuda se piorar.")]
    assert sizes(*same) == [2]


def test_no_example_has_no_group() -> None:
    assert example_groups([]) == {}
