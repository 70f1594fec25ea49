"""What restic writes, decoded: names, modes, times; and what is sealed, opened. No restic is needed for it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.core.errors import BackupForgeError, DamagedObject, UnsupportedFormat
from bfrepo.core.progress import Quiet
from bfrepo.operations.import_restic import import_restic, restic_snapshots
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.restic.records import iso_time, nanoseconds, raw_name, unix_mode
from bfrepo.restic.repository import ResticRepository, open_restic
from bfrepo.restic.sealing import MasterKey, Opener, open_key_file
from bfrepo.storage.base import CONFIG_NAME, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import never
from tests.support.directories import Problems
from tests.support.repositories import make_repository
from tests.support.restoring import restored

MASTER = MasterKey(bytes(range(32)), bytes(range(16)), bytes(range(16, 32)))


@pytest.mark.parametrize(
    ("quoted", "raw"),
    [
        ("plain", b"plain"),
        (r"we\xffird", b"we\xffird"),
        (r"a\\b", rb"a\b"),
        (r"tab\there\n", b"tab\there\n"),
        (r"\u202egnp\U0001f600", "\u202egnp\U0001f600".encode()),
        (r"\"quoted\" it's", b'"quoted" it\'s'),
        (r"\a\b\f\r\v\x00", b"\a\b\f\r\v\0"),
        ("ü", "ü".encode()),
        (r"\101", b"A"),
    ],
)
def test_names_are_unquoted(quoted: str, raw: bytes) -> None:
    """As Go's strconv.Unquote does it."""
    assert raw_name(quoted) == raw


@pytest.mark.parametrize("quoted", ["\\", r"\q", r"\x1", r"\u12", r"\xzz", r"\U00110000"])
def test_names_that_are_no_names(quoted: str) -> None:
    """An escape that is none is an error."""
    with pytest.raises(ValueError, match=r"escape|chr"):
        raw_name(quoted)


@pytest.mark.parametrize(
    ("mode", "bits"),
    [
        (0o644, 0o644),
        (1 << 31 | 0o755, 0o755),
        (1 << 23 | 0o755, 0o4755),
        (1 << 22 | 0o755, 0o2755),
        (1 << 31 | 1 << 20 | 0o777, 0o1777),
        (1 << 23 | 1 << 22 | 1 << 20 | 0o777, 0o7777),
        (1 << 27 | 0o777, 0o777),
    ],
)
def test_modes(mode: int, bits: int) -> None:
    """The bits of Go's os.FileMode."""
    assert unix_mode(mode) == bits


@pytest.mark.parametrize(
    ("time", "ns"),
    [
        ("", 0),
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999999999Z", -1),
        ("2024-01-02T03:04:05.123456789+01:00", 1_704_161_045_123_456_789),
        ("2024-01-02T03:04:05.5-08:00", 1_704_193_445_500_000_000),
        ("1901-12-13T20:45:52Z", -(1 << 31) * 10**9),
    ],
)
def test_times(time: str, ns: int) -> None:
    """To the nanosecond, in any zone, before 1970."""
    assert nanoseconds(time) == ns


@given(st.datetimes(min_value=datetime(1700, 1, 1), max_value=datetime(2200, 1, 1)), st.integers(0, 999))
def test_any_time(when: datetime, nanos: int) -> None:
    """What is written comes back."""
    text = f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond:06}{nanos:03}Z"
    span = when.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    micros = (span.days * 86400 + span.seconds) * 1_000_000 + span.microseconds
    assert nanoseconds(text) == micros * 1000 + nanos
    assert datetime.fromisoformat(iso_time(text)) == when.replace(tzinfo=UTC)


