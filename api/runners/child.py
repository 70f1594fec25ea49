"""The process that carries out one run: `python -m api.runners.child`, started by a runner and by nobody else.

A process of its own can be stopped, may crash, and takes no time from the server's interpreter. It ends by itself when
the runner is gone. SIGTERM asks it to end well: what was stored until then stays usable.
"""

from __future__ import annotations

import os
import pwd
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, BinaryIO, Final

import msgspec

from api.problems import Problem
from api.runners.orders import END, Line, Order
from api.runners.process import ENVIRONMENT
from api.runners.room import ROOM, Room
from api.services.allowances import AllowedHost
from api.services.jobspecs import JobSpec, Kind, RestoreSpec, Source, exclude_rules
from api.services.locations import open_to
from bfrepo.checker.sampling import parse_sample
from bfrepo.core.clock import SystemClock
from bfrepo.core.errors import BackupForgeError, Interrupted
from bfrepo.core.progress import Change, Progress, Reporter
from bfrepo.data.selection import SnapshotFilter
from bfrepo.data.snapshot import Snapshot
from bfrepo.localfs.metadata import Owners
from bfrepo.operations.backup import BackupOptions, BackupResult, SeveralBackups
from bfrepo.operations.check import CheckOptions, CheckResult
from bfrepo.operations.forget import ForgetOptions, ForgetPlan
from bfrepo.operations.hooks import Hooks
from bfrepo.operations.prune import PruneOptions, PruneResult
from bfrepo.operations.restore import restore
from bfrepo.operations.routine import BackupsStep, BackupStep, ForgetStep, Routine, StepResult, Watch, run_routine
from bfrepo.repository.repository import Repository
from bfrepo.restorer.plan import RestoreOptions
from bfrepo.sources.base import StreamedSource
from bfrepo.sources.filesystem import FileSystemSource
from bfrepo.sources.ssh.place import RemoteHost

_GRACE_S: Final = 15.0
"""How long the end may take when the runner is gone, until this process just stops."""

_PROGRESS_S: Final = 1.0
_MOST_REMARKS: Final = 500
"""Warnings and problems that are told one by one; what is more is only counted."""

_HOOK_S: Final = 3600.0
_SHOWN: Final = 20
PROGRAM: Final = "backupforge server"


