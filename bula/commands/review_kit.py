"""Write a page on which clinicians judge answers, and its key.

python -m bula review-kit --pairs 20 --repeats 4
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bula.errors import UserError
from bula.escaping import terminal
from bula.params import Pair, Params, load_params

# These modules build pydantic's classes of all rows, and no other command may wait for that.
if TYPE_CHECKING:
    from bula.labels.kit_files import Drawn

DATA = Path("data")


def choose_pairs(params: Params, left: str, right: str, *, all_pairs: bool) -> list[Pair]:
    """Return the pairs of variants that the kit compares.

    Without options this is the first of `compare.pairs`. Raise UserError if the options contradict
    each other or name an unknown variant.
    """
    if bool(left) != bool(right) or (left and all_pairs):
        fix = "give both --left and --right, or --all-pairs, or none of the three"
        raise UserError("review-kit", "the options do not say which variants to compare", fix)
    if left:
        return [_named_pair(params, left, right)]
    pairs = params.compare.pairs
    if not pairs:
        raise UserError("params.yaml", "compare.pairs is empty", "use --left and --right")
    return pairs if all_pairs else pairs[:1]


def _named_pair(params: Params, left: str, right: str) -> Pair:
    """Return the pair of two variants of params.yaml."""
    known = ", ".join(params.variants)
    for name in (left, right):
        if name not in params.variants:
            raise UserError("review-kit", f"no variant is named {name!r}", f"use one of {known}")
    if left == right:
        raise UserError("review-kit", f"{left} is named twice", f"use two of {known}")
    return Pair(variant=right, baseline=left)


def report(drawn: "Drawn", out: Path, wanted_repeats: int) -> str:
    """Return the sentences that describe a written kit."""
    from bula.labels.kit_files import KEY, PAGE

    pairs = drawn.kit.key.pairs
    repeats = sum(pair.repeat_of is not None for pair in pairs)
    sets = ", ".join(sorted({item.set for item in drawn.kit.key.items}))
    lines = [
        f"review-kit: {len(pairs)} pairs of answers, {repeats} of them repetitions; "
        f"kit {drawn.kit.id}, questions of {sets}",
        f"  {out / PAGE}: send this page to the raters",
        f"  {out / KEY}: keep this file, because it names the variants",
    ]
    if repeats < wanted_repeats:
        limit = "at most half of the pairs are repeated"
        lines.append(f"  {wanted_repeats} repetitions were asked for, and {limit}")
    loops = sum(candidate.level == "loop" for candidate in drawn.found.candidates)
    count = len(drawn.found.candidates)
    if 2 * loops > count:
        lines.append(
            f"  warning: {loops} of {count} candidates have an answer that repeats itself or has "
            "no words, so raters would judge nonsense"
        )
    if drawn.found.equal:
        noun = "pair" if drawn.found.equal == 1 else "pairs"
        verb = "was" if drawn.found.equal == 1 else "were"
        lines.append(f"  {drawn.found.equal} {noun} with equal answers {verb} left out")
    if drawn.closed:
        names = ", ".join(sorted(drawn.closed))
        lines.append(f"  the page quotes rows that must not be passed on, of the sources {names}")
    return terminal("\n".join(lines), lines=True)


def review_kit(
    pairs: Annotated[int, typer.Option(min=2, max=500, help="Pairs of answers.")] = 20,
    repeats: Annotated[int, typer.Option(min=0, help="Pairs that each rater sees twice.")] = 4,
    left: Annotated[str, typer.Option(help="A variant; its side is random.")] = "",
    right: Annotated[str, typer.Option(help="The variant to compare it with.")] = "",
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Compare all of compare.pairs, not the first one.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the sample; else sampling_seed.")
    ] = None,
    answers: Annotated[
        Path, typer.Option(help="Folder of the answers; another one is of `bula answers`.")
    ] = DATA / "answers",
    out: Annotated[Path, typer.Option(help="Folder of the page and the key.")] = Path("review"),
) -> None:
    """Write a blind page on which clinicians judge answers, and its key."""
    from bula.labels.kit_files import draw_kit, write_kit

    params = load_params()
    compared = choose_pairs(params, left, right, all_pairs=all_pairs)
    chosen = params.sampling_seed if seed is None else seed
    drawn = draw_kit(DATA, answers, params, compared, (pairs, repeats), chosen)
    try:
        write_kit(out, drawn, chosen)
    except OSError as error:
        what = f"the folder cannot be written ({error.strerror or type(error).__name__})"
        raise UserError(f"--out {out}", what, "name another folder") from error
    print(report(drawn, out, repeats))
