"""Rows of the csv file of cells, one for each network and number of particles."""

import csv
from pathlib import Path
from typing import Any

HEADER = (
    "network",
    "arity",
    "data",
    "estimator",
    "particles",
    "seed",
    "steps",
    "seconds",
    "rate",
    "schedule",
    "weight decay",
    "train loss",
    "bound",
    "evaluated particles",
    "images",
    "nats",
    "stderr",
    "paper concrete",
    "paper vimco",
    "device",
    "versions",
)
# What a row is a result of.
_MEASURED = ("seconds", "train loss", "nats", "stderr", "device", "versions")
_KEYS = tuple(name for name in HEADER if name not in _MEASURED)


def is_written(path: Path, row: dict[str, Any]) -> bool:
    """Tell whether a csv file has a row of the same cell and the same settings."""
    if not path.exists():
        return False
    with path.open(newline="", encoding="utf-8") as file:
        return any(
            all(written[key] == str(row[key]) for key in _KEYS)
            for written in csv.DictReader(file)
        )


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a csv file, under a header if the file is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, HEADER, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)
