"""Backing up guests of Proxmox VE: each becomes a snapshot of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from bfrepo.core.errors import BackupForgeError, Interrupted, InvalidValue
from bfrepo.core.progress import Reporter
from bfrepo.operations.backup import BackupOptions, BackupResult, SeveralBackups, backup
from bfrepo.repository.repository import Repository
from bfrepo.sources.base import MemberSource
from bfrepo.sources.proxmox.container import ContainerSource
from bfrepo.sources.proxmox.dump import Dump
from bfrepo.sources.proxmox.inventory import Guest
from bfrepo.sources.proxmox.machine import MachineSource
from bfrepo.sources.proxmox.node import NodeAccess, NodeCommand
from bfrepo.sources.proxmox.script import backup_words

Mode: TypeAlias = Literal["snapshot", "suspend", "stop"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestBackupOptions:
    """What to write into the snapshot of a guest. `mode` is what happens to a guest that runs: see `vzdump`."""

    hostname: str
    username: str
    program: str
    tags: tuple[str, ...] = ()
    mode: Mode = "snapshot"


def guest_path(guest: Guest) -> bytes:
    """The path of a guest's snapshots, such as /qemu/100."""
    return b"/" + b"/".join(guest.path)


def back_up_guest(
    repository: Repository,
    guest: Guest,
    access: NodeAccess,
    options: GuestBackupOptions,
    reporter: Reporter,
    cancelled: Callable[[], bool],
) -> BackupResult:
    """Make a snapshot of a guest; its label is the guest's name. What an earlier backup left on the node is removed.

    A backup that does not come over whole is no snapshot. Raises SourceError, MalformedVma or MalformedTar then, and
    what `backup` raises.
    """
    if options.mode not in MODES:
        raise InvalidValue(f"{options.mode!r} is no mode", hint=f"the modes are {', '.join(MODES)}")
    words = backup_words(guest.kind, guest.id, options.mode, access.work)
    under_way: list[NodeCommand] = []

    def open_source() -> MemberSource:
        command = NodeCommand(access.link(guest.node), words, cancelled)
        under_way.append(command)
        command.end_input()
        dump = Dump(command, guest)
        if guest.kind == "qemu":
            return MachineSource(dump, guest)
        return ContainerSource(dump, guest, reporter.problem, reporter.warn)

    chosen = BackupOptions(
        paths=(guest_path(guest),),
        hostname=options.hostname,
        username=options.username,
        program=options.program,
        tags=options.tags,
        label=guest.name,
        read_once=True,
    )
    try:
        return backup(repository, open_source, chosen, reporter, cancelled)
    finally:
        for command in under_way:
            command.close()


def back_up_guests(
    repository: Repository,
    guests: Sequence[Guest],
    access: NodeAccess,
    options: GuestBackupOptions,
    reporter: Reporter,
    cancelled: Callable[[], bool],
) -> SeveralBackups:
    """Make a snapshot of each guest. One that fails is reported, and the others are backed up.

    Raises the error of the last where all have failed, and Interrupted.
    """
    made: list[BackupResult] = []
    failed: list[BackupForgeError] = []
    for guest in guests:
        try:
            made.append(back_up_guest(repository, guest, access, options, reporter, cancelled))
        except Interrupted:
            raise
        except BackupForgeError as error:
            failed.append(error)
            reporter.problem(guest_path(guest), f"{guest.shown}: {error}")
    if failed and not made:
        raise failed[-1]
    return SeveralBackups(tuple(made), len(failed))
