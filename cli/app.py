"""What a command has in its hands: settings, output, the clock, the repository, and a frame for long work.

The library is imported only when a command opens something, so that help never waits for it.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Concatenate, ParamSpec

import click

from bfrepo.core.clock import Clock, SystemClock
from bfrepo.core.errors import BackupForgeError, WrongPassword
from bfrepo.core.units import MIB
from cli.log import LogFile
from cli.options import Flags
from cli.output import Output
from cli.passwords import TRIES, PasswordSource
from cli.progress import Display
from cli.render import shown
from cli.settings import Settings, resolve
from cli.signals import Cancellation, handling, note_interrupts

if TYPE_CHECKING:
    from bfrepo.repository.repository import Repository
    from bfrepo.storage.base import Backend
    from bfrepo.storage.limit import Limits
    from bfrepo.storage.pausing import Pausing

P = ParamSpec("P")

_M_TRIM_THRESHOLD = -1  # of mallopt(3), as is the next
_M_MMAP_THRESHOLD = -3


@dataclass(frozen=True, slots=True)
class Work:
    """Long work that is going on: where it reports to, and whether somebody wants it to end."""

    display: Display
    cancelled: Cancellation


class App:
    """One run of one command."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock: Clock = clock or SystemClock()
        log = LogFile(settings.log_file, self.clock, as_json=settings.log_json) if settings.log_file else None
        self._cancellation = Cancellation()
        self._approached: Backend | None = None
        self.output = Output(as_json=settings.json, quiet=settings.quiet, verbosity=settings.verbosity, log=log)

    def open_backend(self, location: str | None = None, *, hot: str | None = None) -> Backend:
        """The storage at a location, and at `hot` its hot part; by default those of the settings."""
        if location is None:
            location, hot = self.settings.location, self.settings.repository_hot
        if not hot:
            return self.open_storage(location)
        from bfrepo.storage.hotcold import HotColdBackend

        return HotColdBackend(self.open_storage(hot), self.open_storage(location))

    def open_storage(self, location: str, *, of_restic: bool = False) -> Backend:
        """The storage at one location, whatever part of a repository it holds; or all of one of restic."""
        from bfrepo.storage.layout import OF_RESTIC, USUAL
        from bfrepo.storage.location import open_backend, parse_location
        from bfrepo.storage.retry import RetryPolicy

        place = parse_location(location)
        if place.remote:
            note_interrupts(self._cancellation)
        return open_backend(
            place,
            options=self.settings.storage,
            clock=self.clock,
            limits=self._limits,
            retries=RetryPolicy(pausing=self._pausing, notify=self._tell),
            folders=OF_RESTIC if of_restic else USUAL,
        )

    def open_bare_storage(self, location: str) -> Backend:
        """The storage at one location as it is: nothing is tried again or limited."""
        from bfrepo.storage.location import open_bare_backend, parse_location

        return open_bare_backend(parse_location(location), options=self.settings.storage, clock=self.clock)

    @functools.cached_property
    def _limits(self) -> Limits:
        """One for all storages of this run, as the line is one."""
        from bfrepo.storage.limit import Limits

        return Limits(self.settings.limit_upload, self.settings.limit_download, self._pausing)

    @functools.cached_property
    def _pausing(self) -> Pausing:
        from bfrepo.storage.pausing import Pausing

        return Pausing(clock=self.clock, cancelled=lambda: self._cancellation.requested)

    def _tell(self, message: str) -> None:
        """What a storage has to say, from any thread."""
        self.output.notice("warning", b"", message)

    def approach_repository(self) -> None:
        """Ask a storage that is far away for what opens the repository, while the command gets ready to open it.

        The next `open_repository` of the settings' location takes it over.
        """
        if self.settings.repository and self._is_remote(None):
            from bfrepo.repository.early import EarlyBackend

            with cycles_rarely_collected():  # a library that is loaded makes many objects, and no garbage
                self._approached = EarlyBackend(self.open_backend(), self.settings.cache_dir)

    def leave_repository(self) -> None:
        """Let go of what was approached and not opened. Idempotent."""
        if self._approached is not None:
            self._approached.close()
            self._approached = None

    def open_repository(
        self,
        location: str | None = None,
        password: PasswordSource | None = None,
        *,
        hot: str | None = None,
        ahead: Sequence[str] = (),
        read_only: bool = False,
    ) -> Repository:
        """The repository, opened. Who types the password may err a few times.

        `ahead` is what will be listed first, such as "snapshots": see `bfrepo.repository.repository.open_repository`.
        With `read_only` whatever would change the repository is refused.
        """
        approached = None
        if location is None:
            approached, self._approached = self._approached, None
        from bfrepo.repository.repository import open_repository
        from bfrepo.storage.base import ObjectKind
        from bfrepo.storage.readonly import ReadOnlyBackend

        backend = approached or self.open_backend(location, hot=hot)
        if read_only:
            backend = ReadOnlyBackend(backend)
        source = password or self.settings.password
        asked = 0

        def ask() -> bytes:
            nonlocal asked
            asked += 1
            return source.read(f"password for {shown(backend.location)}: ")

        while True:
            try:
                repository = open_repository(
                    backend,
                    self.clock,
                    ask,
                    cache_dir=self.settings.cache_dir,
                    keep_objects=self._is_remote(location),
                    ahead=[ObjectKind(each) for each in ahead],
                )
                _refuse_downgrade(repository, source)
                return repository
            except WrongPassword as error:
                if source.given or asked >= TRIES:
                    backend.close()
                    raise
                self.output.notice("warning", b"", str(error))
            except BaseException:
                backend.close()
                raise

    def _is_remote(self, location: str | None) -> bool:
        from bfrepo.storage.location import parse_location

        return parse_location(location or self.settings.location).remote

    @contextmanager
    def working(self, *, unit: str = "files", streaming: bool = True) -> Iterator[Work]:
        """A frame for work that takes a while: progress is shown, and Ctrl-C ends it well.

        `unit` says what is counted; without `streaming` the command's result is one JSON document.
        """
        self.output.streaming = streaming
        self.output.outlives_readers = True
        display = Display(self.output, self.clock, unit=unit, shows_progress=self.settings.progress)
        cancellation = self._cancellation = Cancellation()

        def on_stop() -> None:
            display.announce("stopping; what is under way is finished first (once more to stop at once)")

        _allow_open_files()
        _keep_memory()
        with cycles_rarely_collected(), handling(cancellation, on_stop, display.show_now):
            display.start()
            try:
                yield Work(display, cancellation)
            finally:
                display.stop()


