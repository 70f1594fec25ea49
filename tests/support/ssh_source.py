"""Another host, which is this machine behind a real sshd: backed up by the library."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bfrepo.operations.backup import BackupOptions, BackupResult, backup
from bfrepo.repository.repository import Repository
from bfrepo.sources.exclude import ExcludeRules
from bfrepo.sources.ssh.place import RemoteHost
from bfrepo.sources.ssh.source import SshSource
from bfrepo.ssh.config import SshSettings
from tests.support.backups import never
from tests.support.directories import Problems
from tests.support.sshd import Sshd


def remote_source(sshd: Sshd, *paths: Path, on_error: Callable[[bytes, OSError], None], **options: Any) -> SshSource:
    """Directories of the host."""
    settings = SshSettings(
        identity_file=sshd.options.identity_file,
        known_hosts=sshd.options.known_hosts,
        config_file=sshd.options.config_file,
    )
    chosen = {"rules": ExcludeRules.from_options(environment={}), "one_file_system": False, "sudo": False, **options}
    host = RemoteHost("127.0.0.1", getpass.getuser(), sshd.port)
    return SshSource(host, [bytes(path) for path in paths], settings, on_error=on_error, **chosen)


def back_up_host(
    repository: Repository, sshd: Sshd, *paths: Path, problems: Problems | None = None, **options: Any
) -> BackupResult:
    """Back up directories of the host. Without `problems` there may be none."""
    reporter = problems if problems is not None else Problems()
    of_source = {name: options.pop(name) for name in ("rules", "one_file_system", "sudo") if name in options}
    source = remote_source(
        sshd, *paths, on_error=lambda path, error: reporter.problem(path, error.strerror or str(error)), **of_source
    )
    plain: dict[str, Any] = {"hostname": "there", "username": "me", "program": "tests"}
    chosen = BackupOptions(paths=tuple(sorted(map(bytes, paths))), **{**plain, **options})
    result = backup(repository, lambda: source, chosen, reporter, never)
    if problems is None:
        assert (reporter.found, result.snapshot.summary.errors) == ([], 0), reporter.found
    return result
