"""Record the batches of the judge whose verdicts have not arrived."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from bula.errors import UserError
from bula.files import staged
from bula.judge_dialects import Dialect
from bula.judge_limits import Prices, Usage, prices_of, to_usd, total
from bula.params import Judge

BATCHES = "judge_batches.json"

# An id that a server chose.
Identity = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,200}$")]


class Pending(BaseModel):
    """A batch whose verdicts are not in the ledger yet."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    judge: str
    base_url: str
    file: Identity
    """The server's id of the uploaded requests."""
    id: Identity | None = None
    """The server's id of the batch; None if its creation was not confirmed."""
    dialect: Dialect
    worst: dict[str, Usage]
    """The largest usage of each request, by ledger key."""
    prices: Prices | None = None
    """The prices when the batch was created; None in records of earlier versions."""

    def prices_or(self, today: Prices) -> Prices:
        """Return the batch's prices, or those of today if none were recorded."""
        return today if self.prices is None else self.prices


RECORD = TypeAdapter(list[Pending])


def read_pending(path: Path, judge: str) -> list[Pending]:
    """Return the pending batches of a judge, at all addresses.

    Raise UserError if the file is damaged, because its batches may cost money.
    """
    return [batch for batch in _read_record(path) if batch.judge == judge]


def _read_record(path: Path) -> list[Pending]:
    """Return all pending batches."""
    try:
        return RECORD.validate_json(path.read_bytes())
    except FileNotFoundError:
        return []
    except ValidationError:
        fix = "restore it, or delete it and pay for the verdicts of its batches again"
        raise UserError(path, "it is damaged", fix) from None


def write_pending(path: Path, old: Pending, new: Pending | None) -> None:
    """Replace one pending batch in the file, or remove it."""
    place = (old.base_url, old.file)
    batches = [batch for batch in _read_record(path) if (batch.base_url, batch.file) != place]
    if new is not None:
        batches.append(new)
    with staged(path) as temporary:
        temporary.write_bytes(RECORD.dump_json(batches, indent=2) + b"\n")


def pending_usd(ledger: Path, settings: Judge, besides: Pending | None = None) -> float:
    """Return the largest price of all pending batches of a judge, in US dollars.

    Each batch has the prices of its creation. The batch `besides` is left out.
    """
    held = 0.0
    for batch in read_pending(ledger.with_name(BATCHES), settings.model):
        if batch == besides:
            continue
        worst = total(list(batch.worst.values()))
        held += to_usd(worst, batch.prices_or(prices_of(settings)))
    return held