def pass_app(function: Callable[Concatenate[App, P], int | None]) -> Callable[P, int | None]:
    """A decorator for a command's function: it is given an App made from the global options."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> int | None:
        app = App(resolve(click.get_current_context().ensure_object(Flags)))
        try:
            return function(app, *args, **kwargs)
        except BackupForgeError as error:
            app.output.record("error", shown(str(error)))  # the screen gets it from whoever ends the program
            raise
        finally:
            app.leave_repository()

    return call


def _refuse_downgrade(repository: Repository, password: PasswordSource) -> None:
    """Whoever gives a password expects encryption:

    a store must not talk them out of it by showing a plain repository.
    """
    if password.given and not repository.keys.encrypted:
        raise BackupForgeError(
            f"a password was given, but the repository in {repository.location} is not encrypted",
            hint="if that is meant to be so, give no password; if not, somebody has replaced the repository",
        )


def _keep_memory() -> None:
    """Use freed memory again rather than give it back and ask for more: on virtual machines that is what is dear."""
    allocator = ctypes.CDLL(None)
    if hasattr(allocator, "mallopt"):  # glibc's; others have no such switch
        allocator.mallopt(_M_TRIM_THRESHOLD, 512 * MIB)
        allocator.mallopt(_M_MMAP_THRESHOLD, 32 * MIB)


@contextmanager
def cycles_rarely_collected() -> Iterator[None]:
    """Work on a million files makes short-lived objects with hardly a cycle among them: look for cycles less often.

    Only while the work goes on: a cycle that holds buffers, as that of an error and its traceback does, must not stay
    for long in a process that does something else afterwards.
    """
    usual = gc.get_threshold()
    gc.set_threshold(100_000)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _allow_open_files() -> None:
    """Allow this process as many open files as the system lets it have: deep trees hold one for each directory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
