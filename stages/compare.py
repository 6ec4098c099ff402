"""Compare each variant with the baseline on the same items, and write the report for a reviewer.

Interval: paired bootstrap over items. Test: McNemar's for right/wrong, sign flips for the rest, with
Holm's correction over all tests that mean something. A difference that another training seed alone
could have made is marked.

    python -m stages.compare
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from bula.errors import UserError, run_stage
from bula.escaping import markdown, terminal
from bula.files import staged
from bula.item_scores import (
    ROWS,
    ShownAnswer,
    Values,
    item_ids,
    means,
    read_checked,
    read_item_scores,
    read_judge_scores,
    read_verdicts,
    rerun_advice,
)
from bula.params import Params, load_params
from bula.reports import as_written, write_metrics
from bula.stats import bootstrap_mean, holm, mcnemar, paired_permutation
from bula.tables import (
    degenerate_share,
    differences_table,
    fidelity_table,
    read_figures,
    read_metrics,
    results_table,
)

ARROWS = "↓: lower is better; ↑: higher is better."
# A group of figures for each paired difference.
Results = dict[str, dict[str, float | int | bool]]
Answers = dict[str, dict[str, ShownAnswer]]


def measures(data: Path, variant: str) -> dict[str, Values]:
    """Return the value of each item under one variant, by measure."""
    return read_item_scores(data, variant) | read_judge_scores(data, variant)


def check_items(data: Path, params: Params) -> None:
    """Check that all variants have the same items; UserError names the file that lacks some."""
    for stage in ROWS:
        baseline = item_ids(data, stage, params.compare.baseline)
        for variant in params.variants:
            items = item_ids(data, stage, variant)
            _check_lack(data, stage, variant, items, params.compare.baseline, baseline)
            # An answer that the baseline lacks takes part in no comparison and does no harm.
            if stage != "generate":
                _check_lack(data, stage, params.compare.baseline, baseline, variant, items)


def _check_lack(
    data: Path,
    stage: str,
    variant: str,
    items: dict[str, None],
    other: str,
    expected: dict[str, None],
) -> None:
    """Raise a UserError if `items` of one variant lack some that another one has."""
    missing = [item for item in expected if item not in items]
    if missing:
        folder, _ = ROWS[stage]
        what = f"{len(missing)} items of {folder}/{other}.jsonl are missing (first: {missing[0]})"
        raise UserError(
            data / folder / f"{variant}.jsonl", what, rerun_advice(f"{stage}@{variant}")
        )


def check_judges(data: Path, params: Params) -> None:
    """Check that one judge judged all variants; UserError names the file with another one."""
    expected = read_verdicts(data, params.compare.baseline)[0].judge
    for variant in (params.compare.baseline, *params.variants):
        others = {row.judge for row in read_verdicts(data, variant)} - {expected}
        if others:
            known = f"{expected!r} judged {params.compare.baseline}"
            what = f"the judge {min(others)!r} stands there, but {known}"
            raise UserError(
                data / "verdicts" / f"{variant}.jsonl", what, rerun_advice(f"judge@{variant}")
            )


def read_answers(data: Path, params: Params) -> Answers:
    """Return the answers of each variant by id."""
    answers: Answers = {}
    for variant in params.variants:
        path = data / "answers" / f"{variant}.jsonl"
        rows = read_checked(path, f"generate@{variant}", ShownAnswer)
        answers[variant] = {row.id: row for row in rows}
    return answers


def read_spreads(figures: Path) -> dict[str, Any]:
    """Return metrics/seeds.json; UserError if a spread lacks its figures."""
    path = figures / "seeds.json"
    try:
        spreads = read_figures(path, "")
    except UserError as error:
        fix = f"restore it from git (`git checkout {path}`), or run `make seeds`"
        raise UserError(path, error.what, fix) from error
    for name, spread in spreads.items():
        found = [spread.get("first"), spread.get("range")] if isinstance(spread, dict) else [None]
        if name != "seeds" and not all(isinstance(value, int | float) for value in found):
            raise UserError(path, f"{name} lacks `first` or `range`", "run `make seeds` again")
    return spreads


def compare(first: Values, second: Values, params: Params) -> dict[str, float | int | bool]:
    """Return the paired difference, second minus first, over the items that both have."""
    shared = sorted(first.keys() & second.keys())
    if not shared:
        raise ValueError("two variants share no item; they were scored on different data")
    a, b = [first[item] for item in shared], [second[item] for item in shared]
    differences = [y - x for x, y in zip(a, b, strict=True)]
    settings = params.compare
    low, high = bootstrap_mean(
        differences, settings.resamples, settings.confidence, params.sampling_seed
    )
    binary = set(a) | set(b) <= {0.0, 1.0}
    if binary:
        test = mcnemar([x == 1 for x in a], [y == 1 for y in b])
    else:
        test = paired_permutation(differences, settings.permutations, params.sampling_seed)
    return {
        "items": len(shared),
        "difference": sum(differences) / len(shared),
        "low": low,
        "high": high,
        "p": test.p,
        "p_at_floor": test.at_floor,
    }


def compare_all(data: Path, params: Params) -> Results:
    """Return every measure of every variant against the baseline."""
    name_of_baseline = params.compare.baseline
    baseline = measures(data, name_of_baseline)
    results: Results = {}
    for variant in params.variants:
        if variant == name_of_baseline:
            continue
        found = measures(data, variant)
        if others := sorted(found.keys() ^ baseline.keys()):
            both = f"{name_of_baseline} and {variant}"
            what = f"{both} were not scored by the same metrics ({others[0]})"
            raise UserError(
                data / "samples" / f"{variant}.jsonl", what, rerun_advice(f"benchmark@{variant}")
            )
        for name, values in found.items():
            # A weak judge may fail on all the answers on which it succeeded before.
            pairless = name.startswith("judge_") and not baseline[name].keys() & values.keys()
            if not pairless:
                key = f"{variant}_minus_{name_of_baseline}__{name}"
                results[key] = compare(baseline[name], values, params)
    return results


def is_about_answers(measure: str) -> bool:
    """Tell whether a measure rates the text of generated answers."""
    return measure.startswith(("rouge", "judge_"))


def correct(results: Results, shares: dict[str, float], params: Params) -> None:
    """Write beside each difference whether it means something, and p corrected over those that do.

    `shares` holds each variant's share of degenerate answers: overlap of loops with a reference, or a
    judge's score of them, says nothing.
    """
    limit = params.compare.max_degenerate_share
    for variant in params.variants:
        prefix = f"{variant}_minus_{params.compare.baseline}__"
        loops = max(shares[variant], shares[params.compare.baseline]) > limit
        for key in results:
            if key.startswith(prefix):
                rates_loops = loops and is_about_answers(key.removeprefix(prefix))
                results[key]["meaningful"] = not rates_loops
    family = [row for row in results.values() if row["meaningful"]]
    for row, adjusted in zip(family, holm([row["p"] for row in family]), strict=True):
        row["p_holm"] = adjusted


def seed_ranges(spreads: dict[str, Any], data: Path, params: Params) -> dict[str, dict[str, float]]:
    """Return the range over seeds of each measure, by variant.

    `spreads` is metrics/seeds.json. The spread of a variant counts only if all its figures of the
    pipeline's own run are those of today's rows, so that it was measured from this very run.
    """
    known = {}
    for variant in params.variants:
        today = means(measures(data, variant))
        mine = {
            name: spreads[f"{variant}__{name}"] for name in today if f"{variant}__{name}" in spreads
        }
        if mine and all(
            spread["first"] == as_written(today[name]) for name, spread in mine.items()
        ):
            known[variant] = {name: spread["range"] for name, spread in mine.items()}
    return known


def mark(results: Results, ranges: dict[str, dict[str, float]], params: Params) -> None:
    """Write beside each difference the range over seeds, and whether it lies within.

    Nothing is written where no range is known. A variant that was not trained anew for each seed
    takes the largest range that another one has for the measure.
    """
    for variant in params.variants:
        prefix = f"{variant}_minus_{params.compare.baseline}__"
        for key, row in results.items():
            name = key.removeprefix(prefix)
            others = [known[name] for known in ranges.values() if name in known]
            if key.startswith(prefix) and others:
                row["seed_range"] = ranges.get(variant, {}).get(name, max(others))
                row["within_seed_range"] = abs(as_written(row["difference"])) <= row["seed_range"]


def seed_note(results: Results, seeds: int) -> str:
    """Return what the column of seeds says, or that nothing was measured."""
    marked = [row for row in results.values() if "within_seed_range" in row]
    rows = [row for row in marked if row.get("meaningful", True)]
    if not rows:
        return "How far another training seed alone moves these figures was not measured for this run: `make seeds N=3` does it.\n"
    within = [row for row in rows if row["within_seed_range"]]
    zero = sum(row["difference"] == 0 for row in within)
    return (
        f"Seeds: how far the measure moved over {seeds} runs that differ in the seed of training alone "
        f"(`metrics/seeds.json`). **within** marks the {len(within)} of {len(rows)} differences that are "
        f"no larger, {zero} of them 0: luck can make them. Of the others it proves nothing, since a few "
        "seeds show less than luck can do.\n"
    )


def precision_note(figures: Path, params: Params) -> str:
    """Return a warning for each stage that computed its variants in different precisions."""
    notes = []
    for stage in ("likelihood", "generate", "benchmark"):
        settings = {v: read_metrics(figures, stage, v).get("settings") for v in params.variants}
        told = {
            v: known.get("compute_dtype")
            for v, known in settings.items()
            if isinstance(known, dict)
        }
        known = {
            variant: dtype for variant, dtype in told.items() if dtype in ("bfloat16", "float32")
        }
        if len(set(known.values())) > 1:
            each = ", ".join(f"{variant} in {dtype}" for variant, dtype in known.items())
            told_of = f"\n**{stage} was computed on machines of two kinds** ({each})"
            notes.append(f"{told_of}: rounding is part of its differences.\n")
    return "".join(notes)


def side_by_side(answers: Answers, params: Params) -> str:
    """Return the first question of each validation set with the reference and every variant's answer."""
    baseline = answers[params.compare.baseline].values()
    firsts = {row.split: row for row in reversed(baseline)}
    parts = []
    for split in sorted(firsts)[: params.compare.examples]:
        row = firsts[split]
        parts.append(f"### {split}: {markdown(row.question)}\n")
        parts.append(f"**reference**: {markdown(row.answer)}\n")
        parts += [shown(v, answers[v][row.id]) for v in params.variants]
    return "\n".join(parts)


