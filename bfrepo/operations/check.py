"""Checking: is everything in the repository there, and right? Nothing is ever written, and nothing is repaired.

    structure     config, key slots, snapshots, claims and index decode; every pack that the index names is there with
                  its size; every tree loads, and every blob it needs is in the index with its kind and size
    reading       besides, some packs or all are read from end to end (repository/verify.py)
    closer look   only where something is wrong (diagnosis.py)

While others back up, forget or prune, what was listed a moment ago may be gone. So a check that misses something looks
again when the listings have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from bfrepo.checker.dependents import Dependents
from bfrepo.checker.findings import AffectedSnapshot, Finding, FindingKind, ObjectWord
from bfrepo.checker.sampling import Sample
from bfrepo.checker.structure import Survey, survey_trees
from bfrepo.core.clock import Clock
from bfrepo.core.concurrency import native_threads
from bfrepo.core.errors import (
    BackupForgeError,
    DamagedObject,
    StorageObjectArchived,
    StorageObjectMissing,
    UnsupportedFormat,
)
from bfrepo.core.progress import Reporter
from bfrepo.core.units import format_size
from bfrepo.data.snapshot import Snapshot, decode_claim
from bfrepo.operations.diagnosis import Diagnosis, Fault, judge_pack, kind_of_error, make_finding
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.operations.warming import Warmer, WarmUp
from bfrepo.repository.config import ConfigHead, decode_config, is_as_written
from bfrepo.repository.inventory import Inventory, list_packs, take_inventory
from bfrepo.repository.repository import Repository, read_head_and_bytes
from bfrepo.repository.verify import ObjectHasher, PackReading, PackSecrets, PackVerdict
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.layout import DIRECTORY_KINDS

_MOST_LOOKS: Final = 3
_USUAL: Final = WarmUp()

_CLAIM_LAPSES: Final = timedelta(days=7)
"""docs/format.md, "Living together":

a claim counts as finished when its snapshot exists, and lapses after seven days.
"""

_DAMAGED: Final[dict[ObjectKind, tuple[ObjectWord, FindingKind]]] = {
    ObjectKind.KEY: ("key", "key-damaged"),
    ObjectKind.PACK: ("pack", "pack-damaged"),
    ObjectKind.INDEX: ("index", "index-damaged"),
    ObjectKind.SNAPSHOT: ("snapshot", "snapshot-damaged"),
    ObjectKind.CLAIM: ("claim", "claim-damaged"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """`read` says which packs to read from end to end, None for none; `workers` threads read them.

    Packs that are archived are waited for as `warm_up` says; None leaves them out.
    """

    read: Sample | None = None
    warm_up: WarmUp | None = None
    workers: int = field(default_factory=native_threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What a check found, errors first, and how much it looked at.

    `packs_read` are IDs, `bytes_read` their sizes together. `archived` packs should have been read, and were left out.
    """

    findings: tuple[Finding, ...]
    snapshots: int
    trees: int
    blobs: int
    packs: int
    packs_read: tuple[bytes, ...]
    bytes_read: int
    duration_s: float
    archived: int = 0

    @property
    def errors(self) -> int:
        return sum(finding.severity == "error" for finding in self.findings)


def check(
    repository: Repository, options: CheckOptions, reporter: Reporter, cancelled: Callable[[], bool]
) -> CheckResult:
    """Look at everything. What is wrong is in the result.

    Raises StorageError when listing fails, StillArchived, and Interrupted.
    """
    begun = repository.clock.monotonic()
    repository.doubt_cache()
    work = _Check(repository, options, reporter, cancelled)
    packs = list_packs(repository) if options.read else {}
    chosen = {pack: packs[pack] for pack in options.read.choose(packs)} if options.read else {}
    at_hand = work.at_hand(chosen)
    with work.read_packs(at_hand) as reading, ThreadPoolExecutor(1, thread_name_prefix="check") as beside:
        looking = beside.submit(lambda: [*_check_config(repository), *_check_keys(repository)])
        view = work.look_until_stable()
        findings = looking.result()
        verdicts = work.read_archived(reading.wait(), chosen)
    read = [pack for pack in chosen if pack in verdicts]
    findings += [*view.snapshot_findings(), *work.diagnose(view, verdicts)]
    findings += [*_note_garbage(view.inventory), *_check_claims(repository, view)]
    return CheckResult(
        findings=tuple(sorted(findings, key=lambda finding: finding.severity == "note")),
        snapshots=len(view.snapshots),
        trees=view.survey.trees,
        blobs=len(view.inventory.index.table),
        packs=len(view.inventory.stored),
        packs_read=tuple(read),
        bytes_read=sum(chosen[pack] for pack in read),
        archived=len(chosen) - len(read),
        duration_s=repository.clock.monotonic() - begun,
    )


