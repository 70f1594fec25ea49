"""Who is told that a run has ended, and how. Blocks."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import Final

import msgspec
from sqlalchemy import select

from api.config import ServerConfig, ServerKeys
from api.db.engine import Database
from api.db.schema import jobs, tenants
from api.db.tenancy import Tenancy
from api.runners.process import ENVIRONMENT, module_command
from api.services.allowances import load_allowance
from api.services.jobspecs import JobSpec
from api.services.notices import Notice, describe, unseal_targets
from api.services.runqueue import Ending
from bfrepo.core.errors import BackupForgeError

log: Final = logging.getLogger("backupforge.runs")

_LIMIT_S: Final = 120.0


class Teller:
    """Sends notifications. Thread-safe. What fails is logged: a run's end does not depend on anybody's mail."""

    def __init__(self, database: Database, keys: ServerKeys, config: ServerConfig) -> None:
        self._database = database
        self._keys = keys
        self._config = config

    def tell(self, ending: Ending) -> None:
        """Tell those whom the run's job names, unless another attempt follows."""
        try:
            notice = None if ending.retried or ending.job_id is None else self._notice(ending, ending.job_id)
            if notice is not None:
                _send(notice)
        except (BackupForgeError, OSError, subprocess.SubprocessError) as error:
            log.warning("nobody was told how run %s ended: %s", ending.run_id, type(error).__name__)

    def _notice(self, ending: Ending, job_id: str) -> Notice | None:
        with self._database.read() as connection:
            row = (
                connection.execute(Tenancy(ending.tenant_id).select(jobs).where(jobs.c.id == job_id)).mappings().first()
            )
            tenant = connection.execute(select(tenants.c.name).where(tenants.c.id == ending.tenant_id)).scalar()
        if row is None or tenant is None or not row["sealed_targets"]:
            return None
        wanted, failed = msgspec.json.decode(row["spec"], type=JobSpec).notify, ending.state != "done"
        if wanted == "never" or (wanted == "failure" and (not failed or ending.state == "cancelled")):
            return None
        title, body = describe(ending.name, ending.state, ending.error, ending.result)
        targets = unseal_targets(self._keys, ending.tenant_id, job_id, row["sealed_targets"])
        networks = load_allowance(self._config.data, tenant).connect
        return Notice(title=title, body=body, failed=failed, targets=targets, networks=networks)


def _send(notice: Notice) -> None:
    """In a process that cannot reach what it should not. Raises SubprocessError."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    subprocess.run(
        module_command("api.runners.notify"),
        input=msgspec.json.encode(notice),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**ENVIRONMENT, "PYTHONPATH": path},
        cwd="/",
        timeout=_LIMIT_S,
        check=True,
    )
