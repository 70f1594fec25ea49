"""Objects in a bucket of S3, or of anything that speaks S3's language: MinIO, Ceph, B2, Wasabi, R2, rclone.

Keys are the repository's prefix and the path that storage/layout.py gives. What S3 promises by itself carries most of
the contract: a PUT is atomic and durable when it is answered, and since 2020 listings and reads see it at once. (Of
servers that are slower to show what was written, docs/how-to/s3.md says what that means.)

    config     saved with `If-None-Match: *`, so that one of several that save it at once wins. Where a server does not
               have this (B2 says so, with 501, and gets a plain PUT; rclone does not say so) only the look before it
               tells whether there is one: two `init` at the same moment may both succeed, and the later config stays
    packs      wait in a spool until their name is known; see s3_transfer.py
    class      packs of file data alone get `s3.storage-class`; all else has to be at hand
    locks      with `s3.object-lock-mode` and `-days` every object but claims is locked against deletion for so long: a
               lock on packs alone would leave whoever has the keys of the bucket free to delete config, keys and
               snapshots, without which packs are of no use. `extend_lock` begins the time again
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from typing import Any, Final

from bfrepo.core.clock import Clock, SystemClock
from bfrepo.core.errors import DamagedObject, InvalidValue, RepositoryExists, StorageError, StorageObjectExists
from bfrepo.core.protocols import Buffer
from bfrepo.storage.base import CONFIG_NAME, ObjectInfo, ObjectKind, Upload
from bfrepo.storage.layout import USUAL, describe, parse_object_path, path_in
from bfrepo.storage.options import S3Options
from bfrepo.storage.places import S3Location
from bfrepo.storage.s3_client import make_client
from bfrepo.storage.s3_errors import check_length, code_of, error_of, required, status_of, translated
from bfrepo.storage.s3_restore import S3Archive
from bfrepo.storage.s3_transfer import Sender, fill, read_exactly
from bfrepo.storage.spool import Spool
from bfrepo.storage.warming import Archive

_DELETED_AT_ONCE: Final = 1000
"""Keys that one DeleteObjects takes."""

_LOCK_MODES: Final = frozenset({"GOVERNANCE", "COMPLIANCE"})
_UNCONDITIONAL: Final = frozenset({"NotImplemented", "InvalidArgument", "InvalidRequest", "NotSupported", "501"})
"""How servers say that they do not know `If-None-Match` in a PUT."""


class S3Backend:
    """A repository in a bucket, or below a prefix in it. Thread rule and errors are those of `Backend`.

    The constructor sends nothing. It raises UsageError, InvalidValue or StorageDenied for what cannot be.
    """

    delete_limit = _DELETED_AT_ONCE

    def __init__(
        self,
        location: S3Location,
        options: S3Options,
        *,
        clock: Clock | None = None,
        folders: Mapping[ObjectKind, str] = USUAL,
    ) -> None:
        """`folders` names the directory of a kind that is not the usual one, from which objects can be read."""
        self._location = location
        self._folders = folders
        self._options = options
        self._clock = clock or SystemClock()
        self._lock_mode = _lock_mode(options)
        self._bucket = location.bucket
        self._prefix = f"{location.prefix}/" if location.prefix else ""
        self._client = make_client(location, options)
        self._sender = Sender(self._client, self._bucket)
        self._archive = S3Archive(
            self._client, self._bucket, f"{self._prefix}{ObjectKind.PACK.value}/", self._key, self.location, options
        )

    @property
    def location(self) -> str:
        """The URL."""
        return self._location.shown

    @property
    def connections(self) -> int:
        """What the option says."""
        return self._options.connections

    def create(self) -> None:
        """See `Backend.create`. The bucket has to be there."""
        with translated("cannot make a repository", self.location):
            page = self._list_page(self._prefix, MaxKeys=2)
        # A key that ends with the slash is what web consoles make for an empty folder.
        if any(each["Key"] != self._prefix for each in page.get("Contents", ())):
            raise RepositoryExists(
                f"{self.location} is not empty", hint="choose a new prefix in the bucket for the repository"
            )

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        """See `Backend.list`. One request for a thousand objects."""
        prefix = f"{self._prefix}{kind.value}" + ("" if kind is ObjectKind.CONFIG else "/")
        last = None
        for page in self._pages(f"cannot list {kind.value}", prefix):
            if kind is ObjectKind.PACK:
                self._archive.note(page)
            for each in page.get("Contents", ()):
                if each["Key"] == last:  # keys come in order, and some servers tell one twice while it is replaced
                    continue
                last = each["Key"]
                parsed = parse_object_path(last[len(self._prefix) :])
                if parsed is not None and parsed[0] is kind:
                    yield ObjectInfo(parsed[1], each["Size"])

    def size(self, kind: ObjectKind, name: str) -> int:
        """See `Backend.size`."""
        key = self._key(kind, name)
        with translated(describe(kind, name), self.location, reads=True):
            try:
                size: int = required(self._client.head_object(Bucket=self._bucket, Key=key), "ContentLength")
            except self._client.exceptions.ClientError as error:
                if status_of(error) == 404:  # a HEAD has no body to say of what: look whether it is the bucket
                    self._list_page(key, MaxKeys=1)
                raise
        return size

    def load(self, kind: ObjectKind, name: str) -> bytes:
        """See `Backend.load`."""
        key = self._key(kind, name)
        with translated(describe(kind, name), self.location, reads=True):
            answer = self._client.get_object(Bucket=self._bucket, Key=key)
            with closing(answer["Body"]) as body:
                check_length(answer)
                data: bytes = body.read()  # which knows how many bytes were announced
        return data

    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        """See `Backend.read`."""
        if not length:
            self._check_end(kind, name, offset)
            return b""
        with self._range(kind, name, offset, length) as body:
            return read_exactly(body, length)

    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
        """See `Backend.read_into`."""
        view = buffer.cast("B")
        if not len(view):
            self._check_end(kind, name, offset)
            return
        with self._range(kind, name, offset, len(view)) as body:
            fill(body, view)

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        """See `Backend.save`."""
        key = self._key(kind, name)
        if kind is ObjectKind.CONFIG:
            self._save_config(key, data)
            return
        with translated(describe(kind, name), self.location):
            self._sender.send_bytes(key, data, self._headers(kind, cold=False))

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        """See `Backend.upload`."""
        if kind is ObjectKind.CONFIG:
            raise ValueError("config is saved whole, never uploaded")
        return _S3Upload(self, kind, cold=cold)

    def delete(self, kind: ObjectKind, name: str) -> None:
        """See `Backend.delete`."""
        key = self._key(kind, name)
        with translated(describe(kind, name), self.location):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def delete_many(self, kind: ObjectKind, names: Sequence[str]) -> None:
        """See `BatchDeleter.delete_many`."""
        keys = {self._key(kind, name): name for name in names}
        if not keys:
            return
        with translated(f"{len(names)} {kind.value}", self.location):
            answer = self._client.delete_objects(
                Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": False}
            )
            if not answer.get("Errors"):
                required(answer, "Deleted")
        for each in answer.get("Errors", ()):
            code, text = each.get("Code", ""), each.get("Message", "")
            if code != "NoSuchKey":
                subject = describe(kind, keys[each["Key"]]) if each.get("Key") in keys else kind.value
                status = 500 if code in ("InternalError", "ServiceUnavailable") else 403
                raise error_of(code, text, status, f"{subject} in {self.location}: {text} ({code})")

    @property
    def locks(self) -> bool:
        """See `Locker.locks`."""
        return self._lock_mode is not None

    def extend_lock(self, kind: ObjectKind, name: str) -> None:
        """See `Locker.extend_lock`."""
        key = self._key(kind, name)
        if self._lock_mode is None or kind is ObjectKind.CLAIM:
            return
        with translated(describe(kind, name), self.location, reads=True):
            self._client.put_object_retention(
                Bucket=self._bucket,
                Key=key,
                Retention={"Mode": self._lock_mode, "RetainUntilDate": self._locked_until()},
            )

    @property
    def archive(self) -> Archive:
        """See `Archiver.archive`."""
        return self._archive

    def close(self) -> None:
        """See `Backend.close`."""
        self._client.close()

    def send(self, kind: ObjectKind, name: str, spool: Spool, *, cold: bool) -> None:
        """Store what an upload has collected. Raises what `save` raises."""
        key = self._key(kind, name)
        with translated(describe(kind, name), self.location):
            self._sender.send_spool(key, spool, self._headers(kind, cold=cold))

    def _key(self, kind: ObjectKind, name: str) -> str:
        return self._prefix + path_in(self._folders, kind, name)

    def _pages(self, subject: str, prefix: str) -> Iterator[Any]:
        """The pages of a listing. A server that forgets where it was is an error, and no shorter listing."""
        more: dict[str, str] = {}
        while True:
            with translated(subject, self.location):
                page = self._list_page(prefix, **more)
            yield page
            if not page["IsTruncated"]:
                return
            token = page.get("NextContinuationToken")
            if not token or more.get("ContinuationToken") == token:
                raise StorageError(f"{subject} in {self.location}: the server does not go on after a page")
            more = {"ContinuationToken": token}

    def _save_config(self, key: str, data: Buffer) -> None:
        """Store the config, unless there is one."""
        exists = StorageObjectExists(
            f"{CONFIG_NAME} in {self.location} exists already",
            hint="there is a repository: use it, or choose another place",
        )
        headers = self._headers(ObjectKind.CONFIG, cold=False)
        with translated(CONFIG_NAME, self.location):
            if self._has(key):
                raise exists
            try:
                self._sender.send_bytes(key, data, {**headers, "IfNoneMatch": "*"})
            except self._client.exceptions.ClientError as error:
                if status_of(error) in (409, 412):
                    raise exists from error
                if code_of(error) not in _UNCONDITIONAL:
                    raise
                self._sender.send_bytes(key, data, headers)

    def _has(self, key: str) -> bool:
        page = self._list_page(key, MaxKeys=1)
        return any(each["Key"] == key for each in page.get("Contents", ()))

    def _list_page(self, prefix: str, **more: object) -> Any:
        """One page. Each says whether it is the last; what does not is no listing, nor an empty one."""
        page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, **more)
        required(page, "IsTruncated")
        return page

    def _headers(self, kind: ObjectKind, *, cold: bool) -> dict[str, object]:
        """What the options say of an object that is to be stored."""
        options, headers = self._options, dict[str, object]()
        if cold and options.storage_class is not None:
            headers["StorageClass"] = options.storage_class
        if options.sse is not None:
            headers["ServerSideEncryption"] = options.sse
        if options.sse_kms_key_id is not None:
            headers["SSEKMSKeyId"] = options.sse_kms_key_id
        if self._lock_mode is not None and kind is not ObjectKind.CLAIM:
            headers["ObjectLockMode"] = self._lock_mode
            headers["ObjectLockRetainUntilDate"] = self._locked_until()
        return headers

    def _locked_until(self) -> datetime:
        return self._clock.now() + timedelta(days=self._options.object_lock_days or 0)

    @contextmanager
    def _range(self, kind: ObjectKind, name: str, offset: int, length: int) -> Iterator[Any]:
        """The body of the answer for a range that the object has; what goes wrong in the block is translated."""
        key = self._key(kind, name)
        with translated(describe(kind, name), self.location, reads=True):
            try:
                answer = self._client.get_object(
                    Bucket=self._bucket, Key=key, Range=f"bytes={offset}-{offset + length - 1}"
                )
            except self._client.exceptions.ClientError as error:
                if status_of(error) == 416:
                    raise self._too_short(kind, name, f"before the {length} bytes at {offset}") from error
                raise
            with closing(answer["Body"]) as body:
                check_length(answer)
                self._check_range(kind, name, offset, length, answer)
                yield body

    def _check_range(self, kind: ObjectKind, name: str, offset: int, length: int, answer: Any) -> None:
        """Raises DamagedObject for an object that is too short, StorageError for a range that was not asked for."""
        sent = answer.get("ContentLength", length)
        # Some servers tell no range when they send all there is.
        begins = answer.get("ContentRange", "bytes 0-").startswith(f"bytes {offset}-")
        if begins and sent < length:
            raise self._too_short(kind, name, f"{sent} bytes after {offset}, not {length}")
        if not begins or sent != length:
            raise StorageError(
                f"{describe(kind, name)} in {self.location}: the server sent another range than it was asked for"
            )

    def _check_end(self, kind: ObjectKind, name: str, offset: int) -> None:
        """A range of no bytes, which HTTP has no words for."""
        size = self.size(kind, name)
        if offset > size:
            raise self._too_short(kind, name, f"at byte {size}, before {offset}")

    def _too_short(self, kind: ObjectKind, name: str, where: str) -> DamagedObject:
        return DamagedObject(
            f"{describe(kind, name)} in {self.location} is too short: it ends {where}",
            hint="run `backupforge check` to see what depends on it",
        )


class _S3Upload:
    """Bytes that become an object when their name is known. After a StorageError `commit` may be called again."""

    __slots__ = ("_backend", "_cold", "_kind", "_spool")

    def __init__(self, backend: S3Backend, kind: ObjectKind, *, cold: bool) -> None:
        self._backend = backend
        self._kind = kind
        self._cold = cold
        self._spool: Spool | None = Spool()

    def write(self, data: Buffer) -> None:
        self._open_spool().write(data)

    def commit(self, name: str) -> None:
        self._backend.send(self._kind, name, self._open_spool(), cold=self._cold)
        self.abort()

    def abort(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _open_spool(self) -> Spool:
        if self._spool is None:
            raise ValueError("the upload has ended")
        return self._spool


def _lock_mode(options: S3Options) -> str | None:
    """The mode as S3 writes it; None where nothing is locked. Raises InvalidValue."""
    mode, days = options.object_lock_mode, options.object_lock_days
    if mode is None and days is None:
        return None
    if mode is None or days is None or mode.upper() not in _LOCK_MODES:
        raise InvalidValue(
            "locked objects take both a mode and a number of days",
            hint="-o s3.object-lock-mode=governance (or compliance) -o s3.object-lock-days=30",
        )
    return mode.upper()
