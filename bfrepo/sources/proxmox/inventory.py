"""What guests a cluster has, and which of them are meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import msgspec

from bfrepo.core.errors import AmbiguousPrefix, ObjectNotFound, UsageError
from bfrepo.sources.proxmox.api import ProxmoxApi

Kind: TypeAlias = Literal["qemu", "lxc"]

_SEPARATORS: Final = re.compile(r"[;,\s]+")
_NODE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")


class _Resource(msgspec.Struct):
    type: str
    vmid: int = 0
    node: str = ""
    name: str = ""
    status: str = "unknown"
    lock: str = ""
    tags: str = ""
    pool: str = ""
    template: bool = False
    maxdisk: int = 0
    maxmem: int = 0


class _Node(msgspec.Struct):
    node: str
    status: str = "unknown"


class _Version(msgspec.Struct):
    version: str


@dataclass(frozen=True, slots=True)
class Guest:
    """A virtual machine ("qemu") or container ("lxc"). `disk` and `memory` are bytes, as the cluster tells them; of a
    machine `disk` is its first disk. `lock` is why it cannot be changed just now, empty if it can.
    """

    id: int
    kind: Kind
    name: str
    node: str
    status: str = "unknown"
    lock: str = ""
    tags: tuple[str, ...] = ()
    pool: str = ""
    template: bool = False
    disk: int = 0
    memory: int = 0

    @property
    def path(self) -> tuple[bytes, bytes]:
        """Where it is in a snapshot: the names from the root."""
        return self.kind.encode(), str(self.id).encode()

    @property
    def shown(self) -> str:
        """The guest in a message."""
        what = "VM" if self.kind == "qemu" else "CT"
        return f"{what} {self.id} ({self.name})" if self.name else f"{what} {self.id}"


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node, and whether it is "online", "offline" or "unknown"."""

    name: str
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSelection:
    """Which guests are meant: those named by ID or name, with one of the tags, in one of the pools, or all; and of
    those not the ones in `excluded`.
    """

    names: Sequence[str] = ()
    tags: Sequence[str] = ()
    pools: Sequence[str] = ()
    everything: bool = False
    excluded: Sequence[str] = ()

    def choose(self, guests: Iterable[Guest]) -> list[Guest]:
        """They, by ID. Raises UsageError where nothing was asked for, ObjectNotFound, AmbiguousPrefix."""
        known = sorted(guests, key=lambda guest: guest.id)
        if not (self.names or self.tags or self.pools or self.everything):
            raise UsageError("no guest was named", hint="name guests by ID or name, or take --all")
        named = {find_guest(name, known).id for name in self.names}
        left_out = {find_guest(name, known).id for name in self.excluded}
        tags, pools = set(self.tags), set(self.pools)
        return [
            guest
            for guest in known
            if guest.id not in left_out
            and (self.everything or guest.id in named or guest.pool in pools or tags.intersection(guest.tags))
        ]


def list_guests(api: ProxmoxApi) -> list[Guest]:
    """All guests of the cluster that the token may see, by ID. Raises ProxmoxError."""
    found = api.get(list[_Resource], "cluster", "resources", type="vm")
    guests = [_guest(each) for each in found if each.type in ("qemu", "lxc") and each.vmid > 0]
    return sorted(guests, key=lambda guest: guest.id)


def list_nodes(api: ProxmoxApi) -> list[ClusterNode]:
    """The nodes of the cluster, by name. Raises ProxmoxError."""
    found = api.get(list[_Node], "nodes")
    return sorted((ClusterNode(each.node, each.status) for each in found), key=lambda node: node.name)


def version_of(api: ProxmoxApi) -> str:
    """The version of Proxmox VE, such as "9.1.11". Raises ProxmoxError."""
    return api.get(_Version, "version").version


def next_free_id(api: ProxmoxApi) -> int:
    """An ID that no guest has. Raises ProxmoxError."""
    return api.get(int, "cluster", "nextid")


def config_of(api: ProxmoxApi, guest: Guest) -> dict[str, Any]:
    """The configuration of a guest, by key. Raises ProxmoxError."""
    return api.get(dict[str, Any], "nodes", guest.node, guest.kind, str(guest.id), "config")


def find_guest(name: str, guests: Iterable[Guest]) -> Guest:
    """The guest of this ID or name. Raises ObjectNotFound, AmbiguousPrefix."""
    found = [guest for guest in guests if name in (str(guest.id), guest.name)]
    found = [guest for guest in found if str(guest.id) == name] or found
    if not found:
        hint = "'backupforge proxmox list' shows those that the token may see"
        raise ObjectNotFound(f"there is no guest {name!r}", hint=hint)
    if len(found) > 1:
        ids = ", ".join(str(guest.id) for guest in found)
        raise AmbiguousPrefix(f"the guests {ids} are all called {name!r}", hint="name it by its ID")
    return found[0]


def is_node_name(name: str) -> bool:
    """Whether a node can be called so: it becomes part of the name of a host."""
    return _NODE.fullmatch(name) is not None


def _guest(found: _Resource) -> Guest:
    return Guest(
        id=found.vmid,
        kind="qemu" if found.type == "qemu" else "lxc",
        name=found.name,
        node=found.node,
        status=found.status,
        lock=found.lock,
        tags=tuple(each for each in _SEPARATORS.split(found.tags) if each),
        pool=found.pool,
        template=found.template,
        disk=found.maxdisk,
        memory=found.maxmem,
    )
