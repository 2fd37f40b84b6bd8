"""Questions asked of the accountant: settings for a target, comparisons, attackers, tuning, audits,
the paper."""
