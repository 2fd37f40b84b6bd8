"""How far apart upper and lower bounds on epsilon are with mixing: median and 90th percentile of
upper / lower - 1.

Settings are drawn evenly in the logarithm, by a fixed seed: noise multiplier 0.3 to 3, mixing 1 to
30, steps 100 to 20,000, sampling rate 0.001 to 1; delta 1e-5, uniform mixing. Every truncation sees
the same ones. 732 of them (the default) take about an hour for each truncation on one core.

    python tests/bench/slack.py [--settings N] [--truncations 1 10 25 100 1000] [--worst N]
"""

import argparse
from collections.abc import Iterator

import numpy as np

from mmaccount import Bound, Settings, epsilon

SEED, DELTA = 20, 1e-5
RANGES = {
    "noise_multiplier": (0.3, 3.0),
    "mixing": (1.0, 30.0),
    "steps": (100.0, 20_000.0),
    "sample_rate": (0.001, 1.0),
}


def draws(count: int, truncation: float) -> Iterator[Settings]:
    """The settings, always in the same order."""
    generator = np.random.default_rng(SEED)
    for _ in range(count):
        made = {
            name: low * (high / low) ** generator.random() for name, (low, high) in RANGES.items()
        }
        yield Settings(**made | {"steps": round(made["steps"])}, truncation=truncation)


def slack(bound: Bound) -> float:
    """upper / lower - 1; inf without a lower bound."""
    return bound.upper / bound.lower - 1.0 if bound.lower else float("inf")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--settings", type=int, default=732, metavar="N", help="how many of the settings"
    )
    parser.add_argument(
        "--truncations",
        type=float,
        nargs="+",
        default=[1.0, 10.0, 25.0, 100.0, 1000.0],
        metavar="P",
    )
    parser.add_argument(
        "--worst",
        type=int,
        default=0,
        metavar="N",
        help="also print the settings with the largest slack",
    )
    arguments = parser.parse_args()
    print(
        f"{'truncation':>10}{'median':>10}{'90th':>10}{'largest':>10}   of {arguments.settings} "
        "settings, in per cent"
    )
    for truncation in arguments.truncations:
        found = [
            (slack(bound), run, bound)
            for run in draws(arguments.settings, truncation)
            for bound in [epsilon(run, delta=DELTA)]
        ]
        median, high, most = (
            100.0 * float(np.percentile([row[0] for row in found], part)) for part in (50, 90, 100)
        )
        print(f"{truncation:10g}{median:10.2f}{high:10.2f}{most:10.2f}", flush=True)
        for width, run, bound in sorted(found, key=lambda row: -row[0])[: arguments.worst]:
            print(
                f"    {100 * width:.1f} %: {bound.lower:.6g} ... {bound.upper:.6g}, {bound.method}: "
                f"{run}"
            )


if __name__ == "__main__":
    main()
