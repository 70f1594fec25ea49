"""How long tests go on that could go on for ever: seconds in a normal run, as long as wanted in a campaign.

CAMPAIGN_SECONDS=120 pytest tests/concurrency
"""

from __future__ import annotations

import os


def campaign_s(normally: float) -> float:
    """Seconds that a test may take: what the variable says, else `normally`."""
    return float(os.environ.get("CAMPAIGN_SECONDS") or normally)


def is_campaign() -> bool:
    """Whether somebody asked for more than the normal run."""
    return bool(os.environ.get("CAMPAIGN_SECONDS"))
