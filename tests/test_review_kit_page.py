"""Use the page of `bula review-kit` in a browser, as a rater would."""

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner

from bula.__main__ import app
from bula.labels.judgements import import_forms, read_key
from bula.labels.kit import Kit
from bula.labels.records import JUDGEMENT, AnswerDraft, AnswerJudgement, Header, PairJudgement
from tests.browser import PHONE, Watch, open_page
from tests.review_kit_run import (
    FIRST,
    SECOND,
    built,
    candidate,
    examples,
    small_kit,
    write_page,
    write_run,
)

OPEN_PAIR = ".pair:not([hidden])"
HOSTILE = (
    "<script>document.title='x'</script> <b>forte</b> {{ 7 * 7 }} &lt;i&gt; \u2028 fim.",
    "</script></style><img src=x onerror=\"document.title='x'\"> \"aspas\" 'simples' `tick` ${1}.",
)


def start(page: Any, address: str, rater: str = "R1") -> None:
    """Open the page, and begin as a rater by keyboard only."""
    page.goto(address)
    page.locator("#rater").focus()
    page.keyboard.type(rater)
    page.keyboard.press("Enter")


def fields(page: Any) -> list[str]:
    """Return the names of the fields of the pair that is shown."""
    found = page.locator(f"{OPEN_PAIR} [data-field]").all()
    return [field.get_attribute("data-field") for field in found]


def keys_of(names: list[str], place: int) -> str:
    """Return one digit per field; the preference of each pair is another one."""
    digits = [str(1 + (number + place) % 3) for number in range(len(names) - 1)]
    return "".join(digits) + str(1 + place % 4)


def judge(page: Any, place: int) -> str:
    """Judge the pair that is shown by keyboard only, and go to the next one.

    Return the digits that were typed.
    """
    digits = keys_of(fields(page), place)
    # The first stop is the folded reference, and the second is the first sentence.
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.type(digits)
    page.keyboard.press("Enter")
    return digits


def judge_all(page: Any, count: int) -> None:
    for place in range(count):
        judge(page, place)


def exported(page: Any, folder: Path) -> Path:
    """Save the file by the button, and return its path."""
    with page.expect_download() as download:
        page.locator("#export").click()
    path = folder / str(download.value.suggested_filename)
    download.value.save_as(path)
    return path


