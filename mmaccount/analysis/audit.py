"""Lower bounds on epsilon that are measured: attacks on released iterates, and what their errors
prove.

An attack gives every run a score. If a mechanism is (epsilon, delta)-private, then for every
threshold
    true positive rate <= e^epsilon * false positive rate + delta,
and the same with negatives (the complement of the event), so that observed errors bound epsilon
from below (Kairouz et al. 2015; with Clopper-Pearson limits Nasr et al. 2021, arXiv 2101.04535).
Nothing is assumed of the scores: a poor score makes the bound small, never wrong. Both signs need
the same two limits and cost no confidence.
"""

from collections.abc import Mapping
from math import exp, log, log1p
from typing import NamedTuple

import numpy as np
from scipy.special import bdtrc, log_ndtr
from scipy.stats import beta

from mmaccount.accounting.search import safe_end
from mmaccount.records import mixing_laws, validate
from mmaccount.records.plan import Plan

CONFIDENCE = 0.999
NODES, WEIGHTS = np.polynomial.legendre.leggauss(
    96
)  # of a smooth mixing law; its error costs power, never validity
TINY_PROBABILITY = 1e-300  # stands in for 0 in logarithms
GUESSED_SHARES = (1.0, 0.2, 0.05)  # of the canaries of one run, that are guessed at
LARGEST_EPSILON = 60.0  # up to which the one-run audit looks; more would take e^60 guesses
LEAST_EPSILON = 2.0**-40  # at which a one-run bound is called 0


class Errors(NamedTuple):
    """What an attack got wrong: false positives among `absent` runs, false negatives among
    `present` ones."""

    false_positives: int
    absent: int
    false_negatives: int
    present: int


class Measured(NamedTuple):
    """A lower bound on epsilon, the threshold that gave it, and the errors that were made there."""

    epsilon: float
    threshold: float
    errors: Errors


# -------------------------------------------------------------------------- from errors to epsilon


def upper_limit(successes: int | np.ndarray, trials: int, level: float) -> np.ndarray:
    """The probability that `successes` out of `trials` show, at error `level`, not to be exceeded
    (Clopper and Pearson 1934): the limit that an observer misses with probability at most `level`,
    whatever the probability is."""
    successes = np.asarray(successes)
    limit = beta.ppf(1.0 - level, successes + 1.0, np.maximum(trials - successes, 1.0))
    return np.asarray(np.where(successes >= trials, 1.0, limit))


def _epsilon(false_positive: np.ndarray, false_negative: np.ndarray, delta: float) -> np.ndarray:
    """max(0, log((1 - delta - FNR) / FPR), log((1 - delta - FPR) / FNR)), the rates above 0."""
    one = np.maximum(1.0 - delta - false_negative, 0.0) / false_positive
    other = np.maximum(1.0 - delta - false_positive, 0.0) / false_negative
    return np.asarray(np.log(np.maximum(np.maximum(one, other), 1.0)))


def epsilon_of_errors(errors: Errors, *, delta: float, confidence: float = CONFIDENCE) -> float:
    """A lower bound on epsilon at `delta` that is wrong with probability at most 1 - confidence,
    for an attack whose threshold was fixed before these runs were looked at.

    >>> f"{epsilon_of_errors(Errors(0, 1000, 0, 1000), delta=0.0, confidence=0.95):.2f}"
    '5.60'
    """
    wrong = np.array([[errors.false_positives], [errors.false_negatives]])
    return float(_bounds(wrong, errors.absent, errors.present, delta, confidence)[0])


def _bounds(
    wrong: np.ndarray, absent: int, present: int, delta: float, confidence: float
) -> np.ndarray:
    """`epsilon_of_errors` for rows of false positives and of false negatives."""
    level = 0.5 * (1.0 - validate.probability("confidence", confidence))
    delta = validate.real("delta", delta, "[0, 1)", 0.0, 1.0)
    return _epsilon(
        upper_limit(wrong[0], absent, level), upper_limit(wrong[1], present, level), delta
    )


