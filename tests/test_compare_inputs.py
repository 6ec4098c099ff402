"""Check that compare refuses damaged inputs and writes nothing then."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bula.errors import UserError
from bula.records import Row, read_rows, write_rows
from stages.compare import __main__ as stage
from tests.test_compare import write_inputs

# A function that damages a file below the given folder.
Damage = Callable[[Path], None]


def rewrite(name: str, change: Callable[[list[Row]], list[Row]]) -> Damage:
    """Return a change of the rows of a file in data/."""

    def damage(folder: Path) -> None:
        file = folder / "data" / name
        write_rows(file, change(list(read_rows(file))))

    return damage


def first_with(name: str, key: str, value: Any) -> Damage:
    """Return a change of one field in the first row."""
    return rewrite(name, lambda rows: [rows[0] | {key: value}, *rows[1:]])


def last_without(name: str, key: str) -> Damage:
    """Return the removal of one field from the last row."""

    def change(rows: list[Row]) -> list[Row]:
        del rows[-1][key]
        return rows

    return rewrite(name, change)


def all_with(name: str, fields: Row) -> Damage:
    """Return a change of some fields in each row of a file."""
    return rewrite(name, lambda rows: [row | fields for row in rows])


def failed_verdicts(rows: list[Row]) -> list[Row]:
    """Return the same verdicts, failed."""
    return [{"id": row["id"], "judge": "j", "failed": "x"} for row in rows]


def text(name: str, content: str) -> Damage:
    """Return the replacement of a file by a text."""

    def damage(folder: Path) -> None:
        (folder / name).write_text(content, encoding="utf-8")

    return damage


def missing(name: str) -> Damage:
    """Return the removal of a file."""
    return lambda folder: (folder / name).unlink()


def metric(name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Damage:
    """Return a change of a file in metrics/."""

    def damage(folder: Path) -> None:
        file = folder / "metrics" / name
        content = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps(change(content)), encoding="utf-8")

    return damage


DAMAGES: dict[str, tuple[Damage, str]] = {
    "answers missing": (
        missing("data/answers/tuned.jsonl"),
        r"data/answers/tuned\.jsonl: .*`dvc repro generate@tuned`",
    ),
    "likelihood missing": (
        missing("data/likelihood/base.jsonl"),
        r"data/likelihood/base\.jsonl: .*`dvc repro likelihood@base`",
    ),
    "scores missing": (
        missing("data/scores/tuned.jsonl"),
        r"data/scores/tuned\.jsonl: .*`dvc repro rouge@tuned`",
    ),
    "samples missing": (
        missing("data/samples/tuned.jsonl"),
        r"data/samples/tuned\.jsonl: .*`dvc repro benchmark@tuned`",
    ),
    "verdicts missing": (
        missing("data/verdicts/base.jsonl"),
        r"data/verdicts/base\.jsonl: .*`dvc repro judge@base`",
    ),
    "safety missing": (
        missing("data/safety/tuned.jsonl"),
        r"data/safety/tuned\.jsonl: .*`dvc repro safety@tuned`",
    ),
    "fewer safety questions": (
        rewrite("safety/tuned.jsonl", lambda rows: rows[1:]),
        r"safety/tuned\.jsonl: 1 items .*\(first: s05\).*safety@tuned",
    ),
    "stock answer missing": (
        missing("data/controls/scores_stock.jsonl"),
        r"controls/scores_stock\.jsonl: .*`dvc repro controls`",
    ),
    "n-gram missing": (
        missing("data/controls/likelihood_ngram.jsonl"),
        r"controls/likelihood_ngram\.jsonl: .*`dvc repro controls`",
    ),
    "a slice missing": (
        metric("safety/base.json", lambda m: {"harmless": m["harmless"]}),
        r"safety/base\.json: the group 'no_dose' is missing.*safety@base",
    ),
    "a judge without a kappa": (
        metric("judge/base.json", lambda m: {k: v for k, v in m.items() if "kappa" not in k}),
        r"judge/base\.json: the number accuracy_kappa is missing.*judge@base",
    ),
    "empty likelihood": (
        text("data/likelihood/tuned.jsonl", ""),
        r"likelihood/tuned\.jsonl: the file contains no row\. Run `dvc repro likelihood@tuned`",
    ),
    "empty scores": (
        text("data/scores/base.jsonl", ""),
        r"scores/base\.jsonl: the file contains no row\. Run `dvc repro rouge@base`",
    ),
    "not JSON": (
        text("data/scores/base.jsonl", "{"),
        r"scores/base\.jsonl:1: .*`dvc repro rouge@base`",
    ),
    "answers of fewer items": (
        rewrite("answers/tuned.jsonl", lambda rows: rows[1:]),
        r"answers/tuned\.jsonl: 1 items of answers/base\.jsonl are missing \(first: a\)\. Run "
        r"`dvc repro generate@tuned`",
    ),
    "scores of fewer items": (
        rewrite("scores/tuned.jsonl", lambda rows: rows[2:]),
        r"scores/tuned\.jsonl: 2 items of scores/base\.jsonl are missing .*rouge@tuned",
    ),
    "baseline of fewer items": (
        rewrite("scores/base.jsonl", lambda rows: rows[:3]),
        r"scores/base\.jsonl: 1 items of scores/tuned\.jsonl are missing \(first: d\).*rouge@base",
    ),
    "fewer verdicts": (
        rewrite("verdicts/tuned.jsonl", lambda rows: rows[:1]),
        r"verdicts/tuned\.jsonl: 1 items .*judge@tuned",
    ),
    "fewer benchmark items": (
        rewrite("samples/tuned.jsonl", lambda rows: rows[:2]),
        r"samples/tuned\.jsonl: 2 items .*\(first: t: c\).*benchmark@tuned",
    ),
    "an id twice": (
        rewrite("scores/tuned.jsonl", lambda rows: [*rows, rows[0] | {"rougeL_f": 0.9}]),
        r"scores/tuned\.jsonl: 1 items appear more than once \(first: a\)\. Run `dvc repro "
        r"rouge@tuned`",
    ),
    "an answer twice": (
        rewrite("answers/base.jsonl", lambda rows: [*rows, rows[1]]),
        r"answers/base\.jsonl: 1 items appear more than once .*generate@base",
    ),
    "benchmark items twice": (
        rewrite("samples/tuned.jsonl", lambda rows: rows + rows[:2]),
        r"samples/tuned\.jsonl: 2 items appear more than once \(first: t: a\)\. Run "
        r"`dvc repro benchmark@tuned`",
    ),
    "a row without a field": (
        last_without("scores/tuned.jsonl", "rougeL_f"),
        r"scores/tuned\.jsonl:4: the row cannot be used \(rougeL_f: Field required\)\. Run "
        r"`dvc repro rouge@tuned`",
    ),
    "an answer without its text": (
        last_without("answers/base.jsonl", "generated"),
        r"answers/base\.jsonl:4: .*generated: Field required.*generate@base",
    ),
    "a text for a number": (
        first_with("likelihood/base.jsonl", "nats", "3"),
        r"likelihood/base\.jsonl:1: .*nats: .*likelihood@base",
    ),
    "no score in a sample": (
        first_with("samples/base.jsonl", "scores", {}),
        r"samples/base\.jsonl:1: .*scores: .*benchmark@base",
    ),
    "another metric": (
        all_with("samples/tuned.jsonl", {"scores": {"f1": 1.0}}),
        r"samples/tuned\.jsonl: base and tuned were not scored by the same metrics "
        r"\(t_acc\).*benchmark@tuned",
    ),
    "another variant": (
        first_with("scores/tuned.jsonl", "variant", "base"),
        r"scores/tuned\.jsonl:1: the row is about the variant 'base', not 'tuned'.*rouge@tuned",
    ),
    "an unknown set": (
        first_with("answers/base.jsonl", "split", "Z"),
        r"answers/base\.jsonl:1: .*split: .*generate@base",
    ),
    "another judge": (
        first_with("verdicts/tuned.jsonl", "judge", "other"),
        r"verdicts/tuned\.jsonl: the judge is 'other', but 'j' judged base.*judge@tuned",
    ),
    "no verdict that succeeded": (
        rewrite("verdicts/tuned.jsonl", failed_verdicts),
        r"verdicts/tuned\.jsonl: the judge failed on every answer.*judge@tuned",
    ),
    "half a verdict": (
        last_without("verdicts/tuned.jsonl", "failed"),
        r"verdicts/tuned\.jsonl: the verdict on b has neither.*judge@tuned",
    ),
    "metrics missing": (
        missing("metrics/rouge/tuned.json"),
        r"metrics/rouge/tuned\.json: the file does not exist\. Run `dvc repro rouge@tuned`",
    ),
    "metrics that are no JSON": (
        text("metrics/judge/base.json", "<html>"),
        r"metrics/judge/base\.json: the file is not JSON\. Run `dvc repro judge@base`",
    ),
    "metrics that are a list": (
        text("metrics/generate/base.json", "[]"),
        r"metrics/generate/base\.json: the file contains no JSON object.*generate@base",
    ),
    "a group missing": (
        metric("likelihood/base.json", lambda m: {"A": m["A"]}),
        r"likelihood/base\.json: the group 'pooled' is missing.*likelihood@base",
    ),
    "a figure missing": (
        metric("generate/tuned.json", lambda m: {"items": 30}),
        r"generate/tuned\.json: the number degenerate_share is missing.*generate@tuned",
    ),
    "a figure that is a text": (
        metric("judge/tuned.json", lambda m: m | {"style_mean": "2"}),
        r"judge/tuned\.json: the number style_mean is missing.*judge@tuned",
    ),
    "a task without figures": (
        metric("benchmark/base.json", lambda m: m | {"t": {"items": 3}}),
        r"benchmark/base\.json: the number t\.commonest_answer_share is missing.*benchmark@base",
    ),
    "merge without a group": (
        metric("merge.json", lambda m: {"checked": m["checked"]}),
        r"merge\.json: the group 'adapter' is missing\. Run `dvc repro merge`",
    ),
    "quantize cut short": (
        text("metrics/quantize.json", '{"bf16": {'),
        r"quantize\.json: the file is not JSON\. Run `dvc repro quantize`",
    ),
    "seeds missing": (
        missing("metrics/seeds.json"),
        r"metrics/seeds\.json: the file does not exist\. Restore it from git",
    ),
    "training figures missing": (
        missing("metrics/train.json"),
        r"metrics/train\.json: the file does not exist\. Run `dvc repro train`",
    ),
    "training without steps": (
        metric("train.json", lambda m: {"run": {"epochs": 1.0}}),
        r"metrics/train\.json: the number run\.steps is missing\. Run `dvc repro train`",
    ),
    "rows trained missing": (
        metric("template.json", lambda m: {}),
        r"metrics/template\.json: the number rows is missing\. Run `dvc repro train`",
    ),
    "validation set missing": (
        missing("data/clean/validation/C.jsonl"),
        r"data/clean/validation/C\.jsonl: the file does not exist",
    ),
    "a spread without a range": (
        metric("seeds.json", lambda m: {"seeds": 3, "tuned__rouge1_f": {"first": 0.2}}),
        r"seeds\.json: tuned__rouge1_f lacks",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_input_is_an_error_without_output(
    damage: Damage, message: str, workspace: Path
) -> None:
    write_inputs(workspace)
    damage(workspace)
    with pytest.raises(UserError, match=message):
        stage.main()
    assert not (workspace / "report").exists()
    assert not (workspace / "metrics/compare.json").exists()
