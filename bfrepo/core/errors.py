"""Every error BackupForge raises on purpose, in one tree.

    BackupForgeError                    1   failed
    |-- UsageError                      2   the request itself makes no sense
    |   |-- InvalidValue                2   an option, pattern, size or location does not parse
    |   `-- InvalidPattern              2   an exclude or include pattern does not parse
    |-- RepositoryNotFound             10   there is no repository at that place
    |-- RepositoryExists                1   `init` refuses a place that is not empty
    |-- UnsupportedFormat               1   written by a newer version, or with a feature we do not know
    |-- WrongPassword                  12   no key slot opens with this password
    |-- ObjectNotFound                  1   a snapshot, key or path that was asked for is not there
    |-- AmbiguousPrefix                 1   an ID prefix that fits several
    |-- SourceError                     1   what should be backed up cannot be read at all
    |-- TargetError                     1   what should be restored cannot be written at all
    |-- StorageError                    1   the place that holds the repository failed
    |   |-- StorageObjectMissing        1   an object that should be there is not
    |   |-- StorageObjectExists         1   an object with this name exists (only `config` can collide)
    |   |-- StorageObjectArchived       1   an object is kept in an archive, and cannot be read just now
    |   |-- StorageDenied               1   no permission
    |   `-- StorageFull                 1   no space left, or over quota
    |-- DamagedObject                   1   stored bytes are not what was written
    |   |-- DamagedBlob                 1   one blob cannot be returned intact
    |   `-- MissingBlob                 1   no pack holds a blob that is needed
    `-- Interrupted                   130   Ctrl-C or SIGTERM

Each class has a stable kebab-case `code` (for `--json`), the process's exit status, and may carry a hint that says what
to do next. Messages name the thing: "pack 3f2a... in /srv/repo: ...". Exit status 3 (done, but some items failed) is no
error: it is the result of an operation whose summary counts items that could not be read, restored or verified.
"""

from __future__ import annotations

from typing import ClassVar, Final

MALFORMED: Final = (ValueError, RecursionError)
"""What decoders raise beside errors of their own: for text that is no UTF-8, and for nesting that has no end."""


class BackupForgeError(Exception):
    """Base of all deliberate errors. `str(error)` is one readable line without a trailing full stop."""

    code: ClassVar[str] = "failed"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(BackupForgeError):
    """The request makes no sense, whatever the repository holds."""

    code = "wrong-usage"
    exit_status = 2


class InvalidValue(UsageError):
    """A value that does not parse: a size, a location, a compression, an ID prefix."""

    code = "invalid-value"


class InvalidPattern(UsageError):
    """An exclude or include pattern that does not parse."""

    code = "invalid-pattern"


class RepositoryNotFound(BackupForgeError):
    """No `config` object at the location."""

    code = "no-repository"
    exit_status = 10


class RepositoryExists(BackupForgeError):
    """`init` never touches a place that holds something already."""

    code = "repository-exists"


class UnsupportedFormat(BackupForgeError):
    """A version or feature this program does not know. Never treated as damage."""

    code = "unsupported-format"


class WrongPassword(BackupForgeError):
    """No key slot opens with the password that was given."""

    code = "wrong-password"
    exit_status = 12


class ObjectNotFound(BackupForgeError):
    """What the user named does not exist: a snapshot, a key, a path in a snapshot."""

    code = "not-found"


class AmbiguousPrefix(BackupForgeError):
    """An ID prefix that fits more than one object."""

    code = "ambiguous-prefix"


class SourceError(BackupForgeError):
    """Nothing can be backed up: the source does not exist, cannot be read, or its command failed."""

    code = "source-failed"


class TargetError(BackupForgeError):
    """Nothing can be restored: the target is a file, is not writable, or is not a directory."""

    code = "target-failed"


class StorageError(BackupForgeError):
    """The backend could not do what was asked. Temporary unless a subclass says otherwise.

    `retry_after_s` is how many seconds the storage asks to be left alone for (HTTP's Retry-After), None where it says
    nothing.
    """

    code = "storage-failed"

    def __init__(self, message: str, *, hint: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class StorageObjectMissing(StorageError):
    """An object that was asked for is not in the storage. Permanent: a retry will not help."""

    code = "object-missing"


class StorageObjectExists(StorageError):
    """An object of this name exists and must not be overwritten (INV-3). Permanent."""

    code = "object-exists"


class StorageObjectArchived(StorageError):
    """An object is in an archive and cannot be read until it was brought back from there. Permanent until then."""

    code = "object-archived"


class StorageDenied(StorageError):
    """The storage refused for lack of permission. Permanent."""

    code = "storage-denied"


class StorageFull(StorageError):
    """No space left on the storage, or a quota is reached. Permanent until somebody makes room."""

    code = "storage-full"


class DamagedObject(BackupForgeError):
    """Stored bytes are not what was written: wrong hash, failed authentication, or a structure that does not decode."""

    code = "damaged-object"


class DamagedBlob(DamagedObject):
    """A blob cannot be returned, because no copy of it hashes to its ID (INV-4)."""

    code = "damaged-blob"


class MissingBlob(DamagedObject):
    """A blob that something needs is in no pack that the index names."""

    code = "missing-blob"


class Interrupted(BackupForgeError):
    """The user or the system asked to stop. What was stored until then stays usable."""

    code = "interrupted"
    exit_status = 130
