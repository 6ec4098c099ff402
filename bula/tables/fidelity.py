"""Build the table of the errors from adapter to GGUF."""

from pathlib import Path

from bula.escaping import markdown
from bula.tables.cells import HIGHER, LOWER, table_line
from bula.tables.figures import Metrics, group, read_figures

LOGITS = (
    "logit_difference_largest",
    "logit_difference_mean",
    "kl_nats",
    "greedy_agreement",
    "perplexity",
    "items",
)
FORMS = ("adapter", "before_cast", "after_cast", "as_served")
FIDELITY_HEAD = (
    "step",
    "compared with",
    f"largest logit difference {LOWER}",
    f"mean {LOWER}",
    f"KL, nats per token {LOWER}",
    f"same greedy token, % {HIGHER}",
    f"perplexity {LOWER}",
    "answers",
)


def fidelity_table(folder: Path) -> str:
    """Return the Markdown table of the errors from adapter to GGUF."""
    merge = read_figures(folder / "merge.json", "merge")
    files = read_figures(folder / "quantize.json", "quantize")
    for name in FORMS:
        group(merge, name, LOGITS, folder / "merge.json", "merge")
    for name in ("bf16", *files):
        group(files, name, LOGITS, folder / "quantize.json", "quantize")
    checked = group(merge, "checked", [], folder / "merge.json", "merge")
    lines = [table_line(FIDELITY_HEAD), "|---" * len(FIDELITY_HEAD) + "|"]
    lines += _merge_lines(merge, checked)
    lines += _quantize_lines(files)
    return "\n".join(lines) + "\n"


def _merge_lines(merge: Metrics, checked: Metrics) -> list[str]:
    """Return the lines from the adapter to the saved model."""
    dtype = markdown(str(checked.get("dtype", "unknown")))
    computed = markdown(str(checked.get("compute_dtype", "unknown")))
    other = "base + adapter"
    return [
        _fidelity_line("base + adapter, float32", "", merge["adapter"]),
        _fidelity_line("merged, float32", other, merge["before_cast"]),
        _fidelity_line(f"merged, saved in {dtype}", other, merge["after_cast"]),
        _fidelity_line(f"the same, run in {computed}", other, merge["as_served"]),
    ]


def _quantize_lines(files: Metrics) -> list[str]:
    """Return one line per GGUF file, the 16-bit file first."""
    lines = [_fidelity_line("bf16.gguf", "merged, saved", files["bf16"])]
    for kind, figures in files.items():
        if kind != "bf16":
            lines.append(_fidelity_line(f"{markdown(kind)}.gguf", "bf16.gguf", figures))
    return lines


def _fidelity_line(step: str, other: str, figures: Metrics) -> str:
    """Return the line that compares a step with another."""
    percent = figures["greedy_agreement"] * 100
    cells = [
        step,
        other,
        f"{figures['logit_difference_largest']:.3g}",
        f"{figures['logit_difference_mean']:.3g}",
        f"{figures['kl_nats']:.3g}",
        f"{percent:.1f}",
        f"{figures['perplexity']:.3f}",
        str(figures["items"]),
    ]
    return table_line(cells)
