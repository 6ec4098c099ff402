"""Compare each variant with the baseline on the same items, by pairs, and write the report that a reviewer reads.

Interval: paired bootstrap over items. Test: McNemar's for right/wrong, sign flips for the rest, with Holm's correction
over every test in the file. A difference that another training seed alone could have made is marked.

    python -m stages.compare
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bula.measures import Values, judged, means, scored
from bula.params import Params, load_params
from bula.records import read_rows, staged
from bula.reports import as_written, write_metrics
from bula.stats import bootstrap_mean, holm, mcnemar, paired_permutation
from bula.table import differences_table, fidelity_table, read_metrics, results_table

# A group of figures for each paired difference.
Results = dict[str, dict[str, float | int]]


def measures(data: Path, variant: str) -> dict[str, Values]:
    """Everything that is known of each item under one variant, by measure."""
    return scored(data, variant) | judged(data, variant)


def compare(first: Values, second: Values, params: Params) -> dict[str, float | int]:
    """Paired difference, second minus first, over the items that both have; ValueError if they share none."""
    shared = sorted(first.keys() & second.keys())
    if not shared:
        raise ValueError("two variants share no item; they were scored on different data")
    a, b = [first[item] for item in shared], [second[item] for item in shared]
    differences = [y - x for x, y in zip(a, b, strict=True)]
    low, high = bootstrap_mean(differences, params.compare.resamples, params.compare.confidence, params.seed)
    binary = set(a) | set(b) <= {0.0, 1.0}
    p = (
        mcnemar([x == 1 for x in a], [y == 1 for y in b])
        if binary
        else paired_permutation(differences, params.compare.permutations, params.seed)
    )
    return {"items": len(shared), "difference": sum(differences) / len(shared), "low": low, "high": high, "p": p}


def compare_all(data: Path, params: Params) -> Results:
    """Every measure of every variant against the baseline, with p-values corrected together."""
    baseline = measures(data, params.compare.baseline)
    results: Results = {}
    for variant in params.variants:
        if variant == params.compare.baseline:
            continue
        for name, values in measures(data, variant).items():
            # A weak judge may fail on all the answers on which it succeeded before: then there is no pair of verdicts.
            pairless = name.startswith("judge_") and not baseline.get(name, {}).keys() & values.keys()
            if name in baseline and not pairless:
                results[f"{variant}_minus_{params.compare.baseline}__{name}"] = compare(baseline[name], values, params)
    for row, adjusted in zip(results.values(), holm([row["p"] for row in results.values()]), strict=True):
        row["p_holm"] = adjusted
    return results


def seed_ranges(spreads: dict[str, Any], data: Path, params: Params) -> dict[str, dict[str, float]]:
    """Range over seeds of each measure, by variant, where `spreads` (metrics/seeds.json) has one that was measured from this very run.

    A spread of a variant counts only if all its figures of the pipeline's own run are those of today's rows.
    """
    known = {}
    for variant in params.variants:
        today = means(measures(data, variant))
        mine = {name: spreads[f"{variant}__{name}"] for name in today if f"{variant}__{name}" in spreads}
        if mine and all(spread["first"] == as_written(today[name]) for name, spread in mine.items()):
            known[variant] = {name: spread["range"] for name, spread in mine.items()}
    return known


def mark(results: Results, ranges: dict[str, dict[str, float]], params: Params) -> None:
    """Write beside each difference the range over seeds, and whether it lies within; nothing where no range is known.

    A variant that was not trained anew for each seed takes the largest range that another one has for the measure.
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
    """What the column of seeds says of so many seeds, or that there is nothing to say."""
    within = [row["within_seed_range"] for row in results.values() if "within_seed_range" in row]
    if not within:
        return "How far another training seed alone moves these figures was not measured for this run: `make seeds N=3` does it.\n"
    zero = sum(row["difference"] == 0 for row in results.values() if row.get("within_seed_range"))
    return (
        f"Seeds: how far the measure moved over {seeds} runs that differ in the seed of training alone (`metrics/seeds.json`). **within** "
        f"marks the {sum(within)} of {len(within)} differences that are no larger, {zero} of them 0: luck can make them. Of the others "
        "it proves nothing, since a few seeds show less than luck can do.\n"
    )


