"""Name the controls that a variant does not beat, in sentences."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from bula.params import Params
from bula.stats import ALPHA
from bula.tables.figures import (
    LIKELIHOOD,
    ROUGE,
    Metrics,
    degenerate_share,
    group,
    read_figures,
    variant_group,
)

# The groups of metrics/controls.json in the tables. No variant's name contains a space.
ANSWERERS = {
    "stock": "stock answer",
    "nearest": "nearest answer",
    "echo": "echo of the question",
}
PREDICTORS = {
    "ngram": "character 6-gram",
    "bz2": "bz2 compression",
    "xz": "xz compression",
}
# The names of two controls in metrics/compare.json.
STOCK = "stock_answer"
NGRAM = "character_6gram"
# Why a variant does not beat a control.
ControlVerdict = Literal["loops", "unsure", "worse"]


class Unbeaten(NamedTuple):
    """A control that a variant does not beat."""

    verdict: ControlVerdict
    """Why it is not beaten."""
    control: str
    """Its group in metrics/controls.json."""
    value: float
    """The variant's figure."""
    other: float
    """The control's figure."""
    difference: Metrics
    """The paired difference, or nothing if there is none."""
    degenerate: float
    """Share of the variant's answers that are degenerate."""


class ControlTexts(NamedTuple):
    """The sentences about controls in one language."""

    controls: dict[str, str]
    """The control and its measure, by the control's name."""
    sentences: dict[str, str]
    """The sentence of each verdict."""
    difference: str
    interval: str
    decimal_point: str


ENGLISH_CONTROLS = ControlTexts(
    controls={
        "stock": "the stock answer on ROUGE-L",
        "ngram": "the character 6-gram in bits per character",
        "bz2": "bz2 compression in bits per character",
        "xz": "xz compression in bits per character",
    },
    sentences={
        "loops": "**{variant} cannot be compared with {control}**, because {share} of its answers "
        "are repetitions or have no words.",
        "worse": "**{variant} does not beat** {control} ({value} against {other}{difference}).",
        "unsure": "**{variant} is not surely better than** {control} "
        "({value} against {other}{difference}).",
    },
    difference=", difference {difference}",
    interval=" [{low}, {high}]",
    decimal_point=".",
)


def control_group(folder: Path, name: str, needed: Iterable[str]) -> Metrics:
    """Return the figures of one control."""
    path = folder / "controls.json"
    return group(read_figures(path, "controls"), name, needed, path, "controls")


def control_note(folder: Path, params: Params, differences: Mapping[str, Metrics]) -> str:
    """Return the sentences about the controls that variants do not beat.

    Only variants that `compare.pairs` compares with another one are named, because nothing promises
    that the others are better. `differences` has the figures of metrics/compare.json.
    """
    sentences = []
    for variant in compared_variants(params):
        for found in unbeaten_controls(folder, variant, params, differences):
            sentences.append(control_sentence(found, variant, ENGLISH_CONTROLS))
    return "\n" + " ".join(sentences) + "\n" if sentences else ""


def control_sentence(found: Unbeaten, variant: str, texts: ControlTexts) -> str:
    """Return the sentence about a control that a variant does not beat."""

    def number(value: float, sign: str = "") -> str:
        """Return a number with three digits after the point."""
        return f"{value:{sign}z.3f}".replace(".", texts.decimal_point)

    interval = ""
    if "low" in found.difference:
        bounds = {end: number(found.difference[end], "+") for end in ("low", "high")}
        interval = texts.interval.format(**bounds)
    difference = ""
    if found.difference:
        mean = number(found.difference["difference"], "+")
        difference = texts.difference.format(difference=mean) + interval
    return texts.sentences[found.verdict].format(
        variant=variant,
        control=texts.controls[found.control],
        value=number(found.value),
        other=number(found.other),
        share=f"{found.degenerate * 100:.0f} %",
        difference=difference,
    )


def compared_variants(params: Params) -> list[str]:
    """Return the variants that `compare.pairs` compares with a baseline."""
    return list(dict.fromkeys(pair.variant for pair in params.compare.pairs))


def stock_key(variant: str) -> str:
    """Return the name of the difference between a variant and the stock answer."""
    return f"{variant}_minus_{STOCK}__rougeL_f"


def ngram_key(variant: str) -> str:
    """Return the name of the difference between a variant and the character n-gram."""
    return f"{variant}_minus_{NGRAM}__bits_per_character"


def unbeaten_controls(
    folder: Path, variant: str, params: Params, differences: Mapping[str, Metrics]
) -> list[Unbeaten]:
    """Return the controls that a variant does not beat.

    The controls are the stock answer on ROUGE-L and the predictors in bits per character.
    Loops are not compared with the stock answer.
    """
    path = folder / "compare.json"
    row = group(dict(differences), stock_key(variant), ["difference", "p"], path, "compare")
    rouge = variant_group(folder, "rouge", variant, "pooled", ROUGE)["rougeL_f"]
    stock = control_group(folder, "stock", ROUGE)["rougeL_f"]
    share = degenerate_share(folder, variant)
    found = []
    if share > params.compare.max_degenerate_share:
        found.append(Unbeaten("loops", "stock", rouge, stock, {}, share))
    elif verdict := _unbeaten(row["difference"], row["p"]):
        found.append(Unbeaten(verdict, "stock", rouge, stock, row, share))
    return found + _unbeaten_predictors(folder, variant, differences, share)


def _unbeaten_predictors(
    folder: Path, variant: str, differences: Mapping[str, Metrics], share: float
) -> list[Unbeaten]:
    """Return the predictors that a variant does not beat.

    The test is paired where the predictor has figures per item; compressors have none.
    """
    pooled = variant_group(folder, "likelihood", variant, "pooled", LIKELIHOOD)
    bits = pooled["bits_per_character"]
    found = []
    for name in PREDICTORS:
        other = control_group(folder, name, ["bits_per_character"])["bits_per_character"]
        row: Metrics = {}
        verdict: ControlVerdict | None = "worse" if bits >= other else None
        if name == "ngram" and ngram_key(variant) in differences:
            path = folder / "compare.json"
            row = group(dict(differences), ngram_key(variant), ["difference", "p"], path, "compare")
            verdict = _unbeaten(-row["difference"], row["p"])
        if verdict:
            found.append(Unbeaten(verdict, name, bits, other, row, share))
    return found


def _unbeaten(gain: float, p: float) -> ControlVerdict | None:
    """Return how a paired gain fails to be sure, or None."""
    if p >= ALPHA:
        return "unsure"
    return None if gain > 0 else "worse"