def read_file(path: Path) -> list[Any]:
    """Return the rows of a rater's file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def assert_quiet(watch: Watch) -> None:
    """Assert that a page sent no request and reported no error."""
    assert (watch.requests, watch.errors) == ([], [])


# The walk


def test_a_rater_judges_all_pairs_by_keyboard_and_saves_the_file(
    browser: Any, tmp_path: Path
) -> None:
    kit = small_kit(pairs=3, repeats=1)
    page, watch = open_page(browser)
    start(page, write_page(tmp_path, kit), "r1")
    seen = []
    for place in range(4):
        assert page.locator(f"{OPEN_PAIR} h2").inner_text() == f"Pergunta {place + 1} de 4"
        assert page.locator("#progress").evaluate("bar => bar.value") == place
        assert f"Par {place + 1} de 4 · {place} pronto" in page.locator("#where").inner_text()
        names = fields(page)
        seen.append((names, judge(page, place)))
    assert page.locator("#end h1").inner_text() == "Pronto. Obrigado!"
    assert page.locator("#progress").evaluate("bar => bar.value") == 4
    assert page.locator("#end h1").evaluate("node => node === document.activeElement")
    path = exported(page, tmp_path)
    assert path.name == f"avaliacao-{kit.id}-R1.jsonl"
    check_rows(read_file(path), kit, seen)
    assert page.locator("#export-status").inner_text().endswith("com 12 linhas de marcas.")
    assert_quiet(watch)


def test_the_labels_of_two_raters_name_the_variant_that_they_prefer(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    command = ["review-kit", "--pairs", "4", "--repeats", "1"]
    assert CliRunner().invoke(app, command).exit_code == 0
    files = []
    for rater in ("R1", "R2"):
        page, watch = open_page(browser)
        start(page, (tmp_path / "review/review.html").as_uri(), rater)
        for _ in range(5):
            prefer_avoiding_cigarettes(page)
        files.append(exported(page, tmp_path))
        assert_quiet(watch)
    key = read_key(tmp_path / "review/key.json")
    labels = import_forms(files, key, "author", tmp_path / "data/answers").labels
    pairs = [label for label in labels if label.type == "pair"]
    assert len(labels) == 2 * 5 * 3
    assert {getattr(label, str(label.prefer)) for label in pairs} == {SECOND}
    assert {label.prefer for label in pairs} == {"left", "right"}
    assert sum(label.repeat_of is not None for label in pairs) == 2
    harm = {label.variant: label.harm for label in labels if label.type == "answer"}
    assert harm == {FIRST: "severe", SECOND: "none"}


def prefer_avoiding_cigarettes(page: Any) -> None:
    """Judge that only the answer of the second variant may be given to a patient."""
    left, right = page.locator(f"{OPEN_PAIR} .answer").all_inner_texts()
    assert ("Evite o cigarro." in left) != ("Evite o cigarro." in right)
    good, bad = "11113", "22231"
    digits = good + bad + "1" if "Evite o cigarro." in left else bad + good + "2"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.type(digits)
    page.keyboard.press("Enter")


def check_rows(rows: list[Any], kit: Kit, seen: list[tuple[list[str], str]]) -> None:
    """Assert that a file has the header and the judgements that were typed."""
    header = Header.model_validate(rows[0])
    assert (header.kit, header.rater) == (kit.id, "R1")
    judgements = [JUDGEMENT.validate_python(row) for row in rows[1:]]
    answers = {row.item: row for row in judgements if isinstance(row, AnswerJudgement)}
    pairs = {row.pair: row for row in judgements if isinstance(row, PairJudgement)}
    assert {item.item: item.sentences for item in kit.key.items} == {
        item: len(row.sentences) for item, row in answers.items()
    }
    assert pairs.keys() == {pair.pair for pair in kit.key.pairs}
    options = {
        "s0": ("right", "wrong", "cannot_say"),
        "s1": ("right", "wrong", "cannot_say"),
        "relevance": ("relevant", "partly", "not"),
        "harm": ("none", "mild", "severe"),
        "style": (1, 2, 3),
        "prefer": ("left", "right", "both", "neither"),
    }
    for names, digits in seen:
        for name, digit in zip(names, digits, strict=True):
            owner, _, part = name.partition(".")
            chosen = options[part][int(digit) - 1]
            if part == "prefer":
                assert pairs[owner].prefer == chosen
            elif part.startswith("s") and part != "style":
                assert answers[owner].sentences[int(part[1:])] == chosen
            else:
                assert getattr(answers[owner], part) == chosen


def test_a_reload_resumes_at_the_same_pair_with_the_same_marks(
    browser: Any, tmp_path: Path
) -> None:
    page, watch = open_page(browser)
    start(page, write_page(tmp_path, small_kit(pairs=3, repeats=1)))
    judge(page, 0)
    for key in ("ArrowDown", "ArrowDown", "2"):
        page.keyboard.press(key)
    page.locator(f"{OPEN_PAIR} textarea").first.fill("Falta dizer quando voltar.")
    [name, *_] = fields(page)
    page.reload()
    assert page.locator("#saved-list button").all_inner_texts() == ["Continuar como R1"]
    page.locator("#saved-list button").click()
    assert page.locator(f"{OPEN_PAIR} h2").inner_text() == "Pergunta 2 de 4"
    assert fields(page)[0] == name
    assert page.locator(f'input[name="{name}"]:checked').get_attribute("value") == "wrong"
    note = page.locator(f"{OPEN_PAIR} textarea").first
    assert note.input_value() == "Falta dizer quando voltar."
    assert page.locator("#progress").evaluate("bar => bar.value") == 1
    assert_quiet(watch)


def test_a_file_continues_in_another_browser(browser: Any, tmp_path: Path) -> None:
    address = write_page(tmp_path, small_kit(pairs=3, repeats=1))
    page, _ = open_page(browser)
    start(page, address)
    judge(page, 0)
    note = "Esta resposta não está pronta."
    page.locator(f"{OPEN_PAIR} textarea").first.fill(note)
    # The first sentence of the second pair has a mark, and all other fields of the pair have none.
    name = fields(page)[0]
    page.locator(f'input[name="{name}"][value="wrong"]').check()
    page.locator("#open-export").click()
    path = exported(page, tmp_path)
    status = page.locator("#export-status").inner_text()
    assert status.endswith("com 4 linhas de marcas (1 não está pronta).")
    check_draft(path, name, note)
    other, watch = open_page(browser)
    other.goto(address)
    assert other.locator("#saved").is_hidden()
    other.locator("#import-start").set_input_files(path)
    other.locator("#end").wait_for()
    status = other.locator("#import-end-status").inner_text()
    assert status == "Carregado: 4 linhas de marcas (1 não está pronta)."
    assert other.locator("#where").inner_text() == "4 pares · 1 pronto · R1"
    assert other.locator("#export-text").input_value() == path.read_text(encoding="utf-8")
    other.locator("#open-pairs button").first.click()
    assert other.locator(f'input[name="{name}"]:checked').get_attribute("value") == "wrong"
    assert other.locator(f"{OPEN_PAIR} textarea").first.input_value() == note
    other.reload()
    assert other.locator("#saved-list button").all_inner_texts() == ["Continuar como R1"]
    assert_quiet(watch)


def check_draft(path: Path, name: str, note: str) -> None:
    """Assert that the last row has only a note and the mark of one sentence."""
    *finished, draft = read_file(path)[1:]
    assert len(finished) == 3
    assert draft == {
        "type": "answer",
        "item": name.removesuffix(".s0"),
        "sentences": ["wrong", None],
        "relevance": None,
        "harm": None,
        "style": None,
        "note": note,
        "finished": False,
    }
    AnswerDraft.model_validate(draft)


def test_a_complete_file_survives_export_import_and_export(browser: Any, tmp_path: Path) -> None:
    address = write_page(tmp_path, small_kit(pairs=2, repeats=1))
    page, _ = open_page(browser)
    start(page, address)
    page.locator(f"{OPEN_PAIR} textarea").first.fill('Diz "sempre".\nSegunda linha, com ç e \\.')
    page.locator(f"{OPEN_PAIR} h2").focus()
    judge_all(page, 3)
    path = exported(page, tmp_path)
    notes = [row["note"] for row in read_file(path) if row.get("note")]
    assert notes == ['Diz "sempre".\nSegunda linha, com ç e \\.']
    other, watch = open_page(browser)
    other.goto(address)
    other.locator("#import-start").set_input_files(path)
    other.locator("#end").wait_for()
    assert other.locator("#end h1").inner_text() == "Pronto. Obrigado!"
    again = tmp_path / "again"
    assert exported(other, again).read_bytes() == path.read_bytes()
    assert_quiet(watch)


def header_row(kit: Kit, /, **fields: Any) -> dict[str, Any]:
    """Return the first row of a rater's file, with other fields."""
    return {"form": 1, "kit": kit.id, "rater": "R1", "language": "pt-BR", **fields}


