"""Privacy accounting for DP-SGD and ModelMix: price a run, solve for its settings, compare, reproduce."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmaccount.accountants.bracket import delta, epsilon
    from mmaccount.accountants.sweep import sweep
    from mmaccount.adaptive import AdaptiveClipping
    from mmaccount.advice import Advice
    from mmaccount.advisor import advise
    from mmaccount.bound import Bound, BoundError
    from mmaccount.calibrate import Infeasible, solve
    from mmaccount.certificate import certify
    from mmaccount.comparison import Comparison, LawRow, compare, compare_laws
    from mmaccount.histogram import NormHistogram
    from mmaccount.ledger import Ledger, LedgerFile
    from mmaccount.meaning import Meaning, TradeOff, advantage, bayes_success, gdp_mu, meaning_of, privacy_profile, trade_off
    from mmaccount.plan import Phase, Plan, Release
    from mmaccount.probe import Probe
    from mmaccount.sampling import once_per_epoch, refuse_unless_poisson
    from mmaccount.settings import Settings
    from mmaccount.tuning import tune_cost

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
    "AdaptiveClipping": "adaptive",
    "Advice": "advice",
    "Bound": "bound",
    "BoundError": "bound",
    "Comparison": "comparison",
    "Infeasible": "calibrate",
    "LawRow": "comparison",
    "Ledger": "ledger",
    "LedgerFile": "ledger",
    "Meaning": "meaning",
    "NormHistogram": "histogram",
    "Phase": "plan",
    "Plan": "plan",
    "Probe": "probe",
    "Release": "plan",
    "Settings": "settings",
    "TradeOff": "meaning",
    "advantage": "meaning",
    "advise": "advisor",
    "bayes_success": "meaning",
    "certify": "certificate",
    "compare": "comparison",
    "compare_laws": "comparison",
    "delta": "accountants.bracket",
    "epsilon": "accountants.bracket",
    "gdp_mu": "meaning",
    "meaning_of": "meaning",
    "once_per_epoch": "sampling",
    "privacy_profile": "meaning",
    "refuse_unless_poisson": "sampling",
    "solve": "calibrate",
    "sweep": "accountants.sweep",
    "trade_off": "meaning",
    "tune_cost": "tuning",
}


def __getattr__(name: str) -> object:
    """Load a public name on first use, so that `import mmaccount` itself loads neither numpy nor numba."""
    if name not in _HOME:
        raise AttributeError(f"module 'mmaccount' has no attribute {name!r}")
    value = getattr(import_module(f"mmaccount.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What completion and `help` show: every public name, loaded yet or not."""
    return sorted({*globals(), *__all__})
