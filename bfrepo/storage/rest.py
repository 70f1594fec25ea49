"""Objects behind restic's REST protocol: on restic's rest-server, on `rclone serve restic`, or on a server of ours.

The protocol knows five types of objects beside config, and no others:

    ours      packs  keys  index  snapshots  claims
    theirs    data   keys  index  snapshots  locks     locks are what append-only servers let their clients delete

    HEAD, GET (with Range), POST, DELETE   <path>/<type>/<name>, <path>/config    one object
    GET                                    <path>/<type>/                         the listing, as JSON
    POST                                   <path>/?create=true                    makes the place
    (https://restic.readthedocs.io/en/stable/REST_backend.html, and rest-server's and rclone's own code)

What servers do with a name that is taken
    rest-server refuses with 403 what is there already. For us that is no error: it is the same object. Since its answer
    may be lost with the connection, we look what is there before we call an upload failed.
    rclone (unless it is append-only) replaces what is there, in place, and a reader would meet a part of it. Packs, the
    only objects that are read in parts, have salts, so nobody else makes one of the same name; but an earlier try of
    our own may have stored it without our hearing of it. So with that server we look before a second try. Of anything
    else a reader who meets a part reads again.
    A second `config` is refused by rest-server. With rclone we look before and after; only of two that are made within
    the same blink of an eye both may believe to be the first, and whoever opens the repository finds that of the last.

What names mean to servers
    Names are BLAKE3 hashes, and rest-server checks that they are the SHA-256 of what it gets unless it is started with
    --no-verify-upload. `create` finds that out, with an object that it deletes again.

What servers say about what is not there
    404, but rclone says that for some failures too (https://github.com/restic/restic/issues/4612), and gives an empty
    listing for a folder that is gone. So a 404 upon a deletion is looked at once more, and where there was a config in
    the life of this object, there has to be one before anything is believed to be missing or empty.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import Final, NamedTuple, NoReturn

from blake3 import blake3
from urllib3.response import BaseHTTPResponse

from bfrepo.core.errors import (
    DamagedObject,
    RepositoryExists,
    StorageDenied,
    StorageError,
    StorageObjectExists,
    StorageObjectMissing,
)
from bfrepo.core.ids import is_object_name
from bfrepo.core.protocols import Buffer
from bfrepo.core.units import KIB
from bfrepo.storage.base import CONFIG_NAME, ObjectInfo, ObjectKind, Upload
from bfrepo.storage.layout import DIRECTORY_KINDS, describe, object_path
from bfrepo.storage.options import RestOptions
from bfrepo.storage.places import RestLocation
from bfrepo.storage.rest_answers import DONE, Listed, extent, name_of, read_listing, read_whole, sized
from bfrepo.storage.rest_client import LISTING, STUCK_AFTER_S, RestClient
from bfrepo.storage.rest_errors import refused
from bfrepo.storage.rest_upload import RestUpload, Spools
from bfrepo.storage.spool import Spool

_TYPES: Final = {ObjectKind.PACK: "data", ObjectKind.CLAIM: "locks"}
_BLOCK: Final = 256 * KIB

_PROBE: Final = b"BackupForge asks whether objects may be named by their BLAKE3\n"
_PROBE_NAME: Final = "4f00fc561eda8847b1c2c3b49dedd867676dbe2f2bcf42e424123d27860d33ee"
"""What `create` stores for a moment among the claims. A crash may leave it there, so it is no claim."""

_NO_HEADERS: Final[Mapping[str, str]] = {}

_CONFIG_FRESH_S: Final = 2.0
"""How long a config that was seen says that the repository is there. A backup begins with several empty listings."""

_SETTLE_S: Final = (0.02, 0.1, 0.5)
"""How long to wait, again and again, for an object that rclone may still be writing."""


class RestBackend:
    """A repository on a REST server. Thread rule and errors are those of `Backend`."""

    def __init__(self, location: RestLocation, options: RestOptions, *, stuck_after_s: float = STUCK_AFTER_S) -> None:
        self._client = RestClient(location, options, stuck_after_s=stuck_after_s)
        self._connections = options.connections
        self._spools = Spools(keep=options.connections)
        self._config_seen = False
        self._config_seen_at = -math.inf
        self._tried: set[bytes] = set()
        """The names of what we tried to store, whether or not we heard that it is."""

    @property
    def location(self) -> str:
        """The URL, without the password."""
        return self._client.shown

    @property
    def connections(self) -> int:
        """As many as the options say."""
        return self._connections

    def create(self) -> None:
        """See `Backend.create`. Raises StorageDenied for a server that wants names to be SHA-256 hashes."""
        if self._size(ObjectKind.CONFIG, CONFIG_NAME) is not None or any(map(self._holds_any, DIRECTORY_KINDS)):
            raise RepositoryExists(f"{self.location} is not empty", hint="choose another path for the repository")
        with self._client.ask("POST", "?create=true", "a new repository", body=memoryview(b"")) as answer:
            if answer.status not in DONE:
                raise refused("a new repository", self.location, answer.status, answer.headers)
        self._try_name()
        self.delete(ObjectKind.CLAIM, _PROBE_NAME)

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        """See `Backend.list`. The whole listing is read before the first item is given."""
        if kind is ObjectKind.CONFIG:
            size = self._size(kind, CONFIG_NAME)
            yield from [] if size is None else [ObjectInfo(CONFIG_NAME, size)]
            return
        listed = self._listing(kind)
        if listed is None:
            self._incomplete(kind)
        config_is_fresh = time.monotonic() - self._config_seen_at < _CONFIG_FRESH_S
        if not listed and kind is not ObjectKind.CLAIM and not config_is_fresh:  # of claims there are mostly none
            self._check_place()
        ours = [each for each in listed if is_object_name(name := name_of(each)) and name != _PROBE_NAME]
        yield from sized(ours, partial(self._size, kind), self._connections)

    def size(self, kind: ObjectKind, name: str) -> int:
        """See `Backend.size`."""
        size = self._size(kind, name)
        if size is None:
            raise self._gone(kind, name)
        return size

    def load(self, kind: ObjectKind, name: str) -> bytes:
        """See `Backend.load`. Bytes that do not hash to the name are asked for again where they may be on their way."""
        data = self._load(kind, name)
        if kind is ObjectKind.CONFIG:
            self._note_config()
        elif self._client.is_rclone:
            for pause in _SETTLE_S:
                if blake3(data).hexdigest() == name:
                    break
                time.sleep(pause)
                data = self._load(kind, name)
        return data

    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        """See `Backend.read`."""
        if not length:
            self._check_end(kind, name, offset)
            return b""
        with self._range(kind, name, offset, length) as answer:
            data = answer.read(length)
            self._check_whole(kind, name, length, len(data))
            return data

    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
        """See `Backend.read_into`."""
        rest = buffer.cast("B")
        length = len(rest)
        if not length:
            self._check_end(kind, name, offset)
            return
        with self._range(kind, name, offset, length) as answer:
            while rest and (data := answer.read(min(len(rest), _BLOCK))):
                rest[: len(data)] = data
                rest = rest[len(data) :]
            self._check_whole(kind, name, length, length - len(rest))

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        """See `Backend.save`."""
        stored = memoryview(data).cast("B")
        if kind is ObjectKind.CONFIG:
            self._save_config(name, stored)
        else:
            self._store(kind, name, stored)

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        """See `Backend.upload`. It is kept in memory until its commit, which raises whatever goes wrong."""
        if kind is ObjectKind.CONFIG:
            raise ValueError("config is saved whole, never uploaded")
        return RestUpload(self._spools, partial(self._store, kind))

    def send(self, kind: ObjectKind, name: str, spool: Spool, *, cold: bool) -> None:
        """See `SpoolSender`. Takes no memory for what is in the spool."""
        with spool.view() as stored:
            self._store(kind, name, stored)

    def delete(self, kind: ObjectKind, name: str) -> None:
        """See `Backend.delete`."""
        self.take(kind, name)

    @property
    def takes(self) -> bool:
        """See `Taker`. rclone tells; rest-server says the same whether or not there was anything."""
        return self._client.is_rclone

    def take(self, kind: ObjectKind, name: str) -> bool:
        """See `Taker`."""
        with self._ask("DELETE", kind, name) as answer:
            status = answer.status
            if status not in DONE and status != HTTPStatus.NOT_FOUND:
                raise self._refusal(kind, name, answer)
        if status == HTTPStatus.NOT_FOUND and self._size(kind, name) is not None:
            raise self._failure(kind, name, "it is still there after its deletion")
        if kind is ObjectKind.CONFIG:
            self._config_seen = False
        return status != HTTPStatus.NOT_FOUND

    def close(self) -> None:
        """See `Backend.close`."""
        self._client.close()
        self._spools.clear()

    def _ask(
        self,
        method: str,
        kind: ObjectKind,
        name: str,
        headers: Mapping[str, str] = _NO_HEADERS,
        body: memoryview | None = None,
    ) -> AbstractContextManager[BaseHTTPResponse]:
        """A request about one object."""
        path = object_path(kind, name)  # refuses what is no name
        if kind is not ObjectKind.CONFIG:
            path = f"{_type(kind)}/{name}"
        return self._client.ask(method, path, describe(kind, name), headers, body)

    def _refusal(self, kind: ObjectKind, name: str, answer: BaseHTTPResponse) -> StorageError:
        return refused(describe(kind, name), self.location, answer.status, answer.headers)

    def _failure(self, kind: ObjectKind, name: str, what: str) -> StorageError:
        return StorageError(f"{describe(kind, name)} in {self.location}: {what}")

    # --- what is there

    def _size(self, kind: ObjectKind, name: str) -> int | None:
        """An object's size; None where there is none."""
        with self._ask("HEAD", kind, name) as answer:
            if answer.status == HTTPStatus.NOT_FOUND:
                return None
            if answer.status != HTTPStatus.OK:
                raise self._refusal(kind, name, answer)
            size = answer.headers.get("Content-Length", "")
        if not size.isdecimal():
            raise self._failure(kind, name, "the server does not tell its size")
        return int(size)

    def _listing(self, kind: ObjectKind) -> Sequence[Listed | str] | None:
        """What the server lists; None where it knows no such place."""
        subject = f"listing of {kind.value}"
        with self._client.ask("GET", f"{_type(kind)}/", subject, {"Accept": LISTING}) as answer:
            if answer.status == HTTPStatus.NOT_FOUND:
                return None
            if answer.status != HTTPStatus.OK:
                raise refused(subject, self.location, answer.status, answer.headers)
            return read_listing(answer, subject, self.location)

    def _missing(self, kind: ObjectKind, name: str) -> StorageError:
        """The error for an object that a GET did not find. It is no proof: rclone says 404 for some failures, too."""
        if self._size(kind, name) is not None:
            return self._failure(kind, name, "the server cannot read it")
        return self._gone(kind, name)

    def _gone(self, kind: ObjectKind, name: str) -> StorageObjectMissing:
        """The error for an object that is not there. Raises StorageError when nothing is there any more."""
        if kind is not ObjectKind.CONFIG:
            self._check_place()
        return StorageObjectMissing(f"{describe(kind, name)} is missing in {self.location}")

    def _holds_any(self, kind: ObjectKind) -> bool:
        """Whether anything is listed, also what is none of ours, but for what an interrupted `create` has left."""
        return any(name != _PROBE_NAME for name in map(name_of, self._listing(kind) or []))

    def _check_place(self) -> None:
        """Raises StorageError if there was a repository here, and is none."""
        if not self._config_seen:
            return
        if self._size(ObjectKind.CONFIG, CONFIG_NAME) is None:
            self._config_seen_at = -math.inf
            raise StorageError(
                f"the repository in {self.location} has vanished", hint="is its volume mounted on the server?"
            )
        self._note_config()

    def _note_config(self) -> None:
        self._config_seen, self._config_seen_at = True, time.monotonic()

    def _incomplete(self, kind: ObjectKind) -> NoReturn:
        raise StorageError(
            f"{self.location} is not a complete repository: there is no {_type(kind)}/ in it",
            hint="check the location, and whether the repository's volume is mounted on the server",
        )

    # --- reading

    def _load(self, kind: ObjectKind, name: str) -> bytes:
        with self._ask("GET", kind, name) as answer:
            if answer.status == HTTPStatus.OK:
                return read_whole(answer, describe(kind, name), self.location)
            if answer.status != HTTPStatus.NOT_FOUND:
                raise self._refusal(kind, name, answer)
        raise self._missing(kind, name)

    @contextmanager
    def _range(self, kind: ObjectKind, name: str, offset: int, length: int) -> Iterator[BaseHTTPResponse]:
        """An answer that begins with the `length` bytes at `offset`, of which there is at least one."""
        wanted = {"Range": f"bytes={offset}-{offset + length - 1}"}
        missing = False
        with self._ask("GET", kind, name, wanted) as answer:
            if answer.status == HTTPStatus.NOT_FOUND:
                missing = True
            else:
                self._seek(answer, kind, name, offset, length)
                yield answer
        if missing:
            self._check_end(kind, name, offset + length)  # rclone, too, where an offset is beyond any file
            raise self._missing(kind, name)

    def _seek(self, answer: BaseHTTPResponse, kind: ObjectKind, name: str, offset: int, length: int) -> None:
        """Read up to the bytes that are wanted, which servers may begin with. Raises if they are not in the answer."""
        if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise self._too_short(kind, name, offset + length)
        if answer.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise self._refusal(kind, name, answer)
        told = extent(answer)
        if told is not None and offset + length > told[2]:
            raise self._too_short(kind, name, offset + length)
        if told is None or told[0] > offset or told[1] < offset + length:
            raise self._failure(kind, name, "the server answers with another range")
        begin = told[0]
        while begin < offset:
            skipped = len(answer.read(min(offset - begin, _BLOCK)))
            self._check_whole(kind, name, 1, skipped)
            begin += skipped

    def _check_end(self, kind: ObjectKind, name: str, end: int) -> None:
        """Raises DamagedObject if the object has less than `end` bytes."""
        if end > self.size(kind, name):
            raise self._too_short(kind, name, end)

    def _too_short(self, kind: ObjectKind, name: str, end: int) -> DamagedObject:
        return DamagedObject(
            f"{describe(kind, name)} in {self.location} is too short: it ends before byte {end}",
            hint="run `backupforge check` to see what depends on it",
        )

    def _check_whole(self, kind: ObjectKind, name: str, wanted: int, got: int) -> None:
        if got < wanted:
            raise self._failure(kind, name, "the answer broke off")

    # --- writing

    def _save_config(self, name: str, data: memoryview) -> None:
        if self._size(ObjectKind.CONFIG, name) is not None:
            raise self._config_exists()
        refusal = self._post(ObjectKind.CONFIG, name, data)
        if refusal is not None:
            raise refusal.error if self._size(ObjectKind.CONFIG, name) is None else self._config_exists()
        if self._client.is_rclone and self._load(ObjectKind.CONFIG, name) != data:
            raise self._config_exists()
        self._note_config()

    def _config_exists(self) -> StorageObjectExists:
        return StorageObjectExists(
            f"config in {self.location} exists already", hint="there is a repository: use it, or choose another place"
        )

    def _store(self, kind: ObjectKind, name: str, data: memoryview) -> None:
        """Store an object, unless the server has it."""
        object_path(kind, name)  # refuses what is no name
        identifier = bytes.fromhex(name)
        if self._client.is_rclone and identifier in self._tried and self._is_stored(kind, name, len(data)):
            return
        self._tried.add(identifier)
        try:
            refusal = self._post(kind, name, data)
        except StorageError:
            # Perhaps the answer was lost, or a refusal: rest-server lets go of a connection whose object it has.
            with suppress(StorageError):
                if self._is_stored(kind, name, len(data)):
                    return
            raise
        if refusal is not None and not (
            refusal.status == HTTPStatus.FORBIDDEN and self._is_stored(kind, name, len(data))
        ):
            raise refusal.error

    def _post(self, kind: ObjectKind, name: str, data: memoryview) -> _Refusal | None:
        """Send an object; None when the server has stored it. Raises StorageError when the server did not answer."""
        with self._ask("POST", kind, name, body=data) as answer:
            return None if answer.status in DONE else _Refusal(answer.status, self._refusal(kind, name, answer))

    def _is_stored(self, kind: ObjectKind, name: str, size: int) -> bool:
        """Whether the server has the object in its full size: its last byte is read, as rclone remembers sizes."""
        if not size:
            return self._size(kind, name) == 0
        wanted = {"Range": f"bytes={size - 1}-{size - 1}"}
        with self._ask("GET", kind, name, wanted) as answer:
            if answer.status != HTTPStatus.PARTIAL_CONTENT:
                return False
            return extent(answer) == (size - 1, size, size) and len(answer.read(1)) == 1

    def _try_name(self) -> None:
        """Store an object as we name them. Raises StorageDenied if the server wants names to be SHA-256 hashes."""
        probe, other = memoryview(_PROBE), hashlib.sha256(_PROBE).hexdigest()
        refusal = self._post(ObjectKind.CLAIM, _PROBE_NAME, probe)
        if refusal is None or self._is_stored(ObjectKind.CLAIM, _PROBE_NAME, len(probe)):
            return
        if refusal.status == HTTPStatus.BAD_REQUEST and self._post(ObjectKind.CLAIM, other, probe) is None:
            self.delete(ObjectKind.CLAIM, other)
            raise StorageDenied(
                f"{self.location}: the server takes only objects that are named by their SHA-256, as restic's are",
                hint="start rest-server with --no-verify-upload; every object is checked here, by its BLAKE3",
            )
        raise refusal.error


class _Refusal(NamedTuple):
    """A server's answer to what it will not store, and the error for it."""

    status: int
    error: StorageError


def _type(kind: ObjectKind) -> str:
    return _TYPES.get(kind, kind.value)