class Channel:
    """Tells the runner. From any thread."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._encoder = msgspec.json.Encoder()

    def send(self, kind: str, data: dict[str, Any]) -> None:
        """One event. A runner that is gone hears nothing, and its end is noticed elsewhere."""
        with self._lock:
            try:
                self._out.write(self._encoder.encode(Line(kind, data)) + b"\n")
                self._out.flush()
            except OSError:
                return


class Stopping:
    """Whether the run shall end. Where no operation looks at it, SIGTERM raises Interrupted."""

    def __init__(self) -> None:
        self.requested = False
        self.watched = False

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        """The handler of SIGTERM, for the main thread."""
        again, self.requested = self.requested, True
        if not again and not self.watched:
            raise Interrupted("it was stopped")


class ChannelReporter:
    """Counts, and tells what must not be missed."""

    wants_items = False

    def __init__(self, channel: Channel) -> None:
        self.progress = Progress()
        self._channel = channel
        self._told = 0

    def item(self, path: bytes, change: Change, size: int) -> None:
        """Says nothing."""

    def warn(self, path: bytes, message: str) -> None:
        """See Reporter."""
        self._tell("warning", path, message)

    def problem(self, path: bytes, message: str) -> None:
        """See Reporter."""
        self.progress.errors += 1
        self._tell("problem", path, message)

    def _tell(self, kind: str, path: bytes, message: str) -> None:
        self._told += 1
        if self._told <= _MOST_REMARKS:
            self._channel.send(kind, {"path": path.decode(errors="backslashreplace"), "message": message})


class Watcher:
    """Looks on while steps are taken, and tells how far they are every second."""

    def __init__(self, channel: Channel, stopping: Stopping) -> None:
        self._channel = channel
        self._stopping = stopping

    @contextmanager
    def working(self, name: str) -> Iterator[Watch]:
        """See Observer."""
        reporter, over = ChannelReporter(self._channel), threading.Event()
        self._channel.send("step", {"step": name, "status": "running"})
        ticker = threading.Thread(target=self._tick, args=(name, reporter.progress, over), daemon=True)
        ticker.start()
        self._stopping.watched = True
        try:
            yield reporter, lambda: self._stopping.requested
        finally:
            self._stopping.watched = False
            over.set()
            ticker.join()

    def ended(self, step: StepResult) -> None:
        """See Observer."""
        self._channel.send("step", {"step": step.name, "status": step.status, "reason": step.reason})

    def _tick(self, name: str, progress: Progress, over: threading.Event) -> None:
        last: dict[str, Any] = {}
        while not over.wait(_PROGRESS_S):
            now = {
                "step": name,
                "files_done": progress.files_done,
                "files_total": progress.files_total,
                "bytes_done": progress.bytes_done,
                "bytes_total": progress.bytes_total,
                "errors": progress.errors,
            }
            if now != last:
                self._channel.send("progress", now)
                last = now


def main() -> int:
    """Carry out the order that comes through standard input. The exit status says nothing; the last event does."""
    channel = Channel(_own_output())
    stopping = Stopping()
    signal.signal(signal.SIGTERM, stopping.handle)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    room = Room(lambda least, wanted: channel.send(ROOM, {"least": least, "wanted": wanted}))
    threading.Thread(target=_hear_runner, args=(room,), daemon=True).start()
    try:
        state, error, result = _carry_out(order, channel, stopping, room)
    except Interrupted as error_:
        state, error, result = "interrupted", str(error_), {}
    except BackupForgeError as error_:
        state, error, result = "failed", _full(error_), {}
    except Problem as problem:
        state, error, result = "failed", problem.detail, {}
    channel.send(END, {"state": state, "error": error, "result": result})
    return 0


def _own_output() -> BinaryIO:
    """Standard output, for events alone: whatever else is written there goes where errors go."""
    ours = os.dup(1)
    os.dup2(2, 1)
    return open(ours, "wb")


def _hear_runner(room: Room) -> None:
    """Take answers until nobody holds the other end of standard input, and end then."""
    for line in sys.stdin.buffer:
        room.answer(line)
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_GRACE_S)
    os._exit(1)


def _carry_out(order: Order, channel: Channel, stopping: Stopping, room: Room) -> tuple[str, str, dict[str, Any]]:
    watcher = Watcher(channel, stopping)
    take_room = room.take if order.metered else None
    if order.restore is not None:
        return _restore(order, order.restore, watcher)
    if order.job is None:
        raise BackupForgeError("there is nothing to do")
    done = run_routine(_routine(order, order.job), lambda: _open(order, take_room), watcher, SystemClock())
    result: dict[str, Any] = {}
    for step in done.steps:
        result |= _account(step)
    failed = next((step.error for step in done.steps if step.error is not None), None)
    return done.status, _full(failed) if failed else "", result


def _restore(order: Order, what: RestoreSpec, watcher: Watcher) -> tuple[str, str, dict[str, Any]]:
    place = f"{what.snapshot}:{what.path}" if what.path else what.snapshot
    options = RestoreOptions(target=os.fsencode(what.target), overwrite=what.overwrite)
    with _open(order) as repository, watcher.working("restore") as (reporter, cancelled):
        done = restore(repository, place, SnapshotFilter(), options, reporter, cancelled)
        errors = reporter.progress.errors
    result = {"snapshot": done.snapshot_id.hex(), "target": what.target, "problems": errors}
    result |= {name: value for name, value in msgspec.to_builtins(done.summary).items() if isinstance(value, int)}
    return "incomplete" if errors else "done", f"{errors} items could not be restored" if errors else "", result


def _open(order: Order, take_room: Callable[[int], None] | None = None) -> Repository:
    return open_to(order.place.config(), SystemClock(), order.opening, take_room=take_room)


def _routine(order: Order, job: JobSpec) -> Routine:
    hooks = Hooks(
        before=order.hooks.before,
        after=order.hooks.after,
        failure=order.hooks.failure,
        environment=ENVIRONMENT,
        timeout_s=_HOOK_S,
        output=2,
    )
    backup: BackupStep | BackupsStep | None = (
        _backup_step(job, job.source, order.host) if job.source is not None else None
    )
    concerns = _concerns(job, order.host)
    if job.proxmox is not None and order.cluster is not None:
        from api.runners.guests import GuestBackups  # noqa: PLC0415 - packages that few need

        guests = GuestBackups(job, job.proxmox, order.cluster, username=_username(), program=PROGRAM)
        backup, concerns = BackupsStep(back_up=guests.back_up), guests.concerns
    forget = None
    if job.retention is not None:
        options = ForgetOptions(rules=job.retention.rules())
        forget = ForgetStep(options=options, concerns=concerns)
    return Routine(
        name=order.name,
        hooks=hooks,
        backup=backup,
        forget=forget,
        prune=PruneOptions() if job.kind is Kind.PRUNE else None,
        check=_check_options(job) if job.kind is Kind.CHECK else None,
    )


def _backup_step(job: JobSpec, source: Source, host: AllowedHost | None) -> BackupStep:
    paths = [os.fsencode(path) for path in source.paths]
    options = BackupOptions(
        paths=tuple(sorted(set(paths))),
        hostname=_host(job, host),
        username=_username(),
        program=PROGRAM,
        excludes=source.excludes,
        tags=job.tags,
    )
    open_source = _files(source, paths) if host is None else _files_of(host, source, paths)
    return BackupStep(options=options, open_source=open_source)


def _files(source: Source, paths: list[bytes]) -> Callable[[Reporter], FileSystemSource]:
    rules, owners = exclude_rules(source), Owners()

    def open_source(reporter: Reporter) -> FileSystemSource:
        return FileSystemSource(
            paths,
            rules=rules,
            one_file_system=source.one_file_system,
            with_atime=False,
            owners=owners,
            on_error=lambda path, error: reporter.problem(path, error.strerror or str(error)),
        )

    return open_source


def _files_of(host: AllowedHost, source: Source, paths: list[bytes]) -> Callable[[Reporter], StreamedSource]:
    from bfrepo.sources.ssh.source import SshSource  # noqa: PLC0415 - only who backs up other hosts needs paramiko
    from bfrepo.ssh.config import SshSettings  # noqa: PLC0415

    settings = SshSettings(identity_file=host.identity_file, known_hosts=host.known_hosts, config_file=host.config_file)

    def open_source(reporter: Reporter) -> SshSource:
        return SshSource(
            RemoteHost(host.address, host.user, host.port),
            sorted(set(paths)),
            settings,
            rules=exclude_rules(source),
            one_file_system=source.one_file_system,
            sudo=host.sudo,
            on_error=lambda path, error: reporter.problem(path, error.strerror or str(error)),
        )

    return open_source


def _concerns(job: JobSpec, host: AllowedHost | None) -> Callable[[Snapshot], bool]:
    """A backup's retention is about the snapshots that the job makes; a job that forgets is about all of them."""
    if job.source is None:
        return lambda snapshot: True
    name, paths, tags = _host(job, host), {os.fsencode(path) for path in job.source.paths}, set(job.tags)
    return lambda snapshot: snapshot.hostname == name and set(snapshot.paths) == paths and tags <= set(snapshot.tags)


