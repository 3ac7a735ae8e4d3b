"""The demo: a discrete autoencoder of digits, relaxed and not, in both backends.

Run it as ``python tutorials/demo.py``. The two autoencoders are those of the two
tutorials beside this file. It prints a table and draws one figure.
"""

import argparse
import time
from pathlib import Path

import discrete_vae_numpyro
import discrete_vae_pyro
import figures
import page

METHODS = ("relaxed", "score function")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--steps", type=int, default=discrete_vae_pyro.STEPS, help="training steps"
    )
    parser.add_argument(
        "--short", action="store_true", help="train for 60 steps only, to try it out"
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo.png"))
    options = parser.parse_args()
    steps = 60 if options.short else options.steps

    start = time.perf_counter()
    tutorials = (discrete_vae_pyro, discrete_vae_numpyro)
    results = [
        tutorial.run(method, steps) for tutorial in tutorials for method in METHODS
    ]
    print(figures.table(results))
    print("Pyro's score function uses running averages as baselines; NumPyro has none.")
    path = page.save(figures.draw(results), options.out)
    print(f"The figure is in {path}, after {time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    main()