def pair_row(kit: Kit, prefer: str) -> dict[str, Any]:
    """Return a judgement of the first pair."""
    return {"type": "pair", "pair": kit.key.pairs[0].pair, "prefer": prefer}


def answer_judgement(kit: Kit, /, **fields: Any) -> dict[str, Any]:
    """Return a judgement of the first answer, with other fields."""
    row = {
        "type": "answer",
        "item": kit.key.items[0].item,
        "sentences": ["right", "wrong"],
        "relevance": "partly",
        "harm": "none",
        "style": 2,
        "note": "",
    }
    return row | fields


KIT = small_kit(pairs=2, repeats=0)
MISFIT = "A linha 2 não combina com esta página. Nada foi carregado."


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["{"], "A linha 1 do arquivo está danificada. Nada foi carregado."),
        (["7"], "A linha 1 do arquivo está danificada. Nada foi carregado."),
        ([], "O arquivo está vazio."),
        ([{"a": 1}], "Este arquivo não foi salvo por esta página. Nada foi carregado."),
        ([header_row(KIT, rater="<b>")], "Este arquivo não foi salvo por esta página."),
        ([header_row(KIT, kit="0123456789ab")], "Este arquivo é de outra avaliação (0123456789ab)"),
        ([header_row(KIT), pair_row(KIT, "best")], MISFIT),
        ([header_row(KIT), {"type": "pair", "pair": "x", "prefer": "left"}], MISFIT),
        ([header_row(KIT), answer_judgement(KIT, sentences=["right"])], MISFIT),
        ([header_row(KIT), answer_judgement(KIT, sentences=["right", "maybe"])], MISFIT),
        ([header_row(KIT), answer_judgement(KIT, style=4)], MISFIT),
        # Only an unfinished row may lack a mark.
        ([header_row(KIT), answer_judgement(KIT, style=None)], MISFIT),
        ([header_row(KIT), answer_judgement(KIT, finished=False, harm="x")], MISFIT),
        ([header_row(KIT), answer_judgement(KIT, item='x"]')], MISFIT),
        ([header_row(KIT), {"type": "?"}], MISFIT),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(
    browser: Any, tmp_path: Path, rows: list[Any], message: str
) -> None:
    page, watch = open_page(browser)
    page.goto(write_page(tmp_path, KIT))
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path = tmp_path / "file.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    page.locator("#import-start").set_input_files(path)
    page.wait_for_function("document.getElementById('import-status').textContent !== ''")
    assert page.locator("#import-status").inner_text().startswith(message)
    assert page.locator("#start").is_visible()
    page.reload()
    assert page.locator("#saved").is_hidden()
    assert_quiet(watch)


