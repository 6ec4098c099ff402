"""Check which repetitions the report shortens."""

import time

import pytest

from stages.compare.loops import cut_loops


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Beba água e descanse. Procure um médico se piorar.", None),
        # The loop starts after the first sentence, and its last repetition is incomplete.
        ("Sim. " + "Não tome nada. " * 4 + "Não to", "Sim. Não tome nada. (repeats 4 times)"),
        ("É bom" + " muito" * 8, "É bom muito (repeats 8 times)"),
        # Letters, lines and counters repeat, too.
        ("a" * 40, "a (repeats 40 times)"),
        ("\n".join(["Vá ao posto de saúde."] * 3), "Vá ao posto de saúde. (repeats 3 times)"),
        ("1. Beba água. 2. Beba água. 3. Beba água.", "1. Beba água. (repeats 3 times)"),
        # The text goes on after the loop.
        ("Vá ao posto. " * 3 + "Depois volte.", "Vá ao posto. (repeats 3 times) Depois volte."),
        # Two loops.
        (
            "Tome um chá. " * 3 + "Vá ao posto. " * 4,
            "Tome um chá. (repeats 3 times) Vá ao posto. (repeats 4 times)",
        ),
        # Two repetitions, and short ones, stay.
        ("Vá ao posto de saúde. Vá ao posto de saúde.", None),
        ("Espere...... e volte, sim, sim, sim.", None),
        ("", None),
    ],
)
def test_loop_is_shown_once_with_its_count(text: str, shown: str | None) -> None:
    assert cut_loops(text) == (text if shown is None else shown)


def test_long_text_without_a_loop_takes_little_time() -> None:
    text = "".join(f"{number:x} é o valor. " for number in range(3000))
    started = time.process_time()
    cut_loops(text)
    assert time.process_time() - started < 5
