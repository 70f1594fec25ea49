"""The backup of guests of Proxmox VE by a job: with the operator's credentials, and of the guests that it allows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from api.services.allowances import Cluster
from api.services.jobspecs import GuestSource, JobSpec
from bfrepo.core.errors import BackupForgeError, SourceError
from bfrepo.core.progress import Reporter
from bfrepo.data.snapshot import Snapshot
from bfrepo.operations.backup import SeveralBackups
from bfrepo.operations.proxmox import GuestBackupOptions, back_up_guests, guest_path
from bfrepo.repository.repository import Repository
from bfrepo.sources.proxmox.api import ApiSettings, ProxmoxApi, parse_api
from bfrepo.sources.proxmox.inventory import Guest, GuestSelection, list_guests
from bfrepo.sources.proxmox.node import NodeAccess
from bfrepo.ssh.config import SshSettings


class GuestBackups:
    """Backs up what a job names. Used once, by one thread."""

    def __init__(self, job: JobSpec, source: GuestSource, cluster: Cluster, *, username: str, program: str) -> None:
        self._source = source
        self._cluster = cluster
        self._options = GuestBackupOptions(
            hostname=job.host or source.cluster, username=username, program=program, tags=job.tags, mode=source.mode
        )
        self._paths: set[bytes] = set()

    def back_up(self, repository: Repository, reporter: Reporter, cancelled: Callable[[], bool]) -> SeveralBackups:
        """See BackupsStep. A guest that is named and not allowed is as if it were not there."""
        guests = self._guests()
        self._paths = set(map(guest_path, guests))
        return back_up_guests(repository, guests, node_access(self._cluster), self._options, reporter, cancelled)

    def concerns(self, snapshot: Snapshot) -> bool:
        """Whether a snapshot is one of those that this backup adds to."""
        return (
            snapshot.hostname == self._options.hostname
            and len(snapshot.paths) == 1
            and snapshot.paths[0] in self._paths
            and set(self._options.tags) <= set(snapshot.tags)
        )

    def _guests(self) -> list[Guest]:
        source, cluster = self._source, self._cluster
        selection = GuestSelection(
            names=source.guests, tags=source.tags, pools=source.pools, everything=source.all, excluded=source.excluded
        )
        known = list_guests(ProxmoxApi(api_settings(cluster)))
        chosen = selection.choose(guest for guest in known if cluster.allows(guest.id, guest.pool))
        if not chosen:
            raise SourceError(f"no guest of {source.cluster} that this tenant may back up is meant")
        return chosen


def api_settings(cluster: Cluster) -> ApiSettings:
    """Where the API is, with the token that the operator keeps in a file. Raises BackupForgeError."""
    try:
        token = Path(cluster.token_file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BackupForgeError("the server cannot read the token of the cluster") from error
    host, port = parse_api(cluster.api)
    return ApiSettings(host=host, port=port, token=token, ca_file=cluster.ca_file)


def node_access(cluster: Cluster) -> NodeAccess:
    """How the nodes are reached. Nothing of the SSH of whoever runs the server counts, unless the operator says so."""
    ssh = SshSettings(
        identity_file=cluster.identity_file,
        known_hosts=cluster.known_hosts,
        config_file=cluster.config_file or os.devnull,
    )
    return NodeAccess(way=cluster.ssh, ssh=ssh, sudo=cluster.sudo, work=cluster.node_dir)
