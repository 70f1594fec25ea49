"""One object on its way into a store: counted before it comes, checked while it comes, and seen only when it is whole.

Its methods block, and may be called from any thread, one after the other or all at once: a server that ends gives up
uploads while a thread still writes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from http import HTTPStatus

from api.problems import Problem
from api.services.store_files import Incoming, ObjectPath, WrongName
from api.services.stores import Store, Stores
from bfrepo.core.protocols import Buffer


class Upload:
    """An upload under way. `finish` or `give_up` ends it; to give up what is finished does nothing."""

    def __init__(self, stores: Stores, store: Store, path: ObjectPath, size: int, likely: str) -> None:
        """Raises Problem: 403 for what is there already, 507 for what the tenant may not store; OSError."""
        if store.folder.size(path) is not None:
            raise _is_there(path)
        self._stores = stores
        self.store = store
        self._path = path
        self._size = size
        self._lock = threading.Lock()
        self._ended = False
        self._incoming = Incoming(store.folder, path, size, likely)
        try:
            stores.reserve(store, size)
        except BaseException:
            self._incoming.abort()
            raise

    def write(self, blocks: Iterable[Buffer]) -> None:
        """The next bytes. Raises OSError; ConnectionAbortedError after the end."""
        with self._lock:
            self._check_open()
            self._incoming.write(blocks)

    def finish(self) -> str:
        """Put the object into its place. Returns the hash that its name is. Raises Problem: 400, 403; OSError."""
        with self._lock:
            self._check_open()
            try:
                self._incoming.commit()
            except WrongName as error:
                raise Problem(HTTPStatus.BAD_REQUEST, "wrong-name", str(error)) from error
            except FileExistsError as error:
                raise _is_there(self._path) from error
            self._ended = True
            return self._incoming.hash

    def give_up(self) -> None:
        """Leave nothing of what is not finished."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
            self._incoming.abort()
            self._stores.release(self.store, self._size)

    def _check_open(self) -> None:
        if self._ended:
            raise ConnectionAbortedError("the upload was given up")


def _is_there(path: ObjectPath) -> Problem:
    return Problem(HTTPStatus.FORBIDDEN, "exists", f"{path} is there already, and nothing is ever overwritten")
