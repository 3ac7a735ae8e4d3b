"""What the questions share: aligned tables, csv files, and facts about the machine."""

import csv
import os
import platform
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

BACKENDS = ("pyro", "numpyro")
# The environment variable of a rehearsal: smallest sizes, numbers that mean nothing.
REHEARSAL = "CONCRETE_REHEARSAL"
_PACKAGES = {"pyro": ("torch", "pyro-ppl"), "numpyro": ("jax", "numpyro")}


def is_rehearsal() -> bool:
    """Return whether questions are to run in their smallest sizes."""
    return os.environ.get(REHEARSAL) == "1"


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows in columns: words to the left, numbers to the right."""
    cells = [[str(x) for x in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    numeric = [
        all(x[:1].isdigit() or x[:1] in "-" for x in column)
        for column in zip(*cells, strict=True)
    ]
    print(f"\n{title}\n")
    rule = ["-" * width for width in widths]
    for row in ([*header], rule, *cells):
        columns = zip(row, widths, numeric, strict=True)
        line = "  ".join(x.rjust(w) if right else x.ljust(w) for x, w, right in columns)
        print(line.rstrip())


def write_csv(
    path: Path, backend: str, header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Write rows under a header, after a line of comment for each fact of `machine`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        for key, value in machine(backend).items():
            file.write(f"# {key}: {value}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_csv(path: Path) -> list[list[str]]:
    """Return the rows that `write_csv` wrote, if there are any."""
    return [list(row.values()) for row in read_dicts(path)]


def read_dicts(path: Path) -> list[dict[str, str]]:
    """Return the rows that `write_csv` wrote by the names of its header, if any."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(x for x in file if not x.startswith("#")))


def place(backend: str) -> str:
    """Return the backend's name in the name of a file: with `_gpu` where it has one."""
    return f"{backend}_gpu" if "device" in machine(backend) else backend


def machine(backend: str) -> dict[str, Any]:
    """Return the processor and the versions that a backend's results depend on."""
    facts = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": _threads(backend),
        "python": platform.python_version(),
    }
    device = _device(backend)
    facts |= {"device": device} if device else {}
    return facts | {name: version(name) for name in _PACKAGES[backend]}


def _processor() -> str:
    """The model of the processor where the system tells it, or its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = (line.split(":", 1)[1] for line in lines if line.startswith("model name"))
    return next(models, platform.machine()).strip()


def _device(backend: str) -> str | None:
    """The name of the accelerator that the backend takes where there is one."""
    if backend == "pyro":
        cuda = import_module("torch").cuda
        return cuda.get_device_name() if cuda.is_available() else None
    device = import_module("jax").devices()[0]
    return None if device.platform == "cpu" else device.device_kind


def _threads(backend: str) -> int:
    if backend == "pyro":
        import_module("benchmarks.on_pyro")  # which sets them
        return import_module("torch").get_num_threads()
    # XLA has no such setting: its pool has a thread for each core it may use.
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count()
