"""Making the hot part of a repository from its cold part, or making it right again. Plan, show, execute.

    missing     in the cold part and not in the hot one: copied. All but packs of file data belong there
    damaged     its bytes are not what its name says, or it has another size: replaced. Everything is read for that
    surplus     not in the cold part, as a crash leaves it, or a pack of file data: deleted

The cold part is only read, and says what is right; the hot part never tells it anything. Which packs belong there is
told by the index, so those of the cold part that no index object names are left as they are. Runs beside everything
else: what others write meanwhile goes to both parts, and what is done here in vain does no harm.

`config` comes first, so that a repair that was interrupted knows its own work, and never writes into a place that is
something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeAlias

from blake3 import blake3

from bfrepo.core.errors import DamagedObject, Interrupted, StorageObjectMissing
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Reporter
from bfrepo.core.units import MIB
from bfrepo.operations.warming import Warmer, WarmUp
from bfrepo.repository.repository import Repository
from bfrepo.repository.salvage import refresh_for_reading
from bfrepo.repository.verify import ObjectHasher
from bfrepo.storage.base import CONFIG_NAME, Backend, ObjectInfo, ObjectKind
from bfrepo.storage.hotcold import HOT_MARK, HotPartUnusable
from bfrepo.storage.layout import DIRECTORY_KINDS, describe

Key: TypeAlias = tuple[ObjectKind, str]
Objects: TypeAlias = Mapping[Key, int]
"""Objects with their sizes in bytes."""

_PIECE: Final = 4 * MIB
_MOST_THREADS: Final = 8
_USUAL: Final = WarmUp()


@dataclass(frozen=True, slots=True, kw_only=True)
class HotRepairPlan:
    """What a repair of the hot part will do. `is_new`: there was none. `kept` objects are right.

    Of what is `surplus`, `data` are packs of file data; the rest is not in the cold part.
    """

    is_new: bool
    missing: Objects
    damaged: Objects
    surplus: Objects
    kept: int
    data: frozenset[Key] = frozenset()

    @property
    def does_nothing(self) -> bool:
        """Whether the hot part is right as it is."""
        return not (self.is_new or self.missing or self.damaged or self.surplus)

    @property
    def copied_size(self) -> int:
        """Bytes that are copied."""
        return sum(self.missing.values()) + sum(self.damaged.values())


def plan_hot_repair(
    repository: Repository, hot: Backend, reporter: Reporter, cancelled: Callable[[], bool]
) -> HotRepairPlan:
    """Compare the hot part with the cold one, on which `repository` was opened.

    Raises HotPartUnusable for a place that is something else, StorageError and Interrupted.
    """
    is_new = _is_new(repository.backend, hot)
    there = {} if is_new else _objects(hot)
    stored = _objects(repository.backend)
    refresh_for_reading(repository, lambda message: reporter.warn(b"", message))
    kinds = {pack.id.hex(): pack.kind for pack in repository.index.table.packs()}
    wanted = {key: size for key, size in stored.items() if kinds.get(key[1]) is BlobKind.TREE or not _is_pack(key)}
    data = {key for key in stored if kinds.get(key[1]) is BlobKind.DATA and _is_pack(key)}
    right = {key: size for key, size in there.items() if wanted.get(key) == size}
    damaged = {key: size for key, size in wanted.items() if key in there and key not in right}
    damaged |= {key: wanted[key] for key in _altered(hot, right, reporter, cancelled)}
    return HotRepairPlan(
        is_new=is_new,
        missing={key: size for key, size in wanted.items() if key not in there},
        damaged=damaged,
        surplus={key: size for key, size in there.items() if key not in stored or key in data},
        data=frozenset(data & there.keys()),
        kept=len(right) - sum(key in right for key in damaged),
    )


def repair_hot(
    repository: Repository,
    hot: Backend,
    plan: HotRepairPlan,
    reporter: Reporter,
    cancelled: Callable[[], bool],
    warm_up: WarmUp = _USUAL,
) -> None:
    """Do what the plan says. What is archived is waited for first, as `warm_up` says.

    Raises DamagedObject when the cold part itself has damage, StillArchived, RepositoryExists when there is something
    else in the place, StorageError and Interrupted; the next repair goes on from there.
    """
    cold = repository.backend
    if plan.is_new:
        hot.create()
        hot.save(ObjectKind.CONFIG, CONFIG_NAME, HOT_MARK + cold.load(ObjectKind.CONFIG, CONFIG_NAME))
    copied = {**plan.missing, **plan.damaged}
    packs = {bytes.fromhex(name): size for (kind, name), size in copied.items() if kind is ObjectKind.PACK}
    warmer = Warmer(cold, repository.clock, reporter, cancelled)
    if packs and warmer.expects_archived():
        warmer.warm(packs, warm_up)
    reporter.progress.files_done = reporter.progress.bytes_done = 0
    reporter.progress.files_total, reporter.progress.bytes_total = len(copied), plan.copied_size
    for kind, name in plan.damaged:
        hot.delete(kind, name)
    _copy_all(cold, hot, copied, reporter, cancelled)
    stored = _objects(cold)  # by now it has what another client was writing, which goes to the hot part first
    for key in plan.surplus:
        if key in plan.data or key not in stored:
            hot.delete(*key)


def _is_new(cold: Backend, hot: Backend) -> bool:
    """Whether there is no hot part yet. Raises HotPartUnusable for that of another repository, or anything else."""
    try:
        marked = hot.load(ObjectKind.CONFIG, CONFIG_NAME)
    except StorageObjectMissing:
        return True
    if marked != HOT_MARK + cold.load(ObjectKind.CONFIG, CONFIG_NAME):
        raise HotPartUnusable(
            f"{hot.location} is not the hot part of {cold.location}",
            hint="choose an empty place for the hot part, or check both locations",
        )
    return False


def _objects(backend: Backend) -> dict[Key, int]:
    return {(kind, info.name): info.size for kind in DIRECTORY_KINDS for info in backend.list(kind)}


def _is_pack(key: Key) -> bool:
    return key[0] is ObjectKind.PACK


def _altered(hot: Backend, objects: Objects, reporter: Reporter, cancelled: Callable[[], bool]) -> Iterator[Key]:
    """The objects of the hot part whose bytes do not hash to their names. Raises StorageError and Interrupted."""
    reporter.progress.bytes_total = sum(objects.values())
    hasher = ObjectHasher(hot, reporter.progress, cancelled)
    listed = ((kind, ObjectInfo(name, size)) for (kind, name), size in objects.items())
    for kind, name, error in hasher.prove(listed, workers=_threads(hot)):
        if not isinstance(error, DamagedObject | StorageObjectMissing):
            raise error
        yield kind, name


def _copy_all(cold: Backend, hot: Backend, objects: Objects, reporter: Reporter, cancelled: Callable[[], bool]) -> None:
    progress = reporter.progress

    def copy(item: tuple[Key, int]) -> None:
        if cancelled():
            raise Interrupted("stopped while the hot part was being made", hint="run it again, and it goes on")
        (kind, name), size = item
        _copy(cold, hot, kind, name, size)
        progress.files_done += 1
        progress.bytes_done += size

    with ThreadPoolExecutor(_threads(cold), thread_name_prefix="repair") as pool:
        for done in [pool.submit(copy, item) for item in objects.items()]:
            done.result()


def _copy(cold: Backend, hot: Backend, kind: ObjectKind, name: str, size: int) -> None:
    """Copy one object, if it is still there and what its name says. Raises DamagedObject."""
    hasher, upload = blake3(), hot.upload(kind)
    try:
        for offset in range(0, size, _PIECE):
            piece = cold.read(kind, name, offset, min(_PIECE, size - offset))
            hasher.update(piece)
            upload.write(piece)
        if hasher.hexdigest() != name:
            raise DamagedObject(
                f"{describe(kind, name)} in {cold.location}: its bytes are not those that were written",
                hint="run 'backupforge check' and 'backupforge repair' without --repository-hot first",
            )
        upload.commit(name)
    except StorageObjectMissing:
        pass  # somebody has deleted it meanwhile
    finally:
        upload.abort()


def _threads(backend: Backend) -> int:
    return max(1, min(backend.connections, _MOST_THREADS))
