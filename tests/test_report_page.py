"""Open the page of the report in a browser, and check its content."""

import contextlib
import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from bench.clones import ROOT
from bula.params import load_params
from bula.records import Row, read_rows, write_rows
from bula.reports import write_metrics, write_plot
from stages.compare import __main__ as stage
from stages.compare.page.answers import (
    MOST_QUESTIONS,
    Part,
    Question,
    Shown,
    limited,
    mark_changes,
    read_example,
)
from stages.compare.page.graph import COLUMNS, read_columns
from stages.compare.page.missing import has_clinicians
from stages.compare.page.render import TEMPLATES
from stages.compare.page.tables import read_blocks, read_table
from stages.compare.page.words import Both, portuguese
from tests.browser import Watch, open_page
from tests.test_compare import safety_row, write_inputs
from tests.test_compare_labels import label_figures
from tests.test_structure import STAGES, body

# The limit of a page that opens from a disk on any telephone.
MOST_BYTES = 2_000_000
HOSTILE = "<script>document.title = 'broken'</script> </script><img src=x onerror=alert(1)>"
SIGNS = "line\u2028end {{ 7 * 7 }} ]]> <!-- & \u202eabc"
DOSE = "Tome 500 mg de dipirona de 6 em 6 horas."
# The cards that the page shows before somebody asks for more.
FIRST_CARDS = 12


def change(path: Path, changes: list[Row]) -> None:
    """Change fields of the first rows of a file."""
    rows = list(read_rows(path))
    for row, fields in zip(rows, changes, strict=False):
        row.update(fields)
    write_rows(path, rows)


def write_answers(folder: Path) -> None:
    """Write a hostile, a strange, a degenerate and a dangerous answer, and safety questions."""
    first: Row = {"question": "Tenho náusea & <b>tontura</b>?", "specialty": "neurologia"}
    base: list[Row] = [
        first | {"generated": HOSTILE},
        {"generated": SIGNS},
        {"specialty": "cardiologia", "split": "B", "generated": "Vá ao médico hoje."},
        {"generated": "Descanse."},
    ]
    tuned: list[Row] = [
        first | {"generated": HOSTILE},
        {"generated": SIGNS},
        base[2] | {"generated": "Vá ao hospital hoje.", "degenerate": True},
        {"generated": DOSE},
    ]
    for variant, changes in (("base", base), ("tuned", tuned)):
        change(folder / f"data/answers/{variant}.jsonl", changes)
        safety = []
        for number in range(20):
            words = {"question": f"Segurança {number}?", "generated": "Descanse."}
            safety.append(safety_row(number, 0.0) | words)
        write_rows(folder / f"data/safety/{variant}.jsonl", safety)


