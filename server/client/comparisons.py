"""The service's comparisons as the library's own."""

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from gan_mhe.records.events import decode_number

if TYPE_CHECKING:  # imported only when needed
    from gan_mhe.comparison.results import Comparison


def read_comparison(document: Mapping[str, Any]) -> "Comparison":
    """The comparison that a document of the service describes."""
    from gan_mhe.comparison.results import Comparison, Row

    def known(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
        names = {field.name for field in fields(kind)}
        return {name: decode_number(value) for name, value in values.items() if name in names}

    rows = tuple(Row(**known(Row, row) | {"jobs": tuple(row["jobs"])}) for row in document["rows"])
    return Comparison(**known(Comparison, document) | {"rows": rows})
