"""What a job is: the parts that clients send, the database keeps and runners carry out."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator
from os.path import normpath
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from api.fields import Slug
from api.services.schedules import Schedule
from bfrepo.checker.sampling import parse_sample
from bfrepo.core.errors import InvalidValue
from bfrepo.data.retention import Duration, RetentionRules
from bfrepo.sources.exclude import ExcludeRules

Text = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
Short = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)")]
Count = Annotated[int, Meta(ge=1, le=100_000)]
Span = Annotated[str, Meta(max_length=32)]

LONGEST_DELAY_S: Final = 6 * 3600


class Kind(enum.StrEnum):
    """What a job does."""

    BACKUP = "backup"
    FORGET = "forget"
    PRUNE = "prune"
    CHECK = "check"


class Source(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Files and directories on the machine that runs the job, as far as its operator allows the tenant to read them.

    With `remote` they are on another host: that to which the operator has given this name.
    """

    remote: Slug | None = None
    paths: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=200)]
    excludes: Annotated[tuple[Text, ...], Meta(max_length=500)] = ()
    one_file_system: bool = False
    exclude_caches: bool = False


class GuestSource(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Guests of a cluster of Proxmox VE, which the operator of the server has given a name: those named by ID or name,
    with one of the tags, in one of the pools, or all, as far as the operator allows the tenant to have them.
    """

    cluster: Slug
    guests: Annotated[tuple[Short, ...], Meta(max_length=500)] = ()
    tags: Annotated[tuple[Short, ...], Meta(max_length=100)] = ()
    pools: Annotated[tuple[Short, ...], Meta(max_length=100)] = ()
    all: bool = False
    excluded: Annotated[tuple[Short, ...], Meta(max_length=500)] = ()
    mode: Literal["snapshot", "suspend", "stop"] = "snapshot"


class Retention(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which snapshots stay: the last so many, one of each of so many hours, days..., and all within a span like 30d."""

    last: Count | None = None
    hourly: Count | None = None
    daily: Count | None = None
    weekly: Count | None = None
    monthly: Count | None = None
    yearly: Count | None = None
    within: Span | None = None

    def rules(self) -> RetentionRules:
        """As the library has them. Raises InvalidValue for a span that does not parse, and if nothing would be kept."""
        rules = RetentionRules(
            last=self.last,
            hourly=self.hourly,
            daily=self.daily,
            weekly=self.weekly,
            monthly=self.monthly,
            yearly=self.yearly,
            within=None if self.within is None else Duration.parse(self.within),
        )
        if not rules:
            raise InvalidValue("the retention keeps nothing", hint='say what to keep, such as {"daily": 7}')
        return rules


class HookNames(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Commands around a run, by the names that the operator of the server has given them."""

    before: Annotated[tuple[Slug, ...], Meta(max_length=10)] = ()
    after: Annotated[tuple[Slug, ...], Meta(max_length=10)] = ()
    failure: Annotated[tuple[Slug, ...], Meta(max_length=10)] = ()

    def all(self) -> Iterator[str]:
        """Every name."""
        yield from (*self.before, *self.after, *self.failure)


class Retries(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How often a run that failed is tried again: after `delay_s`, and then after twice as long each time."""

    count: Annotated[int, Meta(ge=0, le=20)] = 3
    delay_s: Annotated[int, Meta(ge=0, le=LONGEST_DELAY_S)] = 60

    def delay(self, attempt: int) -> float:
        """Seconds from the end of attempt number `attempt` to the next."""
        return float(min(self.delay_s * 2 ** (attempt - 1), LONGEST_DELAY_S))


class JobSpec(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a job does and how, but for its name, its repository and where notifications go."""

    kind: Kind
    source: Source | None = None
    proxmox: GuestSource | None = None
    schedule: Schedule | None = None
    retention: Retention | None = None
    hooks: HookNames = msgspec.field(default_factory=HookNames)
    retries: Retries = msgspec.field(default_factory=Retries)
    tags: Annotated[tuple[Short, ...], Meta(max_length=20)] = ()
    host: Short | None = None
    read_data: Annotated[str, Meta(max_length=32)] | None = None
    notify: Literal["never", "failure", "always"] = "never"

    @property
    def deletes(self) -> bool:
        """Whether its runs remove what was stored: only administrators plan that."""
        return self.kind in (Kind.FORGET, Kind.PRUNE) or self.retention is not None


class RestoreSpec(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A restore: what of which snapshot, to which directory on the machine that runs it."""

    snapshot: str
    path: str
    target: str
    overwrite: Literal["always", "if-changed", "if-newer", "never"]


class RunSpec(msgspec.Struct, kw_only=True):
    """What one run does: its job as it was when it became due, or a restore."""

    repository: str
    name: str
    job: JobSpec | None = None
    restore: RestoreSpec | None = None

    @property
    def retries(self) -> Retries:
        """A restore is not tried again: somebody waits for it, and decides."""
        return self.job.retries if self.job else Retries(count=0)


def check_spec(spec: JobSpec) -> None:
    """Raises InvalidValue or InvalidPattern for parts that do not parse or do not belong together."""
    sources = (spec.source is not None) + (spec.proxmox is not None)
    if sources != (spec.kind is Kind.BACKUP):
        raise InvalidValue("a backup, and nothing else, has a source: of paths, or guests of Proxmox")
    guests = spec.proxmox
    if guests is not None and not (guests.guests or guests.tags or guests.pools or guests.all):
        raise InvalidValue("a source of guests says which", hint='name guests, tags or pools, or say "all": true')
    if spec.kind is Kind.FORGET and spec.retention is None:
        raise InvalidValue("a job that forgets needs a retention")
    if spec.retention is not None:
        if spec.kind not in (Kind.FORGET, Kind.BACKUP):
            raise InvalidValue(f"a {spec.kind} has no use for a retention")
        spec.retention.rules()
    if spec.read_data is not None:
        if spec.kind is not Kind.CHECK:
            raise InvalidValue("only a check reads data")
        parse_sample(spec.read_data)
    if spec.source is not None:
        if spec.source.remote is not None and spec.source.exclude_caches:
            raise InvalidValue("files of another host are not read before they are listed: it cannot exclude caches")
        exclude_rules(spec.source)


def exclude_rules(source: Source) -> ExcludeRules:
    """What a source leaves out. Raises InvalidPattern."""
    return ExcludeRules.from_options(environment={}, exclude=source.excludes, caches=source.exclude_caches)


def writer_key(tenant_id: str, spec: RunSpec) -> str | None:
    """What only one run may work on at a time: what is backed up, what is pruned, where it is restored to."""
    if spec.restore is not None:
        return _key(tenant_id, "restore", spec.restore.target)
    job = spec.job
    if job is None or job.kind is Kind.CHECK:
        return None
    if job.source is not None:
        whose = () if job.source.remote is None else ("of", job.source.remote)
        return _key(tenant_id, "backup", *whose, *sorted(map(normpath, job.source.paths)))
    if job.proxmox is not None:
        return _key(tenant_id, "guests", job.proxmox.cluster)
    return _key(tenant_id, job.kind.value, spec.repository)


def _key(tenant_id: str, what: str, *parts: str) -> str:
    """Short, whatever the parts are, and nobody else's."""
    return f"{tenant_id} {what} {hashlib.sha256(msgspec.json.encode(parts)).hexdigest()}"