def seal(plain: bytes) -> bytes:
    """Sealed by other code than the program's."""
    iv = os.urandom(16)
    encryptor = Cipher(algorithms.AES(MASTER.encrypt), modes.CTR(iv)).encryptor()
    ciphertext = encryptor.update(plain) + encryptor.finalize()
    one_time = Cipher(algorithms.AES(MASTER.mac_k), modes.ECB()).encryptor().update(iv)
    return iv + ciphertext + Poly1305.generate_tag(MASTER.mac_r + one_time, ciphertext)


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_what_is_sealed_is_opened(plains: list[bytes]) -> None:
    """Many at once, each by its own IV."""
    opener = Opener(MASTER)
    assert opener.open_all([memoryview(seal(plain)) for plain in plains]) == plains


@given(st.integers(0, 31 + 20), st.integers(0, 7))
def test_a_flipped_bit_does_not_open(at: int, bit: int) -> None:
    """Wherever it is."""
    sealed = bytearray(seal(b"x" * 20))
    sealed[at] ^= 1 << bit
    assert Opener(MASTER).open(bytes(sealed)) is None
    assert Opener(MASTER).open(bytes(sealed[:31])) is None


@pytest.mark.parametrize(
    "change", [{"N": 1 << 24, "r": 64}, {"N": 3}, {"kdf": "none"}, {"data": "!"}, {"salt": 1}, {"N": -1}]
)
def test_a_key_that_cannot_be(change: dict[str, object]) -> None:
    """It is an error before memory is taken."""
    plain = {"kdf": "scrypt", "N": 1024, "r": 8, "p": 1, "salt": "AAAA", "data": base64.b64encode(bytes(100)).decode()}
    with pytest.raises(DamagedObject):
        open_key_file(json.dumps({**plain, **change}).encode(), b"x")


class FakeRepository:
    """A repository in memory, with whatever a hostile one may hold."""

    def __init__(self) -> None:
        self.backend = MemoryBackend()
        self._packs: list[dict[str, object]] = []

    def blob(self, kind: str, plain: bytes, *, name: str | None = None) -> str:
        """A pack with one blob; the blob's ID."""
        data = seal(zstandard.compress(plain))
        pack, blob = hashlib.sha256(data).hexdigest(), name or hashlib.sha256(plain).hexdigest()
        self.backend.save(ObjectKind.PACK, pack, data)
        record = {"id": blob, "type": kind, "offset": 0, "length": len(data), "uncompressed_length": len(plain)}
        self._packs.append({"id": pack, "blobs": [record]})
        return blob

    def tree(self, *nodes: Mapping[str, object]) -> str:
        """A tree."""
        return self.blob("tree", json.dumps({"nodes": nodes}).encode() + b"\n")

    def opened(self, tree: str) -> ResticRepository:
        """The repository, with a snapshot of a tree."""
        self._put(ObjectKind.SNAPSHOT, {"time": "2024-01-02T03:04:05Z", "tree": tree, "paths": ["/"]})
        self._put(ObjectKind.INDEX, {"packs": self._packs})
        from bfrepo.restic.records import ConfigRecord

        return ResticRepository(self.backend, MASTER, ConfigRecord(2, "0" * 64))

    def _put(self, kind: ObjectKind, content: object) -> None:
        data = seal(b"\x02" + zstandard.compress(json.dumps(content).encode()))
        self.backend.save(kind, hashlib.sha256(data).hexdigest(), data)


def imported(source: ResticRepository) -> tuple[dict[str, bytes], list[tuple[bytes, str]]]:
    """What comes of an import: files by path, or nothing; and what was reported."""
    repository, reporter = make_repository(), Problems()
    import_restic(source, repository, restic_snapshots(source, reporter), reporter, never)
    found: dict[str, bytes] = {}
    for snapshot in load_snapshots(repository).values():
        found |= restored(repository.loader, snapshot.tree)
    return found, reporter.found


def test_a_made_up_repository() -> None:
    """The stand-in is one."""
    fake = FakeRepository()
    content = fake.blob("data", b"content")
    file = {"name": "f", "type": "file", "content": [content], "size": 999, "mtime": "2024-01-02T03:04:05Z"}
    directory = {"name": "d", "type": "dir", "subtree": fake.tree(file)}
    found, problems = imported(fake.opened(fake.tree(directory, {"name": "w", "type": "irregular"})))
    assert (found, problems) == ({"/d": b"<dir>", "/d/f": b"content"}, [])


