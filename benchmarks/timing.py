"""Runtimes of calls as ratios, measured in turn so that both meet the same machine."""

import statistics
import time
from collections.abc import Callable

from benchmarks.report import is_rehearsal


def ratios(ours: Callable, peer: Callable, *, blocks: int, calls: int) -> list[float]:
    """Return the ratios of the times of blocks of calls, the two taken in turn."""
    blocks = 2 if is_rehearsal() else blocks
    for call in (ours, peer):
        for _ in range(max(2, calls // 5)):
            call()
    return [seconds(ours, calls) / seconds(peer, calls) for _ in range(blocks)]


def seconds(call: Callable, calls: int) -> float:
    """Return the time of some calls."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - start


def calls_in(call: Callable, duration: float) -> int:
    """Return how many calls take about this long, in seconds."""
    call()
    if is_rehearsal():
        return 1
    return max(1, min(200, round(duration / seconds(call, 1))))


def quartiles(numbers: list[float]) -> list[str]:
    """Return the median and both quartiles, as words."""
    low, middle, high = statistics.quantiles(numbers, n=4)
    return [f"{x:.2f}" for x in (middle, low, high)]