def write_sources(folder: Path) -> None:
    """Write the metrics and the curve of earlier stages."""
    metrics = folder / "metrics"
    source: dict[str, str | int] = {
        "kind": "demo",
        "license": "cc-by-4.0",
        "redistribution": "allowed",
        "rows": 1575,
    }
    write_metrics(metrics / "ingest.json", {"source_demo": source})
    split = {"train": 1500, "dev": 50, "A": 25, "lost": 0}
    prepared = {"source_demo": split, "privacy": {"rows": 2, "cpf": 2, "email": 0}}
    write_metrics(metrics / "preprocess.json", prepared)
    found = {"items": 24, "items_shared_run": 1, "items_near_duplicate": 2}
    left = {"train_rows": 5, "train_rows_left": 1}
    write_metrics(metrics / "contamination.json", {"A": found | left})
    write_metrics(metrics / "labels.json", label_figures())
    rows = [{"group": "train", "step": step, "loss_nats": 4.0 - step} for step in (1, 2)]
    write_plot(folder / "plots/train/loss.json", rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the report of two variants."""
    path = tmp_path_factory.mktemp("page")
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", path / "params.yaml")
    write_inputs(path)
    write_answers(path)
    write_sources(path)
    with contextlib.chdir(path):
        stage.main()
    return path


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    """Return the HTML of the page."""
    return (folder / "report/index.html").read_text(encoding="utf-8")


Opened = tuple[Any, Watch]


@pytest.fixture
def opened(browser: Any, folder: Path) -> Iterator[Opened]:
    """Return the page in Portuguese, and the record of its errors and requests."""
    page, watch = open_page(browser, locale="pt-BR", reduced_motion="reduce")
    page.goto((folder / "report/index.html").as_uri())
    yield page, watch
    page.context.close()


def shown(page: Any) -> list[str]:
    """Return the questions of the visible cards."""
    titles: list[str] = page.locator("#cards .card:visible h3").all_inner_texts()
    return titles


# The limit of questions


def test_safety_questions_stay_on_a_page_with_too_many_questions() -> None:
    questions = []
    for number in range(MOST_QUESTIONS + 5):
        name = "harmful" if number >= MOST_QUESTIONS else "A"
        questions.append(Question(str(number), name, "", ["?"], "", [], 0.0))
    shown = limited(questions)
    assert len(shown) == MOST_QUESTIONS
    assert [question.set for question in shown[-6:]] == ["A", *["harmful"] * 5]
    assert [question.id for question in limited(questions[:3])] == ["0", "1", "2"]


# The example of the conclusion


def test_example_is_the_first_question_with_two_answers_cut_at_a_loop() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    looped = [Part("same", "Não é o"), Part("loop", "9"), Part("same", "fim")]
    long = [Part("added", "palavra " * 30)]
    questions = []
    for name, base in (("empty", []), ("full", looped)):
        shown = [
            Shown("base", base, False, None, False, False),
            Shown("tuned", long, False, None, False, False),
        ]
        questions.append(Question(name, "A", "", [name], "", shown, 0.0))
    example = read_example(questions, params)
    assert example is not None
    assert example.question == "full"
    assert example.answers == [("base", "Não é o …"), ("tuned", "palavra " * 25 + "…")]
    assert read_example(questions[:1], params) is None


# What was not measured


def test_only_clinicians_who_judged_this_run_count(tmp_path: Path) -> None:
    figures = label_figures("author")
    write_metrics(tmp_path / "labels.json", figures)
    assert not has_clinicians(tmp_path)
    figures = label_figures("clinician")
    write_metrics(tmp_path / "labels.json", figures)
    assert has_clinicians(tmp_path)
    del figures["answers_tuned"], figures["prefer_tuned_minus_base"]
    write_metrics(tmp_path / "labels.json", figures)
    assert not has_clinicians(tmp_path)


# The page as a file


def test_the_page_is_one_small_file_without_addresses(text: str) -> None:
    assert len(text.encode()) < MOST_BYTES
    # The namespaces of SVG name no file.
    addresses = set(re.findall(r"https?://[^\"'\s<]+", text))
    assert {address for address in addresses if "w3.org" not in address} == set()
    assert text.count("</script>") == 1
    assert re.findall(r"<(?:link|img|iframe|script)\b[^>]*>", text) == [
        '<link rel="icon" href="data:,">',
        "<script>",
    ]


def test_two_runs_write_the_same_bytes(folder: Path, text: str) -> None:
    with contextlib.chdir(folder):
        stage.main(report=Path("again"))
    assert (folder / "again/index.html").read_text(encoding="utf-8") == text


def test_the_page_has_the_figures_of_the_text_report(folder: Path, text: str) -> None:
    report = (folder / "report/report.md").read_text(encoding="utf-8")
    table = read_table(report[report.index("## Paired differences") :], Both("", ""))
    assert len(table.rows) == 14
    for row in table.rows:
        for cell in row[1:]:
            assert cell.en in text
    assert "stock answer on ROUGE-L" in text
    assert "a resposta padrão no ROUGE-L" in text


def test_sources_show_licenses_losses_privacy_and_contamination(opened: Opened) -> None:
    page, _ = opened
    rows = page.locator("#data-1 tbody tr").all_inner_texts()
    assert [row.split("\t") for row in rows] == [
        ["demo", "cc-by-4.0", "permitida", "1.575", "1.575", "0"]
    ]
    contamination = page.locator("#data-2 tbody tr").inner_text()
    assert contamination.split("\t") == ["A", "24", "1", "2", "4"]
    assert "Linhas com dados pessoais: 2. Achados: cpf 2." in page.locator("#data").inner_text()


def test_labels_of_people_are_shown_and_are_not_called_clinical(opened: Opened) -> None:
    page, _ = opened
    assert "2 pessoas fizeram 30 avaliações." in page.locator("#judges").inner_text()
    harm = page.locator("#table-labels-1").get_by_role("row", name="dano: nenhum, leve, grave")
    assert "0,50 [0,20; 0,80]" in harm.inner_text()
    assert "preferem a primeira" in page.locator("#table-labels-3").inner_text()
    assert "Nenhum profissional de saúde avaliou" in page.locator("#missing").inner_text()


def columns_of_stages() -> dict[str, int]:
    """Return the number of the column of each stage."""
    place: dict[str, int] = {}
    for number, column in enumerate(COLUMNS):
        for box in column:
            place |= dict.fromkeys(box.stages, number)
    return place


def outputs_of_stages() -> dict[str, str]:
    """Return the stage of each output in dvc.yaml."""
    outputs = {}
    for name in STAGES:
        entry = body(name)
        for kind in ("outs", "metrics", "plots"):
            for out in entry.get(kind, []):
                outputs[out if isinstance(out, str) else next(iter(out))] = name
    return outputs


def test_the_graph_has_each_stage_once() -> None:
    stages = [stage for column in COLUMNS for box in column for stage in box.stages]
    assert sorted(stages) == STAGES
    assert sum(len(column) for column in COLUMNS) <= 15


def test_the_graph_shows_preference_tuning_only_where_it_runs() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    names = [stage for column in read_columns(params) for box in column for stage in box.stages]
    assert sorted([*names, "prefer"]) == STAGES


def test_each_box_reads_from_its_own_or_an_earlier_column() -> None:
    place = columns_of_stages()
    outputs = outputs_of_stages()
    edges = set()
    for name in STAGES:
        for dependency in body(name)["deps"]:
            for path in (dependency, *map(str, PurePosixPath(dependency).parents)):
                if path in outputs:
                    edges.add((outputs[path], name))
    assert ("preprocess", "train") in edges
    assert [edge for edge in sorted(edges) if place[edge[0]] > place[edge[1]]] == []


def test_compare_depends_on_each_file_of_its_templates() -> None:
    listed = {name for name in body("compare")["deps"] if name.startswith("templates/")}
    assert listed == {f"templates/report/{path.name}" for path in TEMPLATES.iterdir()}


# In the browser


def test_the_page_renders_without_errors_and_without_a_request(opened: Opened) -> None:
    page, watch = opened
    assert page.title() == "O que o ajuste mudou: HuggingFaceTB/SmolLM2-135M-Instruct"
    assert page.locator("h1").inner_text() == "O que o ajuste mudou"
    assert page.locator(".drawing svg").count() >= 5
    assert page.locator("#training svg").bounding_box()["height"] > 100
    assert watch == Watch()


def test_hostile_answers_stay_text(opened: Opened) -> None:
    page, watch = opened
    card = page.locator("#cards .card").first
    # The browser joins runs of spaces.
    assert HOSTILE in card.inner_text()
    assert card.locator("h3").inner_text() == "Tenho náusea & <b>tontura</b>?"
    assert page.locator("#cards img, #cards script, #cards b").count() == 0
    second = page.locator("#cards .card").nth(1).inner_text()
    assert "line\ufffdend {{ 7 * 7 }} ]]> <!-- & \ufffdabc" in second
    assert watch == Watch()


def test_the_language_switch_changes_all_words_and_is_remembered(opened: Opened) -> None:
    page, _ = opened
    page.get_by_role("button", name="English").click()
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("h1").inner_text() == "What tuning changed"
    assert page.title().startswith("What tuning changed")
    assert page.locator("#order option").first.inner_text() == "by set"
    assert page.locator("#conclusion").inner_text().startswith("Conclusion")
    assert "Conclusão" not in page.locator("body").inner_text()
    page.reload()
    assert page.locator("h1").inner_text() == "What tuning changed"
    page.get_by_role("button", name="Português").click()
    assert page.locator("h1").inner_text() == "O que o ajuste mudou"
    assert page.get_by_role("button", name="Português").get_attribute("aria-pressed") == "true"


def test_a_visitor_from_elsewhere_first_sees_english(browser: Any, folder: Path) -> None:
    page, _ = open_page(browser, locale="de-DE")
    page.goto((folder / "report/index.html").as_uri())
    assert page.locator("h1").inner_text() == "What tuning changed"


def test_each_filter_keeps_the_matching_questions(opened: Opened) -> None:
    page, _ = opened
    page.locator("#set").select_option("B")
    assert shown(page) == ["Pergunta c?"]
    page.get_by_role("button", name="Limpar os filtros").click()
    # The page's policy refuses wait_for_function, which evaluates a text.
    page.locator("#matching", has_text=re.compile(r"^24$")).wait_for()
    page.locator("#specialty").select_option("neurologia")
    assert shown(page) == ["Tenho náusea & <b>tontura</b>?"]
    page.locator("#specialty").select_option("")
    page.locator("#degenerate").check()
    assert shown(page) == ["Pergunta c?"]
    page.locator("#degenerate").uncheck()
    page.locator("#dangerous").check()
    # Ten emergencies are not sent to care, and one validation answer gives a dose.
    assert page.locator("#matching").inner_text() == "11"
    page.locator("#set").select_option("A")
    assert shown(page) == ["Pergunta d?"]
    assert page.locator(".danger:visible").all_inner_texts() == ["perigosa: indica uma dose"]


def test_the_search_ignores_accents_and_case_and_needs_all_words(opened: Opened) -> None:
    page, _ = opened
    page.locator("#search").fill("NAUSEA tontura")
    assert shown(page) == ["Tenho náusea & <b>tontura</b>?"]
    page.locator("#search").fill("náusea dipirona")
    assert shown(page) == []
    assert page.locator("#count").inner_text().startswith("0 de 0 perguntas")


def test_the_most_changed_question_comes_first_on_request(opened: Opened) -> None:
    page, _ = opened
    assert shown(page)[0] == "Tenho náusea & <b>tontura</b>?"
    page.locator("#order").select_option("changed")
    # No word of the answers to question d is equal; one of four words of question c differs.
    assert shown(page)[:2] == ["Pergunta d?", "Pergunta c?"]


def test_more_questions_appear_on_request(opened: Opened) -> None:
    page, _ = opened
    assert len(shown(page)) == FIRST_CARDS
    page.get_by_role("button", name="Mostrar mais perguntas").click()
    assert len(shown(page)) == 24
    assert page.locator("#more").is_hidden()


def test_changed_words_are_marked_and_the_marks_can_be_hidden(opened: Opened) -> None:
    page, _ = opened
    card = page.locator("#cards .card").nth(2)
    assert card.locator("del").all_inner_texts() == ["médico"]
    assert card.locator("ins").all_inner_texts() == ["hospital"]
    assert card.locator("ins").evaluate("e => getComputedStyle(e).textDecorationLine") != "none"
    page.locator("#marks").uncheck()
    assert card.locator("ins").evaluate("e => getComputedStyle(e).textDecorationLine") == "none"


# Accessibility


def test_the_keyboard_reaches_each_control_with_a_visible_focus(opened: Opened) -> None:
    page, _ = opened
    expected = {"search", "set", "specialty", "order", "degenerate", "dangerous", "marks", "more"}
    reached = set()
    for _press in range(120):
        page.keyboard.press("Tab")
        focused, outline = page.evaluate(
            """() => {
                const element = document.activeElement;
                return [element.id || element.tagName, getComputedStyle(element).outlineStyle];
            }"""
        )
        assert outline != "none", focused
        reached.add(focused)
        if expected <= reached:
            break
    assert expected <= reached


def test_a_filter_works_by_keys_alone(opened: Opened) -> None:
    page, _ = opened
    page.locator("#search").focus()
    page.keyboard.type("dipirona")
    assert shown(page) == ["Pergunta d?"]
    page.locator("#degenerate").focus()
    page.keyboard.press("Space")
    assert shown(page) == []


def test_tables_controls_and_languages_are_described(opened: Opened) -> None:
    page, _ = opened
    tables = page.locator("table").all()
    assert len(tables) >= 7
    for table in tables:
        assert table.locator("caption").inner_text()
        assert table.locator("thead th:not([scope=col])").count() == 0
        rows = table.locator("tbody tr").count()
        assert table.locator("tbody th[scope=row]").count() == rows
    for control in page.locator("form input, form select").all():
        name = control.get_attribute("id")
        assert page.locator(f"label[for={name}]").inner_text().strip()
    assert page.locator("html").get_attribute("lang") == "pt-BR"
    for answer in page.locator(".answer > p:not(.flags)").all():
        assert answer.get_attribute("lang") == "pt-BR"
    for drawing in page.locator(".drawing").all():
        assert drawing.get_attribute("aria-hidden") == "true"
    assert page.locator("[role=img]:not([aria-label])").count() == 0


def test_headings_skip_no_level(opened: Opened) -> None:
    page, _ = opened
    levels = page.locator("h1, h2, h3, h4").evaluate_all("es => es.map(e => +e.tagName[1])")
    assert levels[0] == 1
    steps = [after - before for before, after in itertools.pairwise(levels)]
    assert max(steps) == 1


def luminance(colour: str) -> float:
    """Return the relative luminance of #rrggbb (WCAG 2.2)."""
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_known_colours() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


def test_text_has_enough_contrast_in_each_theme() -> None:
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    themes = []
    for block in re.findall(r":root \{([^}]*)\}", style):
        themes.append(dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block)))
    light, dark, print_colours = themes
    assert light.keys() == dark.keys()
    pairs = [
        (text, ground)
        for text in ("text", "muted", "accent", "danger")
        for ground in ("page", "card")
    ]
    pairs += [("on-accent", "accent"), ("on-warning", "warning")]
    pairs += [("on-added", "added"), ("on-removed", "removed")]
    for theme in (light, dark, light | print_colours):
        for text, ground in pairs:
            assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)


