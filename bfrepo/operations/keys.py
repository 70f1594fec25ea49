"""The passwords of a repository: each opens all of it by a key slot of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bfrepo.core.errors import BackupForgeError
from bfrepo.core.ids import resolve_prefix
from bfrepo.repository.repository import KdfProfile, Repository
from bfrepo.storage.base import ObjectKind


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """A key slot. `current` is the one that opened the repository; `problem` is what is wrong with it, if anything."""

    name: str
    label: str = ""
    host: str = ""
    created: str = ""
    current: bool = False
    problem: str | None = None


def list_keys(repository: Repository) -> list[KeyInfo]:
    """All key slots, oldest first; none when the repository is not encrypted."""
    return sorted(_slots(repository), key=lambda key: (key.created, key.name))


def add_key(repository: Repository, password: bytes, *, label: str, host: str, kdf: KdfProfile = "default") -> str:
    """Make another password; the name of its slot. Raises BackupForgeError when the repository is not encrypted."""
    require_encryption(repository)
    return repository.add_slot(password, label=label, host=host, kdf=kdf)


def remove_key(repository: Repository, prefix: str) -> str:
    """Remove a password by the start of its slot's name; the name. Never the last one, and never the one in use."""
    require_encryption(repository)
    names = [info.name for info in repository.backend.list(ObjectKind.KEY)]
    name = resolve_prefix(prefix, map(bytes.fromhex, names), what="key").hex()
    if name == repository.opened_by and len(names) > 1:
        raise BackupForgeError(
            f"key {name[:8]} is the one that opened {repository.location}",
            hint="open the repository with another password to remove it, or replace it with 'backupforge key passwd'",
        )
    return repository.remove_slot(name)


def change_password(
    repository: Repository, password: bytes, *, host: str, label: str | None = None, kdf: KdfProfile = "default"
) -> tuple[str, str]:
    """Replace the password in use: the names of the new slot and of the old one, which goes last. The label stays."""
    require_encryption(repository)
    old = next((key for key in list_keys(repository) if key.current), None)
    if old is None:
        raise BackupForgeError(f"the key that opened {repository.location} is gone", hint="run the command again")
    new = repository.add_slot(password, label=old.label if label is None else label, host=host, kdf=kdf)
    repository.remove_slot(old.name)
    return new, old.name


def require_encryption(repository: Repository) -> None:
    """Raises BackupForgeError when the repository has no passwords."""
    if not repository.keys.encrypted:
        raise BackupForgeError(
            f"the repository in {repository.location} is not encrypted, so it has no passwords",
            hint="encryption is chosen when a repository is made",
        )


def _slots(repository: Repository) -> Iterator[KeyInfo]:
    for name, about in repository.slots():
        current = name == repository.opened_by
        if isinstance(about, BackupForgeError):
            yield KeyInfo(name=name, current=current, problem=str(about))
        else:
            yield KeyInfo(name=name, label=about.label, host=about.host, created=about.created, current=current)