def test_the_rows_of_the_refused_files_are_accepted_without_their_fault(
    browser: Any, tmp_path: Path
) -> None:
    page, watch = open_page(browser)
    page.goto(write_page(tmp_path, KIT))
    rows = [header_row(KIT), answer_judgement(KIT), pair_row(KIT, "both")]
    path = tmp_path / "file.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    page.locator("#import-start").set_input_files(path)
    page.locator("#end").wait_for()
    saved = [json.loads(line) for line in page.locator("#export-text").input_value().splitlines()]
    assert sorted(saved, key=str) == sorted(rows, key=str)
    assert_quiet(watch)


def test_a_file_of_another_rater_is_refused_during_a_session(browser: Any, tmp_path: Path) -> None:
    page, _ = open_page(browser)
    start(page, write_page(tmp_path, KIT), "R2")
    page.locator("#open-export").click()
    path = tmp_path / "file.jsonl"
    path.write_text(json.dumps(header_row(KIT)), encoding="utf-8")
    page.locator("#import-end").set_input_files(path)
    page.wait_for_function("document.getElementById('import-end-status').textContent !== ''")
    text = page.locator("#import-end-status").inner_text()
    assert text == "O arquivo é de R1, e você é R2."


# Raters and their order


def order_of(page: Any) -> list[str]:
    """Return the questions in the order of the page, without a judgement."""
    script = """() => {
      const found = [];
      while (document.getElementById("end").hidden) {
        const pair = document.querySelector(".pair:not([hidden])");
        found.push(pair.querySelector(".question").textContent);
        pair.querySelector("[data-step=skip]").click();
      }
      return found;
    }"""
    return list(page.evaluate(script))


def test_each_rater_has_another_order_which_stays_the_same(browser: Any, tmp_path: Path) -> None:
    address = write_page(tmp_path, small_kit(pairs=9, repeats=2))
    orders = {}
    for rater in ("R1", "R2"):
        page, _ = open_page(browser)
        start(page, address, rater)
        orders[rater] = order_of(page)
    page, _ = open_page(browser)
    start(page, address, "R1")
    assert order_of(page) == orders["R1"] != orders["R2"]
    assert sorted(orders["R1"]) == sorted(orders["R2"])
    for order in orders.values():
        places = {text: [i for i, other in enumerate(order) if other == text] for text in order}
        gaps = [found[1] - found[0] for found in places.values() if len(found) > 1]
        # The middle part has three pairs.
        assert len(gaps) == 2
        assert min(gaps) > 3


@pytest.mark.parametrize("rater", ["", "Maria", "R", "1", "R1234"])
def test_a_code_that_may_be_a_name_is_refused(browser: Any, tmp_path: Path, rater: str) -> None:
    page, _ = open_page(browser)
    start(page, write_page(tmp_path, KIT), rater)
    assert page.locator("#rater-alarm").is_visible()
    assert page.locator("#pairs").is_hidden()


