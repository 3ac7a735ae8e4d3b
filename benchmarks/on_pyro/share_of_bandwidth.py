"""The term of many relaxed sites with PyTorch: eager, compiled, and as one graph."""

import shutil
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from benchmarks.share_of_bandwidth import GUIDE_T, PRIOR_T, Measure, Times
from benchmarks.timing import calls_in, seconds
from pyro_concrete import ExpConcrete, LogitBinaryConcrete

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
REPEATS, BLOCK_SECONDS = 9, 0.02
CALLS_IN_GRAPH = 10


def measures(sites: int, classes: int) -> tuple[Measure, dict[str, Measure]]:
    """Return what times a copy, and by name what times a way to the term."""
    torch.manual_seed(0)
    shape = (sites, classes) if classes > 1 else (sites,)
    family = ExpConcrete if classes > 1 else LogitBinaryConcrete
    a, b = (torch.randn(shape, device=DEVICE) for _ in range(2))
    source = torch.ones(2, *shape, device=DEVICE)
    target = torch.empty_like(source)

    def term(a: Tensor, b: Tensor) -> Tensor:
        guide = family(GUIDE_T, logits=a, validate_args=False)
        prior = family(PRIOR_T, logits=b, validate_args=False)
        value = guide.rsample()
        return (prior.log_prob(value) - guide.log_prob(value)).sum()

    ways = {"eager": _step(term, a, b)}
    if shutil.which("g++"):
        torch.compiler.reset()
        ways["compiled"] = _step(torch.compile(term, dynamic=False), a, b)
        gradient = torch.compile(torch.func.grad(term, argnums=(0, 1)), dynamic=False)
        ways["compiled, one graph"] = lambda: gradient(a, b)
    timed = {name: lambda call=call: _times(call) for name, call in ways.items()}
    return lambda: _times(lambda: target.copy_(source)), timed


def _step(term: Callable, a: Tensor, b: Tensor) -> Callable[[], object]:
    leaves = a.clone().requires_grad_(), b.clone().requires_grad_()
    return lambda: torch.autograd.grad(term(*leaves), leaves)


def _times(call: Callable[[], object]) -> Times:
    for _ in range(3):
        call()

    def waited() -> None:
        call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    number = calls_in(waited, BLOCK_SECONDS)
    waiting = median(seconds(waited, number) / number for _ in range(REPEATS))
    device = _device_time(call) if DEVICE.type == "cuda" else waiting
    return Times(device=device, call=waiting)


def _device_time(call: Callable[[], object]) -> float:
    """Time of a call inside a captured CUDA graph of several, by CUDA events."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS_IN_GRAPH):
            call()
    times = []
    for _ in range(REPEATS + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / CALLS_IN_GRAPH)
    return median(times[2:])