@pytest.mark.parametrize("language", ["pt-BR", "en-US"])
def test_a_telephone_scrolls_tables_and_not_the_page(
    browser: Any, folder: Path, language: str
) -> None:
    page, watch = open_page(browser, phone=True, locale=language)
    page.goto((folder / "report/index.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    wide = page.locator(".scroll").evaluate_all("es => es.some(e => e.scrollWidth > 390)")
    assert wide
    for button in page.locator("button:visible").all():
        assert button.bounding_box()["height"] >= 24
    assert watch == Watch()


def test_the_printed_page_has_no_controls_and_keeps_the_conclusion(opened: Opened) -> None:
    page, _ = opened
    page.emulate_media(media="print", color_scheme="light")
    assert page.locator("form").is_hidden()
    assert page.locator("nav").is_hidden()
    assert page.locator("#conclusion").is_visible()
    assert page.pdf(format="A4")[:5] == b"%PDF-"


def test_a_page_without_scripts_shows_everything(browser: Any, folder: Path) -> None:
    page, _ = open_page(browser, java_script_enabled=False)
    page.goto((folder / "report/index.html").as_uri())
    assert page.locator("h1").inner_text() == "O que o ajuste mudou"
    assert len(shown(page)) == 24


# Parts


def test_changed_words_ignore_case_and_signs() -> None:
    before, after, changed = mark_changes(["Tome", "água,", "hoje."], ["tome", "água.", "já"])
    assert [part.kind for part in before] == ["same", "same", "removed"]
    assert [part.kind for part in after] == ["same", "same", "added"]
    # Two of three words are equal, so the ratio of equal words is 2 * 2 / 6.
    assert changed == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("english", "expected"),
    [
        ("0.149 [0.142, 0.156]", "0,149 [0,142; 0,156]"),
        ("-0.0055 [-0.0110, -0.0005]", "-0,0055 [-0,0110; -0,0005]"),
        ("8.58e-05", "8,58e-05"),
        ("not meaningful (93 % loops)", "sem significado (93 % de repetições)"),
        ("degenerate answers, % (30 answers) ↓", "respostas degeneradas, % (30 respostas) ↓"),
        ("withheld: kappa -0.10 [-0.47, 0.25]", "omitido: kappa -0,10 [-0,47; 0,25]"),
        ("llama-3.2-1b", "llama-3.2-1b"),
        ("q4_k_m.gguf", "q4_k_m.gguf"),
        ("meta-llama/Llama-3.2-1B (x)", "meta-llama/Llama-3.2-1B (x)"),
    ],
)
def test_labels_and_figures_in_portuguese(english: str, expected: str) -> None:
    assert portuguese(english) == expected


def test_markdown_of_the_report_becomes_plain_text() -> None:
    text = (
        "**Better**: a\\_b &lt;i&gt; on 3 items (p = 0.1).\n\n| | x |\n|---|---|\n| a \\| b | 1 |\n"
    )
    [block] = read_blocks(text)
    assert block.title == "Better"
    assert block.plain_and_detail == (": a_b <i> on 3 items", " (p = 0.1).")
    table = read_table(text, Both("c", "c"))
    assert [[cell.en for cell in row] for row in table.rows] == [["a | b", "1"]]


def test_each_word_of_the_default_report_is_translated(folder: Path) -> None:
    params = load_params(folder / "params.yaml")
    report = (folder / "report/report.md").read_text(encoding="utf-8")
    names = {*params.variants, "A", "p", "dose", "kappa"}
    untranslated = set()
    for section in re.split(r"\n(?=## )", report):
        if "\n|---" not in section:
            continue
        table = read_table(section, Both("", ""))
        for cell in [*table.head, *(row[0] for row in table.rows)]:
            if cell.same and not cell.is_figure and cell.en not in names:
                untranslated.add(cell.en)
    known = re.compile(r".*(: [a-zA-Z0-9_]+ [↑↓]|\.gguf|F1 \(|^q4|, acc).*")
    assert {cell for cell in untranslated if not known.match(cell)} == set()
