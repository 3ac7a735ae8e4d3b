"""Rows of words and numbers in columns, for the reports."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows in columns, the first to the left and numbers to the right.

    Args:
        rows: Cells by row, the header first.

    Example:
        >>> print(table([("site", "nats"), ("z", "0.5")]))
        site  nats
        z      0.5
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows
    )
    return "\n".join("  ".join(line).rstrip() for line in lines)