@pytest.mark.parametrize("name", ["..", ".", "a/b", r"a\x00b", "", r"..\x2fx", "n" * 5000])
def test_names_that_lead_elsewhere(name: str) -> None:
    """A snapshot with such a name is not imported."""
    fake = FakeRepository()
    found, problems = imported(fake.opened(fake.tree({"name": name, "type": "fifo"})))
    assert found == {}
    assert problems


@pytest.mark.parametrize(
    "node",
    [
        {"name": "f", "type": "file", "content": ["0" * 64]},
        {"name": "f", "type": "file", "content": ["xyz"]},
        {"name": "f", "type": "file", "mtime": "yesterday"},
        {"name": "f", "type": "file", "uid": -1},
        {"name": "d", "type": "dir"},
        {"name": "d", "type": "dir", "subtree": "0" * 64},
        {"name": "l", "type": "symlink", "linktarget_raw": "!"},
        {"name": "x", "type": "fifo", "extended_attributes": [{"name": "user.x", "value": "!"}]},
        {"name": "f", "type": "file", "size": 1 << 70},
    ],
)
def test_entries_that_cannot_be(node: dict[str, object]) -> None:
    """They are reported, and make no snapshot."""
    fake = FakeRepository()
    found, problems = imported(fake.opened(fake.tree(node)))
    assert found == {}
    assert problems


def test_content_that_is_not_what_its_id_says() -> None:
    """A blob that is sealed well and has another hash, or a tree in the place of data, is never taken."""
    fake = FakeRepository()
    wrong = fake.blob("data", b"other", name=hashlib.sha256(b"content").hexdigest())
    tree = fake.tree({"name": "x", "type": "fifo"})
    for content in (wrong, tree):
        found, problems = imported(fake.opened(fake.tree({"name": "f", "type": "file", "content": [content]})))
        assert found == {}
        assert problems


def test_a_later_format() -> None:
    """It is refused, and not taken for damage."""
    backend = MemoryBackend()
    backend.save(ObjectKind.CONFIG, CONFIG_NAME, seal(b'{"version":3,"id":"' + b"0" * 64 + b'"}'))
    key = hashlib.scrypt(b"x", salt=b"salt", n=16, r=1, p=1, dklen=64)
    master = {"encrypt": MASTER.encrypt, "mac": {"k": MASTER.mac_k, "r": MASTER.mac_r}}
    plain = json.dumps(master, default=lambda value: base64.b64encode(value).decode()).encode()
    iv = bytes(range(16))
    encryptor = Cipher(algorithms.AES(key[:32]), modes.CTR(iv)).encryptor()
    ciphertext = encryptor.update(plain)
    one_time = Cipher(algorithms.AES(key[32:48]), modes.ECB()).encryptor().update(iv)
    data = iv + ciphertext + Poly1305.generate_tag(key[48:] + one_time, ciphertext)
    fields = {"kdf": "scrypt", "N": 16, "r": 1, "p": 1, "salt": base64.b64encode(b"salt").decode()}
    slot = json.dumps({**fields, "data": base64.b64encode(data).decode()}).encode()
    backend.save(ObjectKind.KEY, hashlib.sha256(slot).hexdigest(), slot)
    with pytest.raises(UnsupportedFormat, match="format 3"):
        open_restic(backend, lambda: b"x")


@given(st.binary(max_size=300))
def test_trees_of_noise(noise: bytes) -> None:
    """Whatever a tree holds, it is imported or reported."""
    fake = FakeRepository()
    source = fake.opened(fake.blob("tree", noise))
    repository, reporter = make_repository(), Quiet()
    try:
        import_restic(source, repository, restic_snapshots(source, reporter), reporter, never)
    except BackupForgeError:
        pytest.fail("one bad tree must not end an import")
