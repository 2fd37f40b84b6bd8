"""Time certified bounds against dp-accounting, opacus, prv-accountant and riskcal, in one run:
make bench

Medians of repeated calls after one warm-up, in milliseconds, and the ratio peer / ours. Cases as in
published comparisons.
"""

import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable

from dp_accounting.mechanism_calibration import calibrate_dp_mechanism
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from opacus.accountants import PRVAccountant

import mmaccount as mm
from mmaccount.accounting import step_moments
from mmaccount.accounting.accountant import upper_epsilon

CASES = {  # q, noise multiplier, steps, delta
    "A": (0.01, 1.0, 10_000, 1e-5),
    "B": (0.03, 0.335, 3_400, 1e-5),
    "C": (0.02, 0.36694, 5_000, 1e-5),
    "D": (0.001, 0.8, 20_000, 1e-6),
    "E": (1.0, 10.0, 100, 1e-5),
    "F": (4e-3, 0.6, 1_000_000, 1e-5),
}
PRV_CASES = "ADE"  # the others take it 8 s and 2.5 GB, or do not fit in memory


def shell() -> None:
    """`mmaccount epsilon` as a command: with machine code on disk, and the very first time."""
    words = [
        sys.executable,
        "-m",
        "mmaccount",
        "epsilon",
        "--sample-rate",
        "0.01",
        "--steps",
        "10000",
    ]
    words += ["--noise-multiplier", "1", "--delta", "1e-5"]

    def run(**extra: str) -> float:
        done = subprocess.run(words, check=True, capture_output=True, env=os.environ | extra)
        return float(len(done.stdout))

    warm, _ = timed(run, 5)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run(NUMBA_CACHE_DIR=folder)
        cold = time.perf_counter() - start
    print(f"from the shell: {warm / 1e3:.2f} s, the first time {cold:.1f} s")


def sweeping() -> None:
    """10,000 different ModelMix runs, on all cores."""
    law = random.Random(1)
    runs = [
        mm.Settings(
            sample_rate=10 ** law.uniform(-3.0, -0.7),
            steps=int(10 ** law.uniform(2.0, 4.5)),
            noise_multiplier=10 ** law.uniform(-0.6, 0.5),
            mixing=10 ** law.uniform(0.0, 1.7),
            truncation=10 ** law.uniform(0.0, 3.0),
        )
        for _ in range(10_000)
    ]

    def progress(done: int, total: int) -> None:
        print(
            f"\r{done} of {total} runs",
            end="" if done < total else "\n",
            file=sys.stderr,
            flush=True,
        )

    mm.sweep(runs[:2], delta=1e-5)
    start = time.perf_counter()
    mm.sweep(runs, delta=1e-5, progress=progress)
    print(f"sweep: {time.perf_counter() - start:.1f} s for {len(runs)} different ModelMix runs")


def timed(call: Callable[[], float], repeats: int) -> tuple[float, float]:
    """(median milliseconds, value)."""
    value = call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times), value


def event(q: float, z: float, steps: int) -> SelfComposedDpEvent:
    step = GaussianDpEvent(float(z))
    return SelfComposedDpEvent(step if q == 1.0 else PoissonSampledDpEvent(q, step), steps)


def dp_accounting(q: float, z: float, steps: int, delta: float) -> float:
    accountant = PLDAccountant()
    accountant.compose(event(q, z, steps))
    return accountant.get_epsilon(delta)


def prv(q: float, z: float, steps: int, delta: float) -> float:
    accountant = PRVAccountant()
    accountant.history = [(z, q, steps)]
    return accountant.get_epsilon(delta)


def microsoft(q: float, z: float, steps: int, delta: float) -> float:
    from prv_accountant import PoissonSubsampledGaussianMechanism
    from prv_accountant import PRVAccountant as MicrosoftAccountant

    law = PoissonSubsampledGaussianMechanism(noise_multiplier=z, sampling_probability=q)
    accountant = MicrosoftAccountant(
        prvs=[law], max_self_compositions=[steps], eps_error=0.01, delta_error=delta / 1000
    )
    return accountant.compute_epsilon(delta=delta, num_self_compositions=[steps])[2]


def main() -> None:
    warnings.simplefilter("ignore")
    print(f"Python {platform.python_version()}, {platform.machine()}, {platform.system()}")
    heads = "".join(
        f"{name:>16}{'ratio':>7}" for name in ("dp-accounting", "opacus PRV", "prv-accountant")
    )
    print(f"{'case':6}{'epsilon':>24}{'ours ms':>10}{heads}")
    for name, case in CASES.items():
        q, z, steps, delta = case
        run = mm.Settings(sample_rate=q, noise_multiplier=z, steps=steps)
        ours, _ = timed(lambda run=run, delta=delta: mm.epsilon(run, delta=delta).upper, 15)
        bound = mm.epsilon(run, delta=delta)
        peer, _ = timed(lambda case=case: dp_accounting(*case), 3)
        line = f"{name:6}{bound.lower:12.5f}{bound.upper:12.5f}{ours:10.1f}{peer:16.0f}{peer / ours:7.0f}"
        if name in PRV_CASES:
            for peer_of, repeats in ((prv, 3), (microsoft, 1)):
                other, _ = timed(lambda case=case, peer_of=peer_of: peer_of(*case), repeats)
                line += f"{other:16.0f}{other / ours:7.0f}"
        print(line, flush=True)
    calibration()
    advantage()
    mixing()
    sweeping()
    shell()


def calibration() -> None:
    """The noise for epsilon 3 at q 0.01, 10,000 steps, delta 1e-5."""
    start = mm.Settings(sample_rate=0.01, noise_multiplier=1.0, steps=10_000)
    ours, found = timed(
        lambda: mm.solve(start, "noise_multiplier", epsilon=3.0, delta=1e-5).noise_multiplier, 5
    )
    peer, other = timed(
        lambda: calibrate_dp_mechanism(
            PLDAccountant, lambda z: event(0.01, z, 10_000), 3.0, 1e-5, tol=1e-6
        ),
        3,
    )
    print(
        f"noise for epsilon 3: ours {found:.6f} in {ours:.0f} ms, dp-accounting {other:.6f} in "
        f"{peer:.0f} ms",
        end="",
    )
    print(f", ratio {peer / ours:.0f}")


def advantage() -> None:
    """The membership-inference advantage of case A."""
    from riskcal.calibration.dpsgd import get_advantage_for_dpsgd

    q, z, steps, _ = CASES["A"]
    run = mm.Settings(sample_rate=q, noise_multiplier=z, steps=steps)
    ours, found = timed(lambda: mm.advantage(run).upper, 5)
    peer, other = timed(lambda: get_advantage_for_dpsgd(z, q, steps), 3)
    print(
        f"advantage: ours {found:.6f} in {ours:.0f} ms, riskcal {other:.6f} in {peer:.0f} ms, ratio "
        f"{peer / ours:.0f}"
    )


def mixing() -> None:
    """The paper's Resnet-20 run, where no peer has an answer."""
    run = mm.Settings(
        sample_rate=0.03, steps=3400, noise_multiplier=0.335, mixing=11.25, truncation=100
    )

    def price() -> float:
        step_moments._table.cache_clear()
        return upper_epsilon([run], 1e-5)

    upper, _ = timed(price, 15)
    print(
        f"ModelMix, the paper's settings: upper bound in {upper:.1f} ms, compiled code warm, no "
        "moments remembered"
    )


if __name__ == "__main__":
    sys.exit(main())
