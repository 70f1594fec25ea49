"""Ten backups in loops while two prunes run without end and snapshots are forgotten, each a process of its own (INV-8).

Every snapshot that a backup said it had made restores exactly, at once and at the end. Then the same with kill -9 for
whoever is at work. As long as CAMPAIGN_SECONDS says, each; a normal run takes seconds.
"""

from __future__ import annotations

import pytest

from tests.support.campaign import campaign_s
from tests.support.clients import quick_folder
from tests.support.crowd import judge, wage

BACKUPS = 10
NORMALLY_S = 8.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [False, True], ids=["", "kill -9"])
@pytest.mark.parametrize("grace_s", [0, 1], ids=["no grace", "grace of a second"])
def test_ten_backups_beside_prunes(grace_s: float, kills: bool) -> None:
    """INV-8, INV-2: every snapshot that finished restores exactly, and so does every one that anybody finds."""
    with quick_folder() as folder:
        location = str(folder / "repository")
        campaign = wage(location, folder, campaign_s(NORMALLY_S), grace_s, kills=kills, backups=BACKUPS)
        assert campaign.counted["backup"] >= BACKUPS
        assert campaign.counted["prune"] >= 2
        judge(campaign)
