"""Define the sentences of the conclusion, and write them in English."""

from typing import Literal, NamedTuple

from bula.tables.controls import ENGLISH_CONTROLS, ControlTexts

# What one difference shows.
Verdict = Literal["better", "worse", "seeds", "machine", "unsure", "loops", "constant", "judge"]


class Language(NamedTuple):
    """The sentences of one language."""

    title: str
    measures: dict[str, str]
    gains: dict[str, str]
    """What each primary measure is about, in words for everybody."""
    decimal_point: str
    points: str
    unusable: str
    nearly_all: str
    many: str
    levels: str
    missed: str
    controls: ControlTexts
    pair: str
    counts: dict[str, str]
    improved: str
    worsened: str
    no_gain: str
    amount: str
    verdict: dict[Verdict, str]
    reach: str
    directions: dict[str, str]
    """What a share can do: change, fall or rise."""
    one_way: str
    holm: str
    interval: str
    unpaired: str
    borrowed: str
    no_seeds: str
    exploratory: str
    nothing: str
    better: str
    worse: str
    unsaid: str


ENGLISH = Language(
    title="Conclusion",
    measures={
        "degenerate": "the share of degenerate answers",
        "bits_per_character": "bits per character of the reference answers",
        "question_worth": "the question's worth in bits per character",
        "bula_contrast_acc": "the share of contrast pairs decided correctly",
        "rouge1_f": "ROUGE-1 F1",
        "rouge2_f": "ROUGE-2 F1",
        "rougeL_f": "ROUGE-L F1",
        "judge_accuracy": "the judge's score of accuracy",
        "judge_style": "the judge's score of style",
        "safety_emergency": "the share of emergencies sent to emergency care (a loop fails)",
        "safety_no_dose": "the share of dangerous requests answered with no dose and no loop",
        "safety_harmful": "the share of harmful requests refused (a loop fails)",
        "safety_harmless": "the share of harmless questions neither refused nor answered by a loop",
        "safety_over_refusal": "the share of harmless questions refused",
    },
    gains={
        "degenerate": "the number of answers that are repetitions",
        "bits_per_character": "the prediction of the reference answers",
        "question_worth": "the use that the model makes of the question",
        "bula_contrast_acc": "the choice of the correct one of two answers",
        "rougeL_f": "the words shared with the reference answers",
    },
    decimal_point=".",
    points="percentage points",
    unusable="**{how_many} of {variant} ({share}) are repetitions or have no words: this model "
    "must not be used.**",
    nearly_all="Nearly all answers",
    many="Many answers",
    levels="Degenerate answers (repetitions, or no words): {baseline} {before}, {variant} {after}.",
    missed="**In {missed} of {count} test questions about an emergency, {variant} did not send the "
    "person to emergency care.**",
    controls=ENGLISH_CONTROLS,
    pair="**{variant} against {baseline}.**{facts} Primary measures: {counts}.",
    counts={
        "better": "{n} better",
        "worse": "{n} worse",
        "open": "{n} without a sure change",
        "none": "{n} not meaningful",
    },
    improved="**What improved: {found}.**",
    worsened="**What got worse: {found}.**",
    no_gain="**No improvement is sure.**",
    amount="{name} changed from {before} to {after}, by {change}, on {items} items ({sure})",
    verdict={
        "better": "**Better**: {amount}.",
        "worse": "**Worse**: {amount}.",
        "unsure": "**No sure change**: {amount}.{reach}",
        "seeds": "**No sure change**: {amount}, but other training seeds move this difference by "
        "up to {seed_range}.",
        "machine": "**No sure change**: {amount}, but another kind of CPU moves it by {machine}.",
        "loops": "**Not meaningful**: {name}, because more than {limit} of the answers that it "
        "rates are degenerate under one variant.",
        "constant": "**Not meaningful**: {name}, because both variants choose one option for "
        "nearly all items.",
        "judge": "**Not meaningful**: {name}, because the judge agrees too little with the people "
        "who scored the gold answers.",
    },
    reach=" If the true {direction} were {detectable} or more{one_way}, this test would find it in "
    "at least {power} of repetitions.",
    directions={"any": "change", "fall": "fall", "rise": "rise"},
    one_way=", with all items changing in one direction",
    holm="p {p} after Holm's correction, tests: {tests}",
    interval=", {confidence} interval without correction for several tests {low} to {high}",
    unpaired="**Not measured**: {name}, because no item was scored under both variants.",
    borrowed="{variant} has the model of {other} and no benchmark scores of its own, so this pair "
    "has no benchmark measure.",
    no_seeds="The spread over training seeds is not known for this pair, so another training run "
    "may give other differences.",
    exploratory="Exploratory measures of this pair with p below {alpha}, not corrected for their "
    "number, so they are hints and no results: {found}.",
    nothing="none",
    better="{name} (better)",
    worse="{name} (worse)",
    unsaid="Exploratory measures that are not meaningful here: {found}.",
)
