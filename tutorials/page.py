"""A tutorial is a script and a notebook: what differs between the two is here.

``options()`` reads the command line, which a notebook does not have. ``show()`` puts a
figure into the notebook, or into a file whose path a script prints.
"""

import argparse
import base64
import sys
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

OUT = Path("out")
DPI = 80


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this; its command line is none of ours."""
    return "ipykernel" in sys.modules


def options(data: bool = False) -> argparse.Namespace:
    """Read `--short` and, if `data`, `--data FOLDER`; a notebook has the defaults."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="run next to nothing")
    if data:
        parser.add_argument("--data", type=Path, help="folder with data of your own")
    return parser.parse_args([] if in_notebook() else sys.argv[1:])


def show(figure: Figure, name: str) -> None:
    """Show a figure in the notebook, or save it as out/NAME.png."""
    if in_notebook():
        display(figure, name)
    else:
        print(f"The figure is in {save(figure, OUT / f'{name}.png')}")


def save(figure: Figure, path: Path) -> Path:
    """Save a figure, and return where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def display(figure: Figure, name: str) -> None:
    """Show a figure in the notebook as a png of moderate size."""
    from IPython.display import publish_display_data

    png = BytesIO()
    figure.savefig(png, format="png", dpi=DPI)
    plt.close(figure)
    encoded = base64.b64encode(png.getvalue()).decode()
    publish_display_data({"image/png": encoded, "text/plain": name})
