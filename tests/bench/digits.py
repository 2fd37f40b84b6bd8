"""A linear model on digits at epsilon 3, delta 1e-4, seed after seed: python tests/bench/digits.py
[SEEDS]"""

import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmaccount import Phase, Plan
from trainer import data
from trainer.loop import Options, train

NOISE_MULTIPLIER = 4.2941  # what `mmaccount plan ... --target-epsilon 3` solves for, rounded up


def runs(folder: Path, seeds: Iterable[int]) -> Iterator[dict[str, float]]:
    """Epsilon, held-out accuracy and seconds of a run with each seed."""
    phase = Phase(steps=150, noise_multiplier=NOISE_MULTIPLIER, clip_norm=1.0, learning_rate=2.0)
    plan = Plan(
        dataset_size=1437,
        sample_rate=400 / 1437,
        batch_size=400,
        phases=(phase,),
        delta=1e-4,
        target_epsilon=3.0,
    )
    digits = data.digits()
    for seed in seeds:
        start = time.monotonic()
        made = train(
            plan, digits, folder / str(seed), Options(checkpoint_every=50), seed=seed, quiet=True
        )
        seconds = time.monotonic() - start
        yield {
            "seed": seed,
            "epsilon": made["epsilon"],
            "accuracy": made["held_out_accuracy"],
            "seconds": seconds,
        }


def main(seeds: int = 5) -> None:
    """Print every run and the mean accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for run in runs(Path(folder), range(seeds)):
            print(
                (
                    "seed {seed}: epsilon <= {epsilon:.6f}, held-out accuracy {accuracy:.4f}, "
                    "{seconds:.1f} s"
                ).format(**run)
            )
            found.append(run["accuracy"])
    print(f"mean accuracy {sum(found) / seeds:.4f} over {seeds} seeds")


if __name__ == "__main__":
    main(*(int(count) for count in sys.argv[1:]))