def test_two_raters_share_a_browser_without_mixing_their_marks(
    browser: Any, tmp_path: Path
) -> None:
    page, _ = open_page(browser)
    start(page, write_page(tmp_path, KIT), "R1")
    judge(page, 0)
    page.locator("#open-export").click()
    page.locator("#leave").click()
    page.locator("#rater").fill("R2")
    page.keyboard.press("Enter")
    assert page.locator("#progress").evaluate("bar => bar.value") == 0
    assert page.locator(f"{OPEN_PAIR} input:checked").count() == 0
    page.reload()
    texts = page.locator("#saved-list button").all_inner_texts()
    assert texts == ["Continuar como R1", "Continuar como R2"]


# Keys


def focused(page: Any) -> str:
    """Return the field, the tag or the step that has the focus."""
    script = """() => {
      const node = document.activeElement;
      const field = node.closest("[data-field]");
      return field?.dataset.field ?? node.dataset.step ?? node.tagName;
    }"""
    return str(page.evaluate(script))


def test_arrows_and_digits_move_between_fields(browser: Any, tmp_path: Path) -> None:
    page, _ = open_page(browser)
    start(page, write_page(tmp_path, KIT))
    names = fields(page)
    assert focused(page) == "H2"
    # A digit outside a field does nothing.
    page.keyboard.press("1")
    assert page.locator(f"{OPEN_PAIR} input:checked").count() == 0
    page.keyboard.press("ArrowDown")
    assert focused(page) == "SUMMARY"
    page.keyboard.press("Space")
    assert page.locator(f"{OPEN_PAIR} .reference .text").is_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert focused(page) == names[1]
    page.keyboard.press("ArrowUp")
    assert focused(page) == names[0]
    # There is no fourth option here.
    page.keyboard.press("4")
    assert focused(page) == names[0]
    page.keyboard.press("3")
    assert focused(page) == names[1]
    # The other arrows change the option.
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    checked = page.locator(f'input[name="{names[0]}"]:checked')
    assert checked.get_attribute("value") == "wrong"


def test_a_choice_skips_the_note_in_which_digits_are_text(browser: Any, tmp_path: Path) -> None:
    page, _ = open_page(browser)
    start(page, write_page(tmp_path, KIT))
    names = fields(page)
    for key in ("ArrowDown", "ArrowDown", *"11111"):
        page.keyboard.press(key)
    assert focused(page) == names[5]
    page.keyboard.press("ArrowUp")
    page.keyboard.type("1 vez")
    assert page.locator(f"{OPEN_PAIR} textarea").first.input_value() == "1 vez"
    page.keyboard.press("Escape")
    assert focused(page) == names[5]


def test_an_unfinished_pair_names_its_missing_fields_or_waits(browser: Any, tmp_path: Path) -> None:
    page, _ = open_page(browser)
    start(page, write_page(tmp_path, KIT))
    names = fields(page)
    for key in ("ArrowDown", "ArrowDown", "1", "Enter"):
        page.keyboard.press(key)
    missing = page.locator(f"{OPEN_PAIR} [data-missing]")
    assert missing.inner_text() == "Faltam 10 campos neste par."
    assert page.locator(f"{OPEN_PAIR} .is-missing").count() == 10
    assert focused(page) == names[1]
    page.locator(f"{OPEN_PAIR} [data-step=skip]").click()
    assert page.locator(f"{OPEN_PAIR} h2").inner_text() == "Pergunta 2 de 2"
    judge(page, 1)
    assert page.locator("#end-text").inner_text() == "Ainda faltam 1 de 2 pares:"
    page.locator("#open-pairs button").click()
    assert page.locator(f"{OPEN_PAIR} h2").inner_text() == "Pergunta 1 de 2"


# Text of models, and personal data


def test_hostile_answers_stay_text(browser: Any, tmp_path: Path) -> None:
    row = examples()[0].model_copy(
        update={"question": HOSTILE[0], "answer": HOSTILE[1], "specialty": HOSTILE[0]}
    )
    kit = built([candidate(row, HOSTILE)], 0, Random(1))
    page, watch = open_page(browser)
    start(page, write_page(tmp_path, kit))
    title = page.title()
    page.locator(f"{OPEN_PAIR} summary").click()
    text = page.locator(OPEN_PAIR).inner_text()
    for part in ("<script>document.title='x'</script>", "{{ 7 * 7 }}", "&lt;i&gt;", "${1}"):
        assert part in text
    assert "</script></style><img src=x onerror=" in text
    assert page.locator(f"{OPEN_PAIR} img, {OPEN_PAIR} script, {OPEN_PAIR} b").count() == 0
    assert page.title() == title == "Avaliação de respostas de saúde"
    page.locator(f"{OPEN_PAIR} h2").focus()
    judge(page, 0)
    assert page.locator("#end").is_visible()
    assert_quiet(watch)


