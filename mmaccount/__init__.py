"""Privacy accounting for DP-SGD and ModelMix: price a run, solve for its settings, compare,
reproduce."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmaccount.accounting.accountant import delta, epsilon
    from mmaccount.accounting.sweep import sweep
    from mmaccount.advice.advisor import advise
    from mmaccount.advice.histogram import NormHistogram
    from mmaccount.advice.probe import Probe
    from mmaccount.advice.recommendation import Advice
    from mmaccount.analysis.attacker import (
        Meaning,
        TradeOff,
        advantage,
        bayes_success,
        gdp_mu,
        meaning_of,
        privacy_profile,
        trade_off,
    )
    from mmaccount.analysis.calibrate import solve
    from mmaccount.analysis.comparison import Comparison, LawRow, compare, compare_laws
    from mmaccount.analysis.sampling_schemes import once_per_epoch, refuse_unless_poisson
    from mmaccount.analysis.tuning import tune_cost
    from mmaccount.certificates.certificate import certify
    from mmaccount.records.adaptive_clipping import AdaptiveClipping
    from mmaccount.records.bound import Bound, BoundError, Infeasible
    from mmaccount.records.ledger import Ledger, LedgerFile
    from mmaccount.records.plan import Phase, Plan, Release
    from mmaccount.records.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "AdaptiveClipping",
    "Advice",
    "Bound",
    "BoundError",
    "Comparison",
    "Infeasible",
    "LawRow",
    "Ledger",
    "LedgerFile",
    "Meaning",
    "NormHistogram",
    "Phase",
    "Plan",
    "Probe",
    "Release",
    "Settings",
    "TradeOff",
    "advantage",
    "advise",
    "bayes_success",
    "certify",
    "compare",
    "compare_laws",
    "delta",
    "epsilon",
    "gdp_mu",
    "meaning_of",
    "once_per_epoch",
    "privacy_profile",
    "refuse_unless_poisson",
    "solve",
    "sweep",
    "trade_off",
    "tune_cost",
]

_HOME = {
    "AdaptiveClipping": "records.adaptive_clipping",
    "Advice": "advice.recommendation",
    "Bound": "records.bound",
    "BoundError": "records.bound",
    "Comparison": "analysis.comparison",
    "Infeasible": "records.bound",
    "LawRow": "analysis.comparison",
    "Ledger": "records.ledger",
    "LedgerFile": "records.ledger",
    "Meaning": "analysis.attacker",
    "NormHistogram": "advice.histogram",
    "Phase": "records.plan",
    "Plan": "records.plan",
    "Probe": "advice.probe",
    "Release": "records.plan",
    "Settings": "records.settings",
    "TradeOff": "analysis.attacker",
    "advantage": "analysis.attacker",
    "advise": "advice.advisor",
    "bayes_success": "analysis.attacker",
    "certify": "certificates.certificate",
    "compare": "analysis.comparison",
    "compare_laws": "analysis.comparison",
    "delta": "accounting.accountant",
    "epsilon": "accounting.accountant",
    "gdp_mu": "analysis.attacker",
    "meaning_of": "analysis.attacker",
    "once_per_epoch": "analysis.sampling_schemes",
    "privacy_profile": "analysis.attacker",
    "refuse_unless_poisson": "analysis.sampling_schemes",
    "solve": "analysis.calibrate",
    "sweep": "accounting.sweep",
    "trade_off": "analysis.attacker",
    "tune_cost": "analysis.tuning",
}


def __getattr__(name: str) -> object:
    """Load a public name on first use, so that `import mmaccount` itself loads neither numpy nor
    numba."""
    if name not in _HOME:
        raise AttributeError(f"module 'mmaccount' has no attribute {name!r}")
    value = getattr(import_module(f"mmaccount.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What completion and `help` show: every public name, loaded yet or not."""
    return sorted({*globals(), *__all__})