def check_without_key(
    backend: Backend,
    clock: Clock,
    reporter: Reporter,
    cancelled: Callable[[], bool],
    warm_up: WarmUp = _USUAL,
) -> CheckResult:
    """Compare the hash of every object with its name, for whoever stores a repository and cannot open it.

    Packs that are archived are waited for first. Raises RepositoryNotFound, StorageError when listing fails,
    StillArchived, and Interrupted.
    """
    begun = clock.monotonic()
    findings = []
    try:
        _prove_head(backend)
    except (DamagedObject, UnsupportedFormat) as error:
        findings.append(_config_finding(error))
    objects = {kind: list(backend.list(kind)) for kind in DIRECTORY_KINDS}
    warmer = Warmer(backend, clock, reporter, cancelled)
    if warmer.expects_archived():
        warmer.warm({bytes.fromhex(info.name): info.size for info in objects[ObjectKind.PACK]}, warm_up)
    reporter.progress.bytes_total = sum(info.size for infos in objects.values() for info in infos)
    hasher = ObjectHasher(backend, reporter.progress, cancelled)
    everything = ((kind, info) for kind, infos in objects.items() for info in infos)
    for kind, name, problem in hasher.prove(everything, workers=max(native_threads(), backend.connections)):
        if not isinstance(problem, StorageObjectMissing):  # deleted since it was listed
            findings.append(_object_finding(kind, name, problem))
    packs = objects[ObjectKind.PACK]
    return CheckResult(
        findings=tuple(findings),
        snapshots=len(objects[ObjectKind.SNAPSHOT]),
        trees=0,
        blobs=0,
        packs=len(packs),
        packs_read=tuple(bytes.fromhex(info.name) for info in packs),
        bytes_read=sum(info.size for info in packs),
        duration_s=clock.monotonic() - begun,
    )


@dataclass(slots=True)
class _View:
    """The repository as it was at one look."""

    snapshots: dict[bytes, Snapshot]
    snapshot_errors: dict[str, BackupForgeError]
    inventory: Inventory
    survey: Survey

    def is_sound(self) -> bool:
        return not (self.snapshot_errors or self.inventory.errors or self.survey.doubtful or self.inventory.missing())

    def is_outdated(self, repository: Repository) -> bool:
        names = {info.name for info in repository.backend.list(ObjectKind.SNAPSHOT)}
        index = self.inventory.index.objects | self.inventory.errors.keys()
        return names != self.snapshot_names() or repository.index_names() != index

    def snapshot_names(self) -> set[str]:
        return {identifier.hex() for identifier in self.snapshots} | self.snapshot_errors.keys()

    def snapshot_findings(self) -> Iterator[Finding]:
        for name, error in self.snapshot_errors.items():
            yield _object_finding(ObjectKind.SNAPSHOT, name, error)


class _Check:
    """One check at work."""

    def __init__(
        self, repository: Repository, options: CheckOptions, reporter: Reporter, cancelled: Callable[[], bool]
    ) -> None:
        self._repository = repository
        self._options = options
        self._progress = reporter.progress
        self._cancelled = cancelled
        self._warmer = Warmer(repository.backend, repository.clock, reporter, cancelled)

    def at_hand(self, packs: dict[bytes, int]) -> dict[bytes, int]:
        """Those of the packs that can be read: all of them, when they were waited for."""
        if not packs or not self._warmer.expects_archived():
            return packs
        if self._options.warm_up is not None:
            self._warmer.warm(packs, self._options.warm_up)
            return packs
        archived = self._warmer.survey(packs)
        return {pack: size for pack, size in packs.items() if not archived.holds(pack)}

    def read_archived(self, verdicts: dict[bytes, PackVerdict], packs: dict[bytes, int]) -> dict[bytes, PackVerdict]:
        """The verdicts, without those of packs that turned out to be archived unless they were waited for by now."""
        archived = (pack for pack, each in verdicts.items() if isinstance(each.problem, StorageObjectArchived))
        cold = {pack: packs[pack] for pack in archived}
        verdicts = {pack: verdict for pack, verdict in verdicts.items() if pack not in cold}
        if not cold or self._options.warm_up is None:
            return verdicts
        self._warmer.warm(cold, self._options.warm_up)
        with self.read_packs(cold) as reading:
            return verdicts | reading.wait()

    def read_packs(self, packs: dict[bytes, int]) -> PackReading:
        repository = self._repository
        secrets = PackSecrets(repository.id, repository.keys.pack_key, repository.keys.blob_id_key)
        self._progress.bytes_total = (self._progress.bytes_total or 0) + sum(packs.values())
        return PackReading(
            repository.backend, secrets, packs, self._progress, self._cancelled, workers=self._options.workers
        )

    def look_until_stable(self) -> _View:
        view = self._look()
        for _ in range(_MOST_LOOKS):
            if view.is_sound() or not view.is_outdated(self._repository):
                break
            view = self._look()
        return view

    def diagnose(self, view: _View, verdicts: dict[bytes, PackVerdict]) -> list[Finding]:
        """Read what is in doubt and was not read yet, and find out what everything that is wrong means."""
        inventory = view.inventory
        doubtful = {pack for blob_id in view.survey.doubtful for pack in inventory.packs_of(blob_id)}
        suspects = (doubtful | inventory.wrong_sizes()) & inventory.stored.keys() - verdicts.keys()
        with self.read_packs({pack: inventory.stored[pack] for pack in sorted(suspects)}) as reading:
            verdicts = verdicts | reading.wait()
        faults: dict[bytes, Fault] = dict.fromkeys(inventory.missing(), ("pack-missing", "is missing"))
        for pack, verdict in verdicts.items():
            fault = judge_pack(pack, verdict, inventory)
            if fault is not None:
                faults[pack] = fault
        if not (faults or view.survey.doubtful or inventory.errors or inventory.leaving()):
            return []
        return Diagnosis(inventory, faults, self._cancelled).findings(view.snapshots)

    def _look(self) -> _View:
        """Snapshots first: whatever they need was in the index before them."""
        errors: dict[str, BackupForgeError] = {}
        snapshots = load_snapshots(self._repository, on_error=errors.__setitem__)
        inventory = take_inventory(self._repository, settled=False)
        self._repository.fetch_trees(inventory.index, self._cancelled)
        roots = [snapshot.tree for snapshot in snapshots.values()]
        survey = survey_trees(inventory.loader, inventory.index.table, roots, self._progress, self._cancelled)
        return _View(snapshots, errors, inventory, survey)