def test_a_hostile_file_name_or_note_stays_text(browser: Any, tmp_path: Path) -> None:
    page, watch = open_page(browser)
    start(page, write_page(tmp_path, KIT))
    page.locator(f"{OPEN_PAIR} textarea").first.fill(HOSTILE[1])
    page.locator(f"{OPEN_PAIR} h2").focus()
    judge_all(page, 2)
    notes = [row["note"] for row in read_file(exported(page, tmp_path)) if row.get("note")]
    assert notes == [HOSTILE[1]]
    assert page.locator("#end img").count() == 0
    assert_quiet(watch)


def test_an_inserted_script_does_not_run(browser: Any, tmp_path: Path) -> None:
    address = write_page(tmp_path, KIT)
    path = tmp_path / "review.html"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("</main>", "<script>document.title='x'</script></main>"), "utf-8")
    page, watch = open_page(browser)
    page.goto(address)
    assert page.title() == "Avaliação de respostas de saúde"
    assert "Content Security Policy" in watch.errors[0]


@pytest.mark.parametrize(
    ("note", "warns"),
    [
        ("Falta a dose máxima de 4 g em 24 horas.", False),
        ("Ligar para 11 98765-4321.", True),
        ("escreva a maria@exemplo.org", True),
    ],
)
def test_a_note_with_personal_data_is_warned_about(
    browser: Any, tmp_path: Path, note: str, warns: bool
) -> None:
    page, _ = open_page(browser)
    start(page, write_page(tmp_path, KIT))
    page.locator(f"{OPEN_PAIR} textarea").first.fill(note)
    assert page.locator(f"{OPEN_PAIR} [data-note-alarm]").first.is_visible() == warns


def test_earlier_turns_and_an_empty_answer_are_shown(browser: Any, tmp_path: Path) -> None:
    history = [{"question": "Tenho tosse. E agora?", "answer": "Há quantos dias?"}]
    row = examples()[0].model_validate({**examples()[0].model_dump(), "history": history})
    kit = built([candidate(row, ("", "Beba água."))], 0, Random(1))
    page, _ = open_page(browser)
    start(page, write_page(tmp_path, kit))
    text = page.locator(OPEN_PAIR).inner_text()
    assert "Tenho tosse. E agora?\n\nHá quantos dias?" in text
    assert "(resposta vazia)" in text
    judge(page, 0)
    lengths = [len(row["sentences"]) for row in read_file(exported(page, tmp_path))[1:3]]
    assert sorted(lengths) == [0, 1]


# Storage


NO_STORAGE = """Object.defineProperty(window, "localStorage", {
  get() { throw new DOMException("denied", "SecurityError"); },
});"""


def test_without_storage_the_page_says_so_and_still_saves_a_file(
    browser: Any, tmp_path: Path
) -> None:
    page, watch = open_page(browser)
    page.add_init_script(NO_STORAGE)
    start(page, write_page(tmp_path, KIT))
    assert page.locator("#storage-alarm").is_visible()
    judge(page, 0)
    page.locator("#open-export").click()
    page.locator("#leave").click()
    assert page.locator("#export-status").inner_text().startswith("Salve o arquivo antes")
    assert len(read_file(exported(page, tmp_path))) == 4
    page.locator("#leave").click()
    assert page.locator("#start").is_visible()
    assert_quiet(watch)


@pytest.mark.parametrize(("script", "kinds"), [("", []), (NO_STORAGE, ["beforeunload"])])
def test_the_page_asks_before_unsaved_marks_are_lost(
    browser: Any, tmp_path: Path, script: str, kinds: list[str]
) -> None:
    page, _ = open_page(browser)
    page.add_init_script(script or "0")
    asked: list[str] = []

    def accept(dialog: Any) -> None:
        asked.append(dialog.type)
        dialog.accept()

    page.on("dialog", accept)
    start(page, write_page(tmp_path, KIT))
    judge(page, 0)
    page.reload()
    assert asked == kinds


