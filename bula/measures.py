"""What is known of each item under one variant, by measure: compare takes differences of it, `bula seeds` means."""

from pathlib import Path

from bula.records import read_rows

LN2 = 0.6931471805599453
# One measure of one variant: a value for each item.
Values = dict[str, float]


def scored(data: Path, variant: str) -> dict[str, Values]:
    """Every measure below `data` that no judge made: bits a character, ROUGE, and the first metric of each benchmark task."""
    found: dict[str, Values] = {}
    likelihood = list(read_rows(data / "likelihood" / f"{variant}.jsonl"))
    # Scaled so that the mean over items is the pooled figure: total bits over total characters.
    characters = sum(row["characters"] for row in likelihood) / len(likelihood)
    found["bits_per_character"] = {row["id"]: row["nats"] / LN2 / characters for row in likelihood}
    for row in read_rows(data / "scores" / f"{variant}.jsonl"):
        for kind in ("rouge1_f", "rouge2_f", "rougeL_f"):
            found.setdefault(kind, {})[row["id"]] = row[kind]
    for row in read_rows(data / "samples" / f"{variant}.jsonl"):
        name, value = next(iter(row["scores"].items()))
        found.setdefault(f"{row['task']}_{name}", {})[row["document"]] = value
    return found


def judged(data: Path, variant: str) -> dict[str, Values]:
    """The judge's scores of the answers on which it did not fail."""
    found: dict[str, Values] = {}
    for row in read_rows(data / "verdicts" / f"{variant}.jsonl"):
        for part in ("accuracy", "style"):
            if part in row:
                found.setdefault(f"judge_{part}", {})[row["id"]] = float(row[part])
    return found


def means(found: dict[str, Values]) -> dict[str, float]:
    """The mean over items of each measure."""
    return {name: sum(values.values()) / len(values) for name, values in found.items()}