def shown(variant: str, row: ShownAnswer) -> str:
    """Return one generated answer as a paragraph."""
    notes = markdown(row.finish_reason) + (", degenerate" if row.degenerate else "")
    return f"**{variant}** ({notes}): {markdown(row.generated) or '(empty)'}\n"


def judge_note(params: Params) -> str:
    """Return what to think of the judge's figures."""
    judge = markdown(params.judge.model)
    agreement = "How far it agrees with the author's scores: `metrics/calibrate.json`.\n"
    if params.judge.trustworthy:
        return f"Judge: {judge}. {agreement}"
    return (
        f"**The judge {judge} is not trustworthy** (`judge.trustworthy` in params.yaml): nobody has "
        f"shown that it can judge medicine, and its figures settle nothing. {agreement}"
    )


def degenerate_note(shares: dict[str, float], params: Params) -> str:
    """Return a warning that names the variants whose answers are loops; empty if there are none."""
    limit = params.compare.max_degenerate_share
    many = {variant: share for variant, share in shares.items() if share > limit}
    if not many:
        return ""
    each = ", ".join(
        f"{name} ({share * 100:.0f} % degenerate answers)" for name, share in many.items()
    )
    return (
        f"\n**ROUGE and the judge's scores say nothing of {each}.** A degenerate answer repeats itself or "
        f"holds no word. Above {percent(limit)} of them (`compare.max_degenerate_share`) the tables "
        "withhold these figures, and every difference that they are part of.\n"
    )


