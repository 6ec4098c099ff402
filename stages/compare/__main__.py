"""Compare the variants in pairs item by item, and report.

python -m stages.compare
"""

from pathlib import Path
from typing import Annotated

import typer

from bula.errors import run_stage
from bula.escaping import terminal
from bula.files import staged
from bula.params import Params, load_params
from bula.reports import write_metrics
from stages.compare.conclusion import read_facts
from stages.compare.figure import NAME, Panel, draw_panels, link, read_panels
from stages.compare.headline import headline
from stages.compare.inputs import (
    Answers,
    check_items,
    check_judges,
    read_answers,
    read_doubts,
    read_groups,
    read_spreads,
)
from stages.compare.page.content import Folders, read_content
from stages.compare.page.render import render
from stages.compare.pairs import Results, compare_all, mark_families
from stages.compare.report import opening, report_text
from stages.compare.seeds import mark_seeds, seeds_table
from stages.compare.summary import summarize


def write_report(folder: Path, texts: dict[str, str], panels: list[Panel], params: Params) -> None:
    """Write texts by file name, and the figure, as the only files."""
    with staged(folder) as temporary:
        temporary.mkdir()
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
        draw_panels(panels, params.variants, temporary / NAME)


def report_texts(
    folders: Folders, table: str, results: Results, answers: Answers, panels: list[Panel]
) -> dict[str, str]:
    """Return the texts of the report by file name.

    `table` has the results of each variant.
    """
    params = load_params()
    figures = folders.figures
    spreads = read_spreads(figures)
    over_seeds = seeds_table(folders.data, spreads, params)
    facts = read_facts(figures, results, params)
    content = read_content(folders, results, facts, answers, panels, params)
    picture = link(panels)
    return {
        "index.html": render(content),
        "report.md": report_text(figures, table, results, over_seeds, answers, params, picture),
        "headline.md": headline(figures, results, answers, params),
    }


def main(
    data: Annotated[Path, typer.Option(help="Folder of the rows of each item.")] = Path("data"),
    figures: Annotated[Path, typer.Option(help="Folder of metrics.")] = Path("metrics"),
    plots: Annotated[Path, typer.Option(help="Folder of training curves.")] = Path("plots"),
    report: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report"),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/compare.json"),
    summary: Annotated[Path, typer.Option(help="Main figures.")] = Path("metrics/summary.json"),
) -> None:
    """Compare the variants and write the report."""
    params = load_params()
    check_items(data, params)
    check_judges(data, params)
    spreads = read_spreads(figures)
    answers = read_answers(data, params)
    results = compare_all(data, read_groups(data, params), params)
    mark_seeds(results, spreads, params)
    mark_families(results, read_doubts(figures, params), params)
    table = opening(figures, results, params)
    panels = read_panels(data, figures, params)
    texts = report_texts(Folders(data, figures, plots), table, results, answers, panels)
    write_metrics(metrics, results)
    write_metrics(summary, summarize(figures, results, params))
    write_report(report, texts, panels, params)
    last = f"compare: {len(results)} paired differences, report in {report}/index.html"
    print(terminal(f"{last}\n\n{table}", lines=True))


if __name__ == "__main__":
    run_stage(main, less_memory="lower compare.resamples")
