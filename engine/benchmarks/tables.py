"""Tables of figures, as text to be pasted into ``docs/speed.md`` and as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence

Row = Mapping[str, object]
MISSING = "–"


def markdown_table(columns: Mapping[str, str], rows: Sequence[Row], texts: int = 1) -> str:
    """The rows as a Markdown table: ``columns`` are heads by key, the first ``texts`` of them aligned to the left.

    Numbers that are not there are a dash.
    """
    lines = [f"| {' | '.join(columns.values())} |", f"|{'---|' * texts}{'---:|' * (len(columns) - texts)}"]
    return "\n".join([*lines, *(f"| {' | '.join(_cell(row.get(key)) for key in columns)} |" for row in rows)])


def comma_separated(columns: Mapping[str, str], rows: Sequence[Row]) -> str:
    """The rows as CSV, with the keys of ``columns`` as its head."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _cell(value: object) -> str:
    return MISSING if value is None else str(value)