def precision_note(figures: Path, params: Params) -> str:
    """A warning for each stage that computed its variants in different precisions, on machines of two kinds; empty if none did."""
    notes = []
    for stage in ("likelihood", "generate", "benchmark"):
        told = {v: read_metrics(figures, stage, v).get("settings", {}).get("compute_dtype") for v in params.variants}
        known = {variant: dtype for variant, dtype in told.items() if dtype in ("bfloat16", "float32")}
        if len(set(known.values())) > 1:
            each = ", ".join(f"{variant} in {dtype}" for variant, dtype in known.items())
            notes.append(f"\n**{stage} was computed on machines of two kinds** ({each}): rounding is part of its differences.\n")
    return "".join(notes)


def side_by_side(data: Path, params: Params) -> str:
    """The first question of each validation set with the reference and every variant's answer."""
    answers = {v: {row["id"]: row for row in read_rows(data / "answers" / f"{v}.jsonl")} for v in params.variants}
    baseline = list(answers[params.compare.baseline].values())
    firsts = [next(row for row in baseline if row["split"] == name) for name in sorted({row["split"] for row in baseline})]
    parts = []
    for row in firsts[: params.compare.examples]:
        parts.append(f"### {row['split']}: {row['question']}\n\n**reference**: {row['answer']}\n")
        parts += [
            f"**{v}** ({answers[v][row['id']]['finish_reason']}): {quote(answers[v][row['id']]['generated'])}\n" for v in params.variants
        ]
    return "\n".join(parts)


def quote(text: str) -> str:
    """Generated text on one line, so that its own markup cannot break the report."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;") or "(empty)"


def judge_note(params: Params) -> str:
    """What to think of the judge's figures."""
    if params.judge.trustworthy:
        return f"Judge: {params.judge.model}. How far it agrees with the author's scores: `metrics/calibrate.json`.\n"
    return (
        f"**The judge {params.judge.model} is not trustworthy** (`judge.trustworthy` in params.yaml): nobody has shown that it can "
        "judge medicine, and its figures settle nothing. How far it agrees with the author's scores: `metrics/calibrate.json`.\n"
    )


def interval_note(results: Results, params: Params) -> str:
    """What an interval and a p-value of the table of differences stand for."""
    return (
        f"The same items under both variants. Each {percent(params.compare.confidence)} interval stands for its comparison alone, while p "
        f"is corrected for all {len(results)}: where they disagree, and wherever items are few, go by p.\n"
    )


def percent(share: float) -> str:
    """A share in per cent, with the decimals that it has."""
    return f"{share * 100:g}%"


def main(
    data: Annotated[Path, typer.Option(help="Folder of the rows of each item.")] = Path("data"),
    figures: Annotated[Path, typer.Option(help="Folder of metrics.")] = Path("metrics"),
    report: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report"),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/compare.json"),
) -> None:
    """Compare the variants and write the report."""
    params = load_params()
    try:
        results = compare_all(data, params)
        spreads = json.loads((figures / "seeds.json").read_text(encoding="utf-8"))
        mark(results, seed_ranges(spreads, data, params), params)
        table, chain, doubt = results_table(figures, list(params.variants)), fidelity_table(figures), precision_note(figures, params)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    write_metrics(metrics, results)
    differences = differences_table(metrics)
    with staged(report) as temporary:
        temporary.mkdir()
        text = (
            f"# What tuning changed\n\n{table}{doubt}\n± is a standard error, [ ] a {percent(params.rouge.confidence)} bootstrap "
            f"interval over answers.\n\n{judge_note(params)}\n## Paired differences\n\n{interval_note(results, params)}\n"
            f"{seed_note(results, spreads.get('seeds', 0))}\n{differences}\n## From adapter to quantized file\n\nOver validation "
            f"answers, at every supervised token; in float32 unless a row says otherwise.\n\n{chain}\n## Answers side by side\n\n"
            f"Not medical advice.\n\n{side_by_side(data, params)}"
        )
        (temporary / "report.md").write_text(text, encoding="utf-8")
    print(f"compare: {len(results)} paired differences, report in {report}/report.md\n\n{table}{doubt}")


if __name__ == "__main__":
    typer.run(main)