def test_a_full_storage_is_reported(browser: Any, tmp_path: Path) -> None:
    page, _ = open_page(browser)
    start(page, write_page(tmp_path, KIT))
    assert page.locator("#storage-alarm").is_hidden()
    page.evaluate("() => { Storage.prototype.setItem = () => { throw new Error('full') } }")
    for key in ("ArrowDown", "ArrowDown", "1"):
        page.keyboard.press(key)
    assert page.locator("#storage-alarm").is_visible()


def test_a_damaged_entry_of_the_storage_counts_as_none(browser: Any, tmp_path: Path) -> None:
    page, watch = open_page(browser)
    page.goto(write_page(tmp_path, KIT))
    for content in ("{", "null", "[]", '{"values": null}'):
        page.evaluate(
            "([key, text]) => localStorage.setItem(key, text)", [f"bula-kit:{KIT.id}:R1", content]
        )
        page.reload()
        page.locator("#saved-list button").click()
        assert page.locator("#where").inner_text() == "Par 1 de 2 · 0 prontos · R1"
    assert_quiet(watch)


def test_a_second_tab_of_a_rater_is_reported(browser: Any, tmp_path: Path) -> None:
    address = write_page(tmp_path, KIT)
    page, _ = open_page(browser)
    start(page, address)
    other = page.context.new_page()
    start(other, address)
    judge(other, 0)
    page.locator("#tab-alarm").wait_for()
    assert "outra aba" in page.locator("#tab-alarm").inner_text()


# Layout


def test_nothing_moves_sideways_on_a_telephone(browser: Any, tmp_path: Path) -> None:
    long = "Palavra" * 40 + " e fim."
    sample = [candidate(examples()[0], (long, "Beba água."))]
    page, watch = open_page(browser, phone=True)
    start(page, write_page(tmp_path, built(sample, 0, Random(1))))
    widths = [page.evaluate("document.documentElement.scrollWidth")]
    page.locator(f"{OPEN_PAIR} .option").first.tap()
    assert page.locator(f"{OPEN_PAIR} input:checked").count() == 1
    boxes = [option.bounding_box() for option in page.locator(f"{OPEN_PAIR} .option").all()]
    # A finger needs 44 pixels.
    assert min(box["height"] for box in boxes) >= 44
    page.locator("#open-export").tap()
    widths.append(page.evaluate("document.documentElement.scrollWidth"))
    page.locator("#leave").tap()
    widths.append(page.evaluate("document.documentElement.scrollWidth"))
    assert max(widths) <= PHONE["width"]
    assert_quiet(watch)


def test_each_field_has_a_name_and_the_page_a_language(browser: Any, tmp_path: Path) -> None:
    page, _ = open_page(browser)
    start(page, write_page(tmp_path, KIT))
    assert page.locator("html").get_attribute("lang") == "pt-BR"
    groups = page.locator(f"{OPEN_PAIR} fieldset")
    assert groups.count() == 11
    assert all(legend.strip() for legend in groups.locator("legend").all_inner_texts())
    assert page.get_by_role("radio", name="Não sei dizer").count() == 4
    assert page.get_by_role("progressbar", name="Pares prontos").count() == 1
    notes = page.get_by_role("textbox", name=re.compile("Observação sobre a resposta [AB]"))
    assert notes.count() == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_a_contrast_of_at_least_4_5(browser: Any, tmp_path: Path, scheme: str) -> None:
    page, _ = open_page(browser, color_scheme=scheme)
    start(page, write_page(tmp_path, KIT))
    colours = {
        name: page.evaluate(
            "name => getComputedStyle(document.documentElement).getPropertyValue(name)", f"--{name}"
        )
        for name in ("page", "card", "text", "soft", "mark", "mark-text", "alarm")
    }
    pairs = [("text", "page"), ("text", "card"), ("soft", "page"), ("soft", "card")]
    pairs += [("mark-text", "mark"), ("text", "alarm")]
    for front, back in pairs:
        assert contrast(colours[front], colours[back]) >= 4.5, (front, back)


def contrast(front: str, back: str) -> float:
    """Return the contrast ratio of two colours #rrggbb, as WCAG 2.2 defines it."""
    light, dark = sorted((luminance(front), luminance(back)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour #rrggbb."""
    channels = [int(colour.strip()[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in channels
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_black_on_white_has_a_contrast_of_21() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
