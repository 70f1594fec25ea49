"""Listing a host, by the best way it has; on request beside what else takes time at the beginning."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future

from bfrepo.core.errors import SourceError
from bfrepo.sources.ssh.crawl import list_by_sftp
from bfrepo.sources.ssh.find import add_owners, list_by_find
from bfrepo.sources.ssh.host import HostLink
from bfrepo.sources.ssh.listing import Listing
from bfrepo.ssh.errors import SshError


class Lister:
    """Lists paths of a host, none of which is below another. `begin` and `list` are called by one thread."""

    def __init__(self, link: HostLink, paths: Sequence[bytes], *, one_file_system: bool, sudo: bool) -> None:
        """Connects to nothing yet."""
        self.link = link
        self._paths = paths
        self._one_file_system = one_file_system
        self._sudo = sudo
        self._ahead: Future[Listing] | None = None

    def begin(self) -> None:
        """Begin what the next `list` gives."""
        ahead = self._ahead = Future[Listing]()
        # It is a daemon: a program that ends for another reason does not wait for a host.
        threading.Thread(target=self._run, args=(ahead,), name="lister", daemon=True).start()

    def list(self) -> Listing:
        """Everything that is there. Raises SourceError."""
        ahead, self._ahead = self._ahead, None
        return self._list() if ahead is None else ahead.result()

    def _run(self, ahead: Future[Listing]) -> None:
        try:
            ahead.set_result(self._list())
        except BaseException as error:  # whatever it is, it is for who asks for the result
            ahead.set_exception(error)

    def _list(self) -> Listing:
        while True:
            try:
                listing = list_by_find(self.link, self._paths, one_file_system=self._one_file_system)
                if listing is None:
                    listing = self._crawl()
                elif not listing.has_tar:
                    add_owners(self.link, listing)
            except SshError as error:
                self.link.failed(error)
            else:
                self.link.worked()
                return listing

    def _crawl(self) -> Listing:
        for wanted, option in ((self._sudo, "--remote-sudo"), (self._one_file_system, "--one-file-system")):
            if wanted:
                raise SourceError(
                    f"{self.link.host.shown} has no GNU find, or runs no commands: {option} needs one",
                    hint="install findutils there, or do without the option",
                )
        session = self.link.open_sftp()
        try:
            return list_by_sftp(session, self._paths)
        finally:
            session.close()
