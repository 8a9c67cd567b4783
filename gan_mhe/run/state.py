"""What a run must remember, besides the tensors of its task, to go on as if it had never stopped."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

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

    def document(self) -> dict[str, Any]:
        """JSON values, as in the `notes` of a checkpoint's manifest."""
        document: dict[str, Any] = encode(asdict(self))
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "RunState":
        """Inverse of `document`; also reads what versions without `peak_memory_bytes` and `curve` wrote."""
        values = decode(document)
        best, final = (Score(**values[key]) if values[key] else None for key in ("best", "final"))
        peak = values.get("peak_memory_bytes", 0)
        return cls(best, final, values["evaluations"], values["train_seconds"], peak, read_curve(values))
