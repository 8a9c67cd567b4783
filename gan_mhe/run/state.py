"""The state that a run needs besides the tensors of its task to resume as if it had never stopped."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gan_mhe.records.events import Evaluated, Event, effective
from gan_mhe.records.result import Score, decode, encode, read_curve


@dataclass
class RunState:
    """Saved with every checkpoint."""

    best: Score | None = None
    """Best evaluation so far; its scores are not those of a rescoring."""
    final: Score | None = None
    """Evaluation at the last step, once it is reached."""
    evaluations: int = 0
    """Number of evaluations so far, rescoring not counted."""
    train_seconds: float = 0.0
    """Seconds of training so far, evaluation not counted."""
    peak_memory_bytes: int = 0
    """Most device memory held by any process of the run."""
    curve: tuple[Score, ...] = ()
    """All evaluations in order."""
    evaluation_due: bool = False
    """Whether the state is to be scored before the next step: it is saved first, so that a score can lose nothing."""

    def document(self) -> dict[str, Any]:
        """JSON values, as in the `notes` of a checkpoint's manifest."""
        document: dict[str, Any] = encode(asdict(self))
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "RunState":
        """Inverse of `document`; also reads what versions without the last three fields wrote."""
        values = decode(document)
        best, final = (Score(**values[key]) if values[key] else None for key in ("best", "final"))
        peak = values.get("peak_memory_bytes", 0)
        due = values.get("evaluation_due", False)
        return cls(best, final, values["evaluations"], values["train_seconds"], peak, read_curve(values), due)


def recorded_score(events: Iterable[Event], step: int, fingerprints: Mapping[str, str]) -> Score | None:
    """The score of the state at `step` that the journal of its run has, made under the same settings; None without it.

    fingerprints: of each score by its name, as the run computes them now.
    """
    found = [
        Score(step, event.scores)
        for event in effective(events)
        if isinstance(event, Evaluated)
        and (event.step, event.fingerprints) == (step, fingerprints)
        and event.purpose != "best_rescored"
    ]
    return found[-1] if found else None