def _wrong(present: np.ndarray, absent: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Rows of false positives and of false negatives of "score at least the threshold"."""
    positives = len(absent) - np.searchsorted(np.sort(absent), thresholds)
    return np.stack([positives, np.searchsorted(np.sort(present), thresholds)])


def lower_bound(
    present: np.ndarray, absent: np.ndarray, *, delta: float, confidence: float = CONFIDENCE
) -> Measured:
    """A lower bound on epsilon at `delta`, at the stated confidence, from scores of independent
    runs.

    The even runs choose the threshold, the odd ones alone are counted.

    Args:
        present: scores of runs with the canary, larger where the attack thinks so; at least 2, not
            NaN.
        absent: scores of runs without it.
        delta: in [0, 1).
        confidence: in (0, 1).
    """
    present, absent = _scores("present", present), _scores("absent", absent)
    chosen = np.unique(np.concatenate([present[::2], absent[::2]]))
    wrong = _wrong(present[::2], absent[::2], chosen)
    bounds = _bounds(wrong, len(absent[::2]), len(present[::2]), delta, confidence)
    threshold = float(chosen[int(np.argmax(bounds))])
    false_positives, false_negatives = _wrong(present[1::2], absent[1::2], np.array([threshold]))[
        :, 0
    ]
    errors = Errors(
        int(false_positives), len(absent[1::2]), int(false_negatives), len(present[1::2])
    )
    return Measured(
        epsilon_of_errors(errors, delta=delta, confidence=confidence), threshold, errors
    )


def _scores(name: str, scores: np.ndarray) -> np.ndarray:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or np.isnan(values).any():
        raise ValueError(
            f"`{name}` must be two or more scores, none of them NaN, got shape {values.shape}."
        )
    return values


# ------------------------------------------------------------------------------- likelihood ratios


def log_density(
    x: np.ndarray, width: np.ndarray | float, law: str = mixing_laws.UNIFORM
) -> np.ndarray:
    """log density at x of N(0, 1) plus mixing of the given law and width (0: none), up to a
    constant that does not depend on x; all in std of the noise. Uniform: log(Phi(x + L/2) - Phi(x -
    L/2)). Other laws: a Gauss rule, for widths to 100."""
    width = np.broadcast_to(np.asarray(width, dtype=np.float64), x.shape)
    if not width.any():
        return np.asarray(-0.5 * x * x)
    if law == mixing_laws.UNIFORM:
        high, low = log_ndtr(0.5 * width - np.abs(x)), log_ndtr(-0.5 * width - np.abs(x))
        return np.asarray(high + np.log1p(-np.exp(low - high)))
    total = np.zeros(x.shape)
    for node, weight in zip(NODES, WEIGHTS * _peak_one(NODES, law), strict=True):
        total += weight * np.exp(-0.5 * (x - 0.5 * node * width) ** 2)
    return np.asarray(np.log(np.maximum(total, TINY_PROBABILITY)))


def _peak_one(x: np.ndarray, law: str) -> np.ndarray:
    """The density of a law on [-1, 1], up to a constant."""
    if law == mixing_laws.RAISED_COSINE:
        return np.asarray(np.cos(0.5 * np.pi * x) ** 2)
    return np.asarray((1.0 - x * x) ** (mixing_laws.exponent(law) - 1.0))


def log_mixture(log_ratio: np.ndarray, rate: float) -> np.ndarray:
    """log(1 - q + q r): the record takes part with probability q."""
    if rate == 1.0:
        return log_ratio
    return np.asarray(np.logaddexp(log1p(-rate), log(rate) + log_ratio))


def log_likelihood_ratio(iterates: np.ndarray, plan: Plan, gradient: np.ndarray) -> np.ndarray:
    """log of the density of released iterates with a record over that without it, the best score an
    attack can have.

    Step k of Algorithm 2 of arXiv 2210.03843, in std of the noise of a coordinate (learning rate *
    z * c / B): the distance of w_k from its centre is, given w_{k-1} and w_{k-2}, mixing of width
    max(tau, |w_{k-1} - w_{k-2}|) plus N(0, 1), and moved by -gradient / (z c) if the record takes
    part. No other record has a gradient, and there is no drift.

    Args:
        iterates: w_0, ..., w_T, shape [T + 1, runs, coordinates], w_{-1} = w_0.
        plan: what was carried out.
        gradient: of the record, after clipping and truncation, the same in all steps; shape
            [coordinates].
    """
    total = np.zeros(iterates.shape[1])
    for step in range(1, len(iterates)):
        x, width, law = step_noise(iterates, plan, step)
        phase = plan.phases[plan.phase_of(step)]
        moved = gradient / (phase.noise_multiplier * phase.clip_norm)
        ratio = (log_density(x + moved, width, law) - log_density(x, width, law)).sum(1)
        total += log_mixture(ratio, plan.sample_rate)
    return total


def step_noise(iterates: np.ndarray, plan: Plan, step: int) -> tuple[np.ndarray, np.ndarray, str]:
    """(distance of w_k from its centre, width of the mixing, its law) of step k in std of the
    noise."""
    phase = plan.phases[plan.phase_of(step)]
    unit = phase.learning_rate * phase.noise_multiplier * phase.clip_norm / plan.batch_size
    before, last = iterates[step - 1], iterates[max(0, step - 2)]
    if phase.gap == 0.0:
        return (iterates[step] - before) / unit, np.zeros(before.shape), phase.mixing_law
    width = np.maximum(np.abs(before - last), phase.gap * phase.learning_rate)
    return (iterates[step] - 0.5 * (before + last)) / unit, width / unit, phase.mixing_law


# ----------------------------------------------------------------------------------------- one run


def one_run_p_value(
    correct: int, guesses: int, canaries: int, *, epsilon: float, delta: float
) -> float:
    """The largest probability with which an (epsilon, delta)-private mechanism lets an attack guess
    that well.

    `canaries` records were included by fair coins; the attack guessed `guesses` of the coins and
    abstained from the others; `correct` guesses were right. With B ~ Binomial(guesses, e^epsilon /
    (1 + e^epsilon)) and v correct
        p = Pr[B >= v] + 2 m delta max_{1 <= i <= v} (Pr[B >= v - i] - Pr[B >= v]) / i.
    Source: Steinke, Nasr, Jagielski (2023), arXiv 2305.08846, Theorem 5.2.
    """
    probability = 1.0 / (1.0 + exp(-epsilon))
    tails = bdtrc(np.arange(-1, correct), guesses, probability)  # Pr[B >= 0], ..., Pr[B >= correct]
    steps = np.arange(1, correct + 1)
    excess = np.max((tails[correct - steps] - tails[correct]) / steps, initial=0.0)
    return min(1.0, float(tails[correct] + 2.0 * canaries * delta * excess))


def one_run_epsilon(
    correct: int, guesses: int, canaries: int, *, delta: float, confidence: float = CONFIDENCE
) -> float:
    """The largest epsilon that these guesses refute at `delta`: a lower bound, wrong with
    probability at most
    1 - confidence. `delta` must be below 1 / canaries for it to be of use.

    >>> f"{one_run_epsilon(95, 100, 1000, delta=1e-5, confidence=0.95):.2f}"
    '2.17'
    """
    canaries = validate.count("canaries", canaries)
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(
            f"`correct` must be in [0, guesses], `guesses` in [0, canaries], got {correct} and {guesses}."
        )
    level = 1.0 - validate.probability("confidence", confidence)
    delta = validate.real("delta", delta, "[0, 1)", 0.0, 1.0)

    def refuted(epsilon: float) -> float:
        p_value = one_run_p_value(correct, guesses, canaries, epsilon=epsilon, delta=delta)
        return log(max(p_value, TINY_PROBABILITY) / level)

    if refuted(LEAST_EPSILON) > 0.0:
        return 0.0
    if refuted(LARGEST_EPSILON) <= 0.0:
        return LARGEST_EPSILON
    return safe_end(refuted, LEAST_EPSILON, LARGEST_EPSILON, tolerance=1e-9)


class Guessed(NamedTuple):
    """A lower bound on epsilon from the scores of one run's canaries, and how many guesses were
    right."""

    name: str
    guesses: int
    correct: int
    epsilon: float


def one_run(
    scores: Mapping[str, np.ndarray],
    kept: np.ndarray,
    *,
    delta: float,
    confidence: float = CONFIDENCE,
) -> list[Guessed]:
    """What each kind of score refutes: the highest are guessed to be of canaries that were kept, as
    many of the lowest of ones that were left out. The share of canaries that is guessed at is fixed
    (`GUESSED_SHARES`); the error that `confidence` leaves is divided by the number of bounds, so
    that all of them hold at once.

    Args:
        scores: by name, one score per canary, larger where it seems to have been kept.
        kept: which canaries were kept, by independent fair coins.
        delta: in [0, 1).
        confidence: of all bounds together.
    """
    kept = np.asarray(kept, dtype=bool)
    level = (1.0 - validate.probability("confidence", confidence)) / max(
        1, len(scores) * len(GUESSED_SHARES)
    )
    results = []
    for name, values in scores.items():
        if np.shape(values) != kept.shape or not np.isfinite(values).all():
            raise ValueError(
                f"`scores` {name} must be one finite number per canary, got shape {np.shape(values)}."
            )
        order = np.argsort(values, kind="stable")
        for share in GUESSED_SHARES:
            each = round(0.5 * share * len(kept))
            correct = int(np.sum(kept[order[len(order) - each :]])) + int(
                np.sum(~kept[order[:each]])
            )
            epsilon = one_run_epsilon(
                correct, 2 * each, len(kept), delta=delta, confidence=1.0 - level
            )
            results.append(Guessed(name, 2 * each, correct, epsilon))
    return results
