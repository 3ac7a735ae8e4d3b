"""The Python snippets of the documentation's pages, and the output that they state.

A page has tabs for Pyro and NumPyro. The snippets of one backend are those in its tabs
and those outside of tabs, in the order of the page: together they are one script. The
comments below a `print` state its output.
"""

import ast
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
BACKENDS = ("pyro", "numpyro")
# Other versions and machines draw other numbers from the same seed. The last digit of a
# stated number may differ by one, too.
RELATIVE_TOLERANCE = 0.05

_FENCE = re.compile(r"```python\n(.*?)```", flags=re.DOTALL)
_TAB = re.compile(
    r"^:::\{tab-item\} .*?\n:sync: (\w+)\n(.*?)^:::$", flags=re.DOTALL | re.MULTILINE
)
_DECIMAL = re.compile(r"-?\d+\.\d*")
# PyTorch deprecates what the JIT ELBOs of Pyro call.
_WARNINGS = ("-W", "error", "-W", "ignore:`torch.jit.trace`")
_END_OF_SNIPPET = "--- end of a snippet ---"


@dataclass(frozen=True)
class Snippet:
    """A block of Python code on a page.

    Attributes:
        code: The code.
        backends: The backends for which the page has it.
    """

    code: str
    backends: tuple[str, ...]

    @property
    def stated_output(self) -> str:
        """The lines of the comments that follow calls of `print`."""
        lines = self.code.splitlines()
        stated = []
        for call in self._print_calls():
            for line in lines[call.end_lineno :]:
                if not line.strip().startswith("#"):
                    break
                stated.append(line.strip().removeprefix("#").strip())
        return "\n".join(stated)

    @property
    def num_unstated_prints(self) -> int:
        """The number of calls of `print` that no comment follows."""
        lines = [*self.code.splitlines(), ""]
        next_lines = [lines[call.end_lineno].strip() for call in self._print_calls()]
        return sum(not line.startswith("#") for line in next_lines)

    def _print_calls(self) -> list[ast.Call]:
        calls = [x for x in ast.walk(ast.parse(self.code)) if isinstance(x, ast.Call)]
        prints = [x for x in calls if getattr(x.func, "id", None) == "print"]
        return sorted(prints, key=lambda call: call.lineno)


def snippets(text: str, backend: str) -> list[Snippet]:
    """The snippets of a page for one backend."""
    found = []
    end = 0
    for tab in _TAB.finditer(text):
        outside = text[end : tab.start()]
        found += [Snippet(code, BACKENDS) for code in _FENCE.findall(outside)]
        if tab.group(1) == backend:
            found += [Snippet(code, (backend,)) for code in _FENCE.findall(tab[2])]
        end = tab.end()
    return found + [Snippet(code, BACKENDS) for code in _FENCE.findall(text[end:])]


def run(page_snippets: list[Snippet], folder: Path) -> list[str]:
    """Run snippets as one script in a folder, and return the output of each.

    Warnings are errors.
    """
    marker = f"print({_END_OF_SNIPPET!r})\n"
    script = "".join(f"{snippet.code}\n{marker}" for snippet in page_snippets)
    (folder / "page.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, *_WARNINGS, "page.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
    )
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-3000:]
    return result.stdout.split(_END_OF_SNIPPET)[:-1]


def agree(printed: str, stated: str) -> bool:
    """Whether two outputs have the same words, and decimals that are close.

    How lines are broken does not count.
    """
    printed, stated = (re.sub(r"\s+", " ", text).strip() for text in (printed, stated))
    if _DECIMAL.split(printed) != _DECIMAL.split(stated):
        return False
    pairs = zip(_DECIMAL.findall(printed), _DECIMAL.findall(stated), strict=True)
    return all(_is_close(*pair) for pair in pairs)


def _is_close(printed: str, stated: str) -> bool:
    last_digit = 10.0 ** -len(stated.partition(".")[2])
    allowed = 1.001 * last_digit + RELATIVE_TOLERANCE * abs(float(stated))
    return abs(float(printed) - float(stated)) <= allowed
