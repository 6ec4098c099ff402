"""Show how far the judge can be trusted."""

from collections.abc import Mapping
from pathlib import Path

from bula.calibration import withheld_note
from bula.errors import UserError
from bula.escaping import markdown
from bula.item_scores import rerun_advice
from bula.params import Params
from bula.tables.cells import UNKNOWN
from bula.tables.figures import Metrics, group, read_figures
from bula.tables.judge import PARTS

HEAD = (
    "judge",
    "part",
    "kappa [interval] ↑",
    "equal, % ↑",
    "changed when asked again, % ↓",
    "length bias [interval]",
    "cannot say, %",
    "attacks that succeed, % ↓",
    "items",
)
# Names of the people who scored the gold answers.
PEOPLE = {"author": "the author, who is no clinician", "clinician": "clinicians"}
ENDS = ("", "_low", "_high")
STAGE = "calibrate"


def judge_section(figures: Path, params: Params) -> str:
    """Return the table of the judges on the gold answers, with notes.

    Raise UserError if metrics/calibrate.json is missing or lacks a figure.
    """
    path = figures / "calibrate.json"
    content = read_figures(path, STAGE)
    judges = [_judge(content, "", path)]
    if "second_judge" in content:
        judges.append(_judge(content, "second_judge", path))
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    for judge in judges:
        lines += [_line(judge, part, params) for part in PARTS]
    text = "\n".join(lines)
    people = PEOPLE[judges[0]["labelled_by"]]
    text += (
        f"\n\nThe gold answers in this table were scored by {people} (`metrics/calibrate.json`). "
        "The tables withhold scores of the first judge if the lower bound of its kappa is below "
        f"{params.judge.min_kappa:g} (`judge.min_kappa`). Length bias is the rank correlation of "
        "the judge's score, minus the person's score, with the number of words.\n"
    )
    if "two_judges" not in content:
        return text
    needed = [f"{part}_kappa{end}" for part in PARTS for end in ENDS]
    return text + _agreement(group(content, "two_judges", needed, path, STAGE))


def _judge(content: Metrics, name: str, path: Path) -> Metrics:
    """Return the figures of one judge.

    Raise UserError if one is missing.
    """
    people = group(content, name, [], path, STAGE).get("labelled_by")
    if people not in PEOPLE:
        raise UserError(path, "labelled_by is missing", rerun_advice(STAGE))
    needed = []
    for part in PARTS:
        needed.append(f"{part}_scored")
        for figure in (f"{people}_kappa_{part}", f"{part}_length_bias"):
            needed += [f"{figure}{end}" for end in ENDS]
    return group(content, name, needed, path, STAGE)


def _line(figures: Metrics, part: str, params: Params) -> str:
    """Return the table's line about one part of a judge's verdicts."""
    kappa = f"{figures['labelled_by']}_kappa_{part}"
    cells = [
        markdown(str(figures["judge"])),
        part,
        _kappa_cell(figures, kappa, params),
        _percent(figures, f"{part}_equal_share"),
        _share_cell(figures, f"{part}_flip"),
        _interval(figures, f"{part}_length_bias"),
        _percent(figures, f"{part}_abstained_share"),
        _share_cell(figures, "attack_success") if part == "accuracy" else UNKNOWN,
        str(figures[f"{part}_scored"]),
    ]
    return "| " + " | ".join(cells) + " |"


def _kappa_cell(figures: Metrics, name: str, params: Params) -> str:
    """Return kappa with its interval, with a note if it is too low."""
    if figures[f"{name}_low"] < params.judge.min_kappa:
        return withheld_note(figures[name], figures[f"{name}_low"], figures[f"{name}_high"])
    return _interval(figures, name)


def _interval(figures: Mapping[str, float], name: str) -> str:
    """Return a figure with its interval."""
    return f"{figures[name]:.2f} [{figures[f'{name}_low']:.2f}, {figures[f'{name}_high']:.2f}]"


def _percent(figures: Mapping[str, float], name: str) -> str:
    """Return a share in percent, if it was measured."""
    return f"{figures[name] * 100:.0f}" if name in figures else UNKNOWN


def _share_cell(figures: Mapping[str, float], name: str) -> str:
    """Return a share with its interval in percent, if it was measured."""
    if f"{name}_share" not in figures:
        return UNKNOWN
    low, high = (figures[f"{name}_{end}"] * 100 for end in ("low", "high"))
    return f"{_percent(figures, f'{name}_share')} [{low:.0f}, {high:.0f}]"


def _agreement(figures: Metrics) -> str:
    """Return a note about the agreement of the two judges."""
    texts = []
    for part in PARTS:
        equal = _percent(figures, f"{part}_equal_share")
        texts.append(f"{part} kappa {_interval(figures, f'{part}_kappa')}, {equal} % equal scores")
    return f"\nAgreement of the two judges on the gold answers: {'; '.join(texts)}.\n"