def _prove_head(backend: Backend, known: tuple[ConfigHead, bytes] | None = None) -> ConfigHead:
    """What is readable of the config, proven to be as it was written. Raises DamagedObject, and what reading raises."""
    head, data = known or read_head_and_bytes(backend)
    if not is_as_written(data, head):
        raise DamagedObject(f"config in {backend.location}: its bytes are not those that were written")
    return head


def _check_config(repository: Repository) -> Iterator[Finding]:
    try:
        head = _prove_head(repository.backend, repository.head)
        decode_config(head, repository.keys, location=repository.location)
    except BackupForgeError as error:
        yield _config_finding(error)


def _check_keys(repository: Repository) -> Iterator[Finding]:
    for name, about in repository.slots():
        if isinstance(about, BackupForgeError) and not isinstance(about, StorageObjectMissing):
            yield _object_finding(ObjectKind.KEY, name, about)


def _check_claims(repository: Repository, view: _View) -> Iterator[Finding]:
    left: list[bytes] = []
    now, finished = repository.clock.now(), view.snapshot_names()
    names = [info.name for info in repository.backend.list(ObjectKind.CLAIM)]
    for name, content in repository.objects.load_many(ObjectKind.CLAIM, names):
        if isinstance(content, StorageObjectMissing):
            continue
        try:
            if isinstance(content, BackupForgeError):
                raise content
            claim = decode_claim(content, name=name)
        except BackupForgeError as error:
            yield _object_finding(ObjectKind.CLAIM, name, error)
            continue
        if claim.snapshot.hex() in finished or now - datetime.fromisoformat(claim.time) > _CLAIM_LAPSES:
            left.append(bytes.fromhex(name))
    if left:
        message = f"{len(left)} claims of backups that have ended are left over; they do no harm"
        yield make_finding("claim-left", "claim", sorted(left), message)


def _note_garbage(inventory: Inventory) -> Iterator[Finding]:
    unnamed = sorted(inventory.unnamed())
    if unnamed:
        size = format_size(sum(inventory.stored[pack] for pack in unnamed))
        reason = "an interrupted backup left them, or one is writing them"
        yield make_finding(
            "garbage", "pack", unnamed, f"{len(unnamed)} packs ({size}) are in no index object: {reason}"
        )


def _config_finding(error: BackupForgeError) -> Finding:
    return make_finding(kind_of_error(error, "config-damaged"), "config", [], str(error))


def _object_finding(kind: ObjectKind, name: str, error: BackupForgeError) -> Finding:
    """What is wrong with one object of those that stand for themselves; a snapshot depends on itself."""
    identifier, (word, damaged) = bytes.fromhex(name), _DAMAGED[kind]
    dependents = Dependents([AffectedSnapshot(identifier, "")]) if kind is ObjectKind.SNAPSHOT else None
    return make_finding(kind_of_error(error, damaged), word, [identifier], str(error), dependents)