def interval_note(results: Results, params: Params) -> str:
    """Return what an interval and a p-value of the table of differences stand for."""
    tests = sum(bool(row["meaningful"]) for row in results.values())
    return (
        f"The same items under both variants. Each {percent(params.compare.confidence)} interval stands "
        f"for its comparison alone, while p is corrected for all {tests} that are meaningful: where they "
        "disagree, and wherever items are few, go by p. ≤ stands where the test could not have returned "
        f"a smaller p. {ARROWS}\n"
    )


def percent(share: float) -> str:
    """A share in per cent, with the decimals that it has."""
    return f"{share * 100:g}%"


def opening(figures: Path, shares: dict[str, float], params: Params) -> str:
    """Return the table of results with its warnings."""
    notes = degenerate_note(shares, params) + precision_note(figures, params)
    return results_table(figures, params) + notes


def report_text(
    figures: Path,
    table: str,
    results: Results,
    seeds: int,
    answers: Answers,
    params: Params,
) -> str:
    """Return the report, which opens with `table`."""
    interval = f"± is a standard error, [ ] a {percent(params.rouge.confidence)} bootstrap interval"
    return "\n".join(
        [
            f"# What tuning changed\n\n{table}",
            f"{interval} over answers. {ARROWS}\n",
            f"{judge_note(params)}\n## Paired differences\n",
            interval_note(results, params),
            seed_note(results, seeds),
            f"{differences_table(results)}\n## From adapter to quantized file\n",
            "Over validation answers, at every supervised token; in float32 unless a row says otherwise.\n",
            f"{fidelity_table(figures)}\n## Answers side by side\n",
            f"Not medical advice.\n\n{side_by_side(answers, params)}",
        ]
    )


def main(
    data: Annotated[Path, typer.Option(help="Folder of the rows of each item.")] = Path("data"),
    figures: Annotated[Path, typer.Option(help="Folder of metrics.")] = Path("metrics"),
    report: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report"),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/compare.json"),
) -> None:
    """Compare the variants and write the report."""
    params = load_params()
    check_items(data, params)
    check_judges(data, params)
    spreads, answers = read_spreads(figures), read_answers(data, params)
    results = compare_all(data, params)
    mark(results, seed_ranges(spreads, data, params), params)
    shares = {variant: degenerate_share(figures, variant) for variant in params.variants}
    correct(results, shares, params)
    table = opening(figures, shares, params)
    text = report_text(figures, table, results, spreads.get("seeds", 0), answers, params)
    write_metrics(metrics, results)
    with staged(report) as temporary:
        temporary.mkdir()
        (temporary / "report.md").write_text(text, encoding="utf-8")
    told = f"compare: {len(results)} paired differences, report in {report}/report.md"
    print(terminal(f"{told}\n\n{table}", lines=True))


if __name__ == "__main__":
    run_stage(main)
