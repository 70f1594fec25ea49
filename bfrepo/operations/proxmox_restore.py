"""Restoring guests of Proxmox VE: a VMA archive into `qmrestore`, a tar archive into `pct restore`, made as they go."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import msgspec

from bfrepo.core.errors import MALFORMED, BackupForgeError, Interrupted, ObjectNotFound, SourceError, TargetError
from bfrepo.core.progress import Reporter
from bfrepo.core.protocols import Buffer
from bfrepo.core.units import MIB
from bfrepo.data.layout import unpack_holes
from bfrepo.data.node import Node
from bfrepo.data.records import load_records
from bfrepo.data.selection import SnapshotFilter
from bfrepo.data.snapshot import Snapshot
from bfrepo.data.tree import load_tree
from bfrepo.exporter.content import write_entries
from bfrepo.exporter.entries import Entry, walk_entries
from bfrepo.exporter.sinks import JoinedSink, Sink
from bfrepo.exporter.tarwriter import TarWriter
from bfrepo.formats.vma import VmaDevice, VmaHeader
from bfrepo.formats.vma_writer import VmaWriter
from bfrepo.operations.snapshots import open_snapshot
from bfrepo.repository.frames import FrameCache
from bfrepo.repository.repository import Repository
from bfrepo.sources.proxmox.container import CONFIGS, PLACE, ROOT
from bfrepo.sources.proxmox.dump import ABOUT, About
from bfrepo.sources.proxmox.inventory import Kind
from bfrepo.sources.proxmox.machine import device_name
from bfrepo.sources.proxmox.node import NodeAccess, NodeCommand
from bfrepo.sources.proxmox.script import container_words, machine_words
from bfrepo.sources.proxmox.settings import parse_config, restore_options
from bfrepo.vfs.file import File

_CACHE: Final = 64 * MIB
_THREADS: Final = 2
_MOST_CONFIG: Final = 1 * MIB
_KINDS: Final[tuple[Kind, Kind]] = ("qemu", "lxc")


@dataclass(frozen=True, slots=True)
class StoredGuest:
    """A guest in a snapshot: `nodes` is what is in its directory, `about` what the cluster said of it."""

    snapshot_id: bytes
    snapshot: Snapshot
    kind: Kind
    about: About
    nodes: dict[bytes, Node]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestRestoreOptions:
    """Where to: a node, the ID the guest gets, and the storage for its disks (None: where they were). `overwrite`
    replaces a guest that has the ID.
    """

    node: str
    guest_id: int
    storage: str | None = None
    overwrite: bool = False


def find_stored_guest(repository: Repository, snapshot: str, chosen: SnapshotFilter, reporter: Reporter) -> StoredGuest:
    """The guest in a snapshot. Raises ObjectNotFound where there is none, AmbiguousPrefix, and what reading raises."""
    identifier, found = open_snapshot(repository, snapshot, chosen, reporter)
    loader = repository.loader
    for top in load_tree(loader, found.tree):
        kind = next((kind for kind in _KINDS if top.name == kind.encode()), None)
        if kind is None or top.type != "dir":
            continue
        for guest in load_tree(loader, top.subtree):
            nodes = {node.name: node for node in load_tree(loader, guest.subtree)} if guest.type == "dir" else {}
            if ABOUT in nodes:
                return StoredGuest(identifier, found, kind, _about(repository, nodes[ABOUT]), nodes)
    raise ObjectNotFound(
        f"the snapshot {identifier.hex()[:8]} is not of a guest of Proxmox",
        hint="'backupforge list --path /qemu/ID' shows those of a machine, --path /lxc/ID those of a container",
    )


def restore_guest(
    repository: Repository,
    guest: StoredGuest,
    access: NodeAccess,
    options: GuestRestoreOptions,
    reporter: Reporter,
    cancelled: Callable[[], bool],
) -> None:
    """Restore a guest on a node. What is there of it is removed by the node, if it does not come over whole.

    Raises TargetError with what the node says, DamagedObject before anything wrong is written, SourceError when the
    connection breaks, Interrupted.
    """
    if guest.kind == "qemu":
        words = machine_words(options.guest_id, options.storage, force=options.overwrite)
    else:
        config = parse_config(_config(repository, guest, CONFIGS[0]).decode(errors="replace"))
        words = container_words(options.guest_id, restore_options(config, options.storage, force=options.overwrite))
    command = NodeCommand(access.link(options.node), words, cancelled)
    try:
        _send(repository, guest, command, reporter, cancelled)
        command.end_input()
        command.drain()
        if (status := command.status()) != 0:
            raise _refused(command, status)
    finally:
        command.close()


def _send(
    repository: Repository,
    guest: StoredGuest,
    command: NodeCommand,
    reporter: Reporter,
    cancelled: Callable[[], bool],
) -> None:
    def send(data: Buffer) -> None:
        if cancelled():
            raise Interrupted("the restore was stopped", hint="the node removes what it has of the guest")
        command.write(data)

    sink = JoinedSink(send)
    try:
        if guest.kind == "qemu":
            _send_machine(repository, guest, sink, reporter)
        else:
            _send_container(repository, guest, sink, reporter, cancelled)
        sink.flush()
    except SourceError as error:
        # A program that ends while it is still written to has said why.
        if not (said := command.complaint()):
            raise
        raise TargetError(f"the node {command.shown} refused it: {said}") from error


def _refused(command: NodeCommand, status: int) -> BackupForgeError:
    said = command.complaint() or f"exit status {status}"
    return TargetError(f"the restore on {command.shown} failed: {said}")


# --- machines


def _send_machine(repository: Repository, guest: StoredGuest, sink: Sink, reporter: Reporter) -> None:
    named = {name: node for node in guest.nodes.values() if (name := device_name(node.name)) is not None}
    devices = [VmaDevice(number, name, node.size) for number, (name, node) in enumerate(named.items(), 1)]
    configs = tuple(
        (file.decode(), _config(repository, guest, file)) for file in guest.nodes if file.startswith(b"qemu-server.")
    )
    reporter.progress.bytes_total = sum(device.size for device in devices)
    # The same snapshot gives the same archive, so there is nothing random in it.
    uuid = hashlib.sha256(guest.snapshot_id).digest()[:16]
    created_s = int(guest.snapshot.when.timestamp())
    with closing(FrameCache(repository.loader, _CACHE, threads=_THREADS)) as views:
        writer = VmaWriter(sink, VmaHeader(uuid, created_s, configs, tuple(devices)))
        for device in devices:
            reporter.progress.current = device.name.encode()
            begin = reporter.progress.bytes_done
            writer.write(device, _StoredDisk(views, named[device.name], reporter))
            reporter.progress.bytes_done = begin + device.size


class _StoredDisk:
    """A disk in a snapshot, for the writer of archives."""

    def __init__(self, views: FrameCache, node: Node, reporter: Reporter) -> None:
        self._file = File(views, node)
        self._size = node.size
        self._holes = unpack_holes(node.size, load_records(views, node.holes, node.holes_depth))
        self._progress = reporter.progress
        self._begin = reporter.progress.bytes_done

    def extents(self) -> Iterator[tuple[int, int]]:
        """See Disk."""
        at = 0
        for start, end in self._holes:
            if start > at:
                yield at, start - at
            at = end
        if at < self._size:
            yield at, self._size - at

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """See Disk."""
        self._file.advance(offset, len(buffer))
        at = 0
        for piece in self._file.pieces(offset, len(buffer)):
            buffer[at : at + len(piece)] = piece
            at += len(piece)
        self._progress.bytes_done = self._begin + offset + at


# --- containers


def _send_container(
    repository: Repository,
    guest: StoredGuest,
    sink: Sink,
    reporter: Reporter,
    cancelled: Callable[[], bool],
) -> None:
    root = guest.nodes.get(ROOT)
    if root is None or root.type != "dir":
        raise ObjectNotFound("the snapshot has no files of the container")
    writer = TarWriter(sink)
    entries = _container_entries(repository, guest, root)
    write_entries(repository.loader, _counted(entries, reporter), writer, cancelled)
    writer.finish()


def _container_entries(repository: Repository, guest: StoredGuest, root: Node) -> Iterator[Entry]:
    """What `pct restore` looks for first, and then all files below "./"."""
    for name in CONFIGS:
        if name in guest.nodes:
            yield Entry(b"/".join((b".", *PLACE, name)), guest.nodes[name])
    yield Entry(b".", root)
    for path, node, link in walk_entries(repository.loader, root):
        if node.type != "socket":
            yield Entry(b"./" + path, node, None if link is None else b"./" + link)


def _counted(entries: Iterator[Entry], reporter: Reporter) -> Iterator[Entry]:
    for entry in entries:
        reporter.progress.files_done += 1
        reporter.progress.bytes_done += entry.node.size if entry.link is None else 0
        reporter.progress.current = entry.path
        yield entry


# --- both


def _config(repository: Repository, guest: StoredGuest, name: bytes) -> bytes:
    node = guest.nodes.get(name)
    if node is None or node.type != "file" or node.size > _MOST_CONFIG:
        raise ObjectNotFound(f"the snapshot has no {name.decode()} of the guest")
    return _content(repository, node)


def _content(repository: Repository, node: Node) -> bytes:
    with closing(FrameCache(repository.loader, _CACHE, threads=_THREADS)) as views:
        return bytes(File(views, node).read(0, node.size))


def _about(repository: Repository, node: Node) -> About:
    try:
        return msgspec.json.decode(_content(repository, node), type=About)
    except (msgspec.DecodeError, *MALFORMED) as error:
        raise SourceError(f"{ABOUT.decode()} in the snapshot cannot be understood: {error}") from error
