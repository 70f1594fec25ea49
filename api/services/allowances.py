"""What tenants' jobs may read, write and run on this machine: only what its operator wrote down, and else nothing.

The file `allowed.toml` in the server's data directory says it, for each tenant by name. It is read whenever it is
needed, by whoever runs a job, so each machine decides for itself:

    [tenants.alpha]
    read = ["/srv/alpha"]                     # directories that its backups may be of
    restore = ["/srv/alpha/restored"]         # directories that it may restore into
    connect = ["10.1.2.0/24"]                 # networks of ours that its notifications may go to

    [tenants.alpha.proxmox.main]              # a cluster of Proxmox VE, by the name that its jobs use
    api = "https://pve.example.com:8006"
    token_file = "/etc/backupforge/pve-token"
    ca_file = "/etc/backupforge/pve-root-ca.pem"
    ssh = "root@{node}"                       # how nodes are reached
    identity_file = "/etc/backupforge/id_ed25519"
    known_hosts = "/etc/backupforge/known_hosts"
    pools = ["alpha"]                         # guests that its backups may be of; also guests = [100], or all = true

    [tenants.alpha.hooks]                     # commands by the names that its jobs use
    stop-shop = ["/usr/local/bin/shop", "stop"]

    [tenants.alpha.hosts.shop]                # another host, by the name that its jobs use
    address = "shop.example.org"
    user = "backup"
    identity_file = "/etc/backupforge/alpha-shop"
    known_hosts = "/etc/backupforge/known_hosts"
    read = ["/srv"]                           # directories there that its backups may be of

Why it is so: docs/decisions/0022-what-jobs-may-read-and-run.md.
"""

from __future__ import annotations

import os
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from api.problems import Problem
from bfrepo.core.errors import BackupForgeError, InvalidValue
from bfrepo.sources.paths import absolute_path

FILE_NAME: Final = "allowed.toml"


class AllowedHost(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Another host that one tenant's jobs may back up by SSH: who we are there, with which key, and which directories.

    Nothing of the configuration of whoever runs the server counts but `config_file`, where one is named.
    """

    address: str
    user: str
    identity_file: str
    known_hosts: str
    read: tuple[str, ...]
    port: Annotated[int, Meta(ge=1, le=65_535)] = 22
    config_file: str = os.devnull
    sudo: bool = False


class Cluster(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """How a cluster of Proxmox VE is reached, and which of its guests a tenant's backups may be of.

    Guests are named by ID and pool: names and tags are changed by those who may change the guest.
    """

    api: str
    token_file: str
    ca_file: str | None = None
    ssh: str = "root@{node}"
    identity_file: str | None = None
    known_hosts: str | None = None
    config_file: str | None = None
    sudo: bool = False
    node_dir: str = "/var/lib/backupforge"
    guests: tuple[int, ...] = ()
    pools: tuple[str, ...] = ()
    all: bool = False

    def allows(self, guest_id: int, pool: str) -> bool:
        """Whether backups may be of a guest."""
        return self.all or guest_id in self.guests or (pool != "" and pool in self.pools)


class Allowance(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What one tenant's jobs may do."""

    read: tuple[str, ...] = ()
    restore: tuple[str, ...] = ()
    connect: tuple[str, ...] = ()
    hooks: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    hosts: dict[str, AllowedHost] = msgspec.field(default_factory=dict)
    proxmox: dict[str, Cluster] = msgspec.field(default_factory=dict)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    tenants: dict[str, Allowance] = msgspec.field(default_factory=dict)


def load_allowance(data: Path, tenant: str) -> Allowance:
    """What the operator allows a tenant, by its name. Raises BackupForgeError for a file that cannot be understood."""
    path = data / FILE_NAME
    try:
        return msgspec.toml.decode(path.read_bytes(), type=_File).tenants.get(tenant, Allowance())
    except FileNotFoundError:
        return Allowance()
    except (msgspec.DecodeError, ValueError, OSError) as error:
        raise BackupForgeError(f"{path} cannot be used: {error}") from error


def readable_paths(allowance: Allowance, paths: tuple[str, ...]) -> tuple[str, ...]:
    """The paths to back up, with no symlink in them any more. Raises Problem for one outside what may be read."""
    return tuple(_inside(path, allowance.read, "read") for path in paths)


def remote_paths(allowance: Allowance, name: str, paths: tuple[str, ...]) -> tuple[AllowedHost, tuple[str, ...]]:
    """A host by its name, and paths there without "..". Raises Problem, InvalidValue.

    Where symlinks there lead cannot be seen from here: what the user of the key may read is what counts on the host.
    """
    host = allowance.hosts.get(name)
    if host is None:
        raise _not_allowed(f"there is no host {name!r} for this tenant", "hosts")
    return host, tuple(_inside_there(path, host.read, name) for path in paths)


def _inside_there(path: str, roots: tuple[str, ...], name: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise InvalidValue(f"{path!r} is no absolute path")
    tidy = absolute_path(os.fsencode(path), b"/")
    for root in roots:
        top = absolute_path(os.fsencode(root), b"/")
        if root.startswith("/") and (tidy == top or tidy.startswith(top.rstrip(b"/") + b"/")):
            return os.fsdecode(tidy)
    raise _not_allowed(f"jobs of this tenant may not read {path} of {name}", "directories")


def restore_target(allowance: Allowance, target: str) -> str:
    """The directory to restore into, with no symlink in it any more. Raises Problem."""
    return _inside(target, allowance.restore, "restore into")


def hook_command(allowance: Allowance, name: str) -> tuple[str, ...]:
    """The command of a hook. Raises Problem for a name that the operator has not given one."""
    command = allowance.hooks.get(name)
    if not command:
        raise _not_allowed(f"there is no hook {name!r} for this tenant", "hooks")
    return command


def cluster_of(allowance: Allowance, name: str) -> Cluster:
    """The cluster of this name. Raises Problem where the operator has not given one."""
    cluster = allowance.proxmox.get(name)
    if cluster is None:
        raise _not_allowed(f"there is no cluster {name!r} for this tenant", "clusters")
    return cluster


def _inside(path: str, roots: tuple[str, ...], what: str) -> str:
    if not os.path.isabs(path) or "\0" in path:
        raise InvalidValue(f"{path!r} is no absolute path")
    real = os.path.realpath(path)
    for root in roots:
        top = os.path.realpath(root)
        if os.path.isabs(root) and (real == top or real.startswith(top.rstrip("/") + "/")):
            return real
    # Said of every path alike, whether it exists or not.
    raise _not_allowed(f"jobs of this tenant may not {what} {path}", "directories")


def _not_allowed(detail: str, listed: str) -> Problem:
    hint = f"the server's operator lists {listed} in {FILE_NAME}"
    return Problem(HTTPStatus.FORBIDDEN, "not-allowed-here", detail, hint=hint)