def _check_options(job: JobSpec) -> CheckOptions:
    return CheckOptions(read=parse_sample(job.read_data) if job.read_data else None)


def _host(job: JobSpec, host: AllowedHost | None) -> str:
    return job.host or (host.address if host is not None else socket.gethostname())


def _username() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _account(step: StepResult) -> dict[str, Any]:
    """What a step has done, for the run's result."""
    match step.outcome:
        case BackupResult() as made:
            snapshot = {"snapshot": made.snapshot_id.hex() if made.snapshot_id else None}
            return {**snapshot, **msgspec.to_builtins(made.snapshot.summary)}
        case SeveralBackups() as several:
            ids = [each.snapshot_id.hex() for each in several.made if each.snapshot_id]
            counted = ("size", "data_added", "data_stored", "errors")
            sums = {name: sum(getattr(each.snapshot.summary, name) for each in several.made) for name in counted}
            return {"snapshots": ids, "guests": len(several.made), "guests_failed": several.failed, **sums}
        case ForgetPlan() as plan:
            return {"snapshots_kept": len(plan.kept), "snapshots_removed": len(plan.removed)}
        case PruneResult() as pruned:
            names = ("deleted", "deleted_size", "condemned", "condemned_size", "repacked", "written")
            return {f"packs_{name}": getattr(pruned, name) for name in names}
        case CheckResult() as found:
            return {
                "snapshots": found.snapshots,
                "packs": found.packs,
                "bytes_read": found.bytes_read,
                "errors": found.errors,
                "findings": [finding.message for finding in found.findings[:_SHOWN]],
            }
    return {}


def _full(error: BackupForgeError) -> str:
    return f"{error} ({error.hint})" if error.hint else str(error)


if __name__ == "__main__":
    sys.exit(main())
