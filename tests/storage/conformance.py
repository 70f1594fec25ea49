"""What every backend must do, word for word what `bfrepo/storage/base.py` promises. A new one joins like this:

    class TestS3Backend(BackendConformance):
        @pytest.fixture
        def place(self, bucket: Bucket) -> Place:
            return Place(open=lambda: S3Backend(bucket.location), plant=bucket.put)

`denied` and `full` are fixtures that a backend overrides if it can be brought to refuse, or to run out of space.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import pytest
from blake3 import blake3

from bfrepo.core.errors import (
    DamagedObject,
    RepositoryExists,
    StorageDenied,
    StorageFull,
    StorageObjectExists,
    StorageObjectMissing,
)
from bfrepo.core.protocols import Buffer
from bfrepo.storage import abilities
from bfrepo.storage.base import Backend, ObjectInfo, ObjectKind
from bfrepo.storage.layout import DIRECTORY_KINDS, object_path

PACK = ObjectKind.PACK
CONFIG = ObjectKind.CONFIG
MIB = 1 << 20
NO_NAMES = ["", "config", "0" * 63, "0" * 65, "A" * 64, "../" + "0" * 61, "0" * 63 + "\n"]


@dataclass(frozen=True)
class Place:
    """A place for one repository: how to open it, as often as one likes, and how to put a foreign thing into it."""

    open: Callable[[], Backend]
    plant: Callable[[str, bytes], None] | None = None


def name_of(data: Buffer) -> str:
    """The name an object with these bytes has."""
    return blake3(data).hexdigest()


def stored(backend: Backend, kind: ObjectKind, data: bytes) -> str:
    """Save `data` and return its name."""
    backend.save(kind, name_of(data), data)
    return name_of(data)


def uploaded(backend: Backend, kind: ObjectKind, data: bytes) -> str:
    """Upload `data` in two parts and return its name; without success the upload is aborted."""
    upload = backend.upload(kind)
    try:
        upload.write(data[: len(data) // 2])
        upload.write(data[len(data) // 2 :])
        upload.commit(name_of(data))
    finally:
        upload.abort()
    return name_of(data)


def names(backend: Backend, kind: ObjectKind) -> set[str]:
    """The names that a listing gives."""
    return {info.name for info in backend.list(kind)}


def run_at_once(tasks: list[Callable[[], object]]) -> list[object]:
    """Run the tasks in threads that begin together; gives what each returned or raised."""
    barrier = threading.Barrier(len(tasks))

    def run(task: Callable[[], object]) -> object:
        barrier.wait(10)
        try:
            return task()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(run, tasks))


class BackendConformance:
    """The suite. Subclasses provide `place`."""

    replaces_at_once = True
    """Whether an object stays readable while two writers at once replace it by the same bytes."""

    @pytest.fixture
    def place(self) -> Place:
        """An empty place, on which `create` was not called yet."""
        raise NotImplementedError

    @pytest.fixture
    def denied(self) -> Iterator[Backend]:
        """A backend with one pack (of b"kept") that now refuses every change for lack of permission."""
        pytest.skip("this backend has no permissions to take away")

    @pytest.fixture
    def full(self) -> Iterator[Backend]:
        """A created, empty backend with room for less than 2 MiB."""
        pytest.skip("this backend cannot run out of space here")

    @pytest.fixture
    def backend(self, place: Place) -> Iterator[Backend]:
        with closing(place.open()) as backend:
            backend.create()
            yield backend

    # --- whole objects

    @pytest.mark.parametrize("kind", DIRECTORY_KINDS)
    def test_saved_object_is_loaded(self, backend: Backend, kind: ObjectKind) -> None:
        """What was saved is loaded unchanged, with its size."""
        name = stored(backend, kind, b"some bytes")
        assert backend.load(kind, name) == b"some bytes"
        assert backend.size(kind, name) == 10

    @pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
    def test_any_buffer_is_saved(self, backend: Backend, make: Callable[[bytes], Buffer]) -> None:
        """Every kind of buffer can be saved and uploaded."""
        backend.save(ObjectKind.INDEX, name_of(b"saved"), make(b"saved"))
        upload = backend.upload(PACK)
        upload.write(make(b"uploaded"))
        upload.commit(name_of(b"uploaded"))
        assert backend.load(ObjectKind.INDEX, name_of(b"saved")) == b"saved"
        assert backend.load(PACK, name_of(b"uploaded")) == b"uploaded"

    def test_empty_object(self, backend: Backend) -> None:
        """An object of no bytes is an object."""
        name = stored(backend, ObjectKind.CLAIM, b"")
        assert list(backend.list(ObjectKind.CLAIM)) == [ObjectInfo(name, 0)]
        assert backend.load(ObjectKind.CLAIM, name) == b""
        assert backend.read(ObjectKind.CLAIM, name, 0, 0) == b""
        backend.read_into(ObjectKind.CLAIM, name, 0, memoryview(bytearray()))

    def test_empty_upload(self, backend: Backend) -> None:
        """An upload may end without a byte."""
        backend.upload(PACK).commit(name_of(b""))
        assert backend.size(PACK, name_of(b"")) == 0

    def test_saving_twice_is_harmless(self, backend: Backend) -> None:
        """The same object can be saved again."""
        name = stored(backend, ObjectKind.INDEX, b"same")
        stored(backend, ObjectKind.INDEX, b"same")
        assert list(backend.list(ObjectKind.INDEX)) == [ObjectInfo(name, 4)]
        assert backend.load(ObjectKind.INDEX, name) == b"same"

    def test_kinds_are_apart(self, backend: Backend) -> None:
        """The same name in another kind is another object."""
        name = stored(backend, ObjectKind.INDEX, b"bytes")
        assert names(backend, ObjectKind.SNAPSHOT) == set()
        with pytest.raises(StorageObjectMissing):
            backend.load(ObjectKind.SNAPSHOT, name)

    def test_another_handle_sees_what_was_stored(self, backend: Backend, place: Place) -> None:
        """What is stored is seen by whoever opens the place, at once."""
        with closing(place.open()) as other:
            for data in (b"first", b"second"):
                name = stored(backend, PACK, data)
                assert other.load(PACK, name) == data
                assert name in names(other, PACK)

    @pytest.mark.parametrize("method", ["size", "load", "read", "read_into"])
    @pytest.mark.parametrize("kind", ObjectKind)
    def test_missing_object(self, backend: Backend, kind: ObjectKind, method: str) -> None:
        """Whatever reads an object that is not there says that it is missing, and where."""
        name = "config" if kind is CONFIG else name_of(b"nobody wrote this")
        stored(backend, PACK, b"another pack")
        calls: dict[str, Callable[[], object]] = {
            "size": lambda: backend.size(kind, name),
            "load": lambda: backend.load(kind, name),
            "read": lambda: backend.read(kind, name, 0, 1),
            "read_into": lambda: backend.read_into(kind, name, 0, memoryview(bytearray(1))),
        }
        with pytest.raises(StorageObjectMissing) as caught:
            calls[method]()
        assert name[:8] in str(caught.value)
        assert backend.location in str(caught.value)

    @pytest.mark.parametrize("name", NO_NAMES)
    def test_wrong_name_is_refused(self, backend: Backend, name: str) -> None:
        """What is no object's name reaches no storage: not a path out of the repository, nor another spelling."""
        buffer = memoryview(bytearray(1))
        calls: list[Callable[[], object]] = [
            lambda: backend.size(PACK, name),
            lambda: backend.load(PACK, name),
            lambda: backend.read(PACK, name, 0, 1),
            lambda: backend.read_into(PACK, name, 0, buffer),
            lambda: backend.save(PACK, name, b"x"),
            lambda: backend.upload(PACK).commit(name),
            lambda: backend.delete(PACK, name),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="name"):
                call()
        assert names(backend, PACK) == set()

    # --- config

    def test_config_is_saved_once(self, backend: Backend) -> None:
        """A second config is refused and the first stays (INV-3)."""
        backend.save(CONFIG, "config", b"first")
        with pytest.raises(StorageObjectExists):
            backend.save(CONFIG, "config", b"second")
        assert backend.load(CONFIG, "config") == b"first"
        assert list(backend.list(CONFIG)) == [ObjectInfo("config", 5)]

    def test_no_config_is_listed_in_a_new_place(self, backend: Backend) -> None:
        """A place without a config lists none."""
        assert list(backend.list(CONFIG)) == []

    def test_one_of_many_configs_wins(self, backend: Backend, place: Place) -> None:
        """Of several that save a config at once exactly one succeeds, and its bytes are what stays."""
        handles = [place.open() for _ in range(8)]

        def save(number: int) -> bytes:
            data = bytes([number]) * 1000
            handles[number].save(CONFIG, "config", data)
            return data

        results = run_at_once([partial(save, number) for number in range(8)])
        for handle in handles:
            handle.close()
        winners = [result for result in results if isinstance(result, bytes)]
        assert [type(result) for result in results if not isinstance(result, bytes)] == [StorageObjectExists] * 7
        assert [backend.load(CONFIG, "config")] == winners

    def test_config_is_never_uploaded(self, backend: Backend) -> None:
        """An upload of a config is a mistake of the caller."""
        with pytest.raises(ValueError, match="config"):
            backend.upload(CONFIG)

    # --- ranges

    @pytest.mark.parametrize(("offset", "length"), [(0, 1), (0, 1000), (999, 1), (17, 400), (1000, 0), (0, 0)])
    def test_range(self, backend: Backend, offset: int, length: int) -> None:
        """A range inside the object is read exactly, into new memory or into the caller's."""
        data = bytes(range(250)) * 4
        name = stored(backend, PACK, data)
        buffer = bytearray(b"\xff" * (length + 20))
        backend.read_into(PACK, name, offset, memoryview(buffer)[10 : 10 + length])
        assert backend.read(PACK, name, offset, length) == data[offset : offset + length]
        assert bytes(buffer) == b"\xff" * 10 + data[offset : offset + length] + b"\xff" * 10

    @pytest.mark.parametrize(
        ("offset", "length"), [(0, 1001), (999, 2), (1000, 1), (5000, 1), (0, 1 << 60), (1 << 60, 1)]
    )
    def test_range_past_the_end(self, backend: Backend, offset: int, length: int) -> None:
        """A range that the object does not have is damage, named, and takes no memory."""
        name = stored(backend, PACK, bytes(1000))
        with pytest.raises(DamagedObject, match=name[:8]):
            backend.read(PACK, name, offset, length)
        if length < MIB:
            with pytest.raises(DamagedObject, match=name[:8]):
                backend.read_into(PACK, name, offset, memoryview(bytearray(length)))

    # --- listing

    @pytest.mark.parametrize("kind", DIRECTORY_KINDS)
    def test_listing_names_every_object(self, backend: Backend, kind: ObjectKind) -> None:
        """A listing gives each object of the kind once, with its size."""
        expected = [ObjectInfo(stored(backend, kind, bytes(size)), size) for size in range(40)]
        found = sorted(backend.list(kind), key=lambda info: info.size)
        assert found == expected

    @pytest.mark.parametrize("kind", DIRECTORY_KINDS)
    def test_empty_listing(self, backend: Backend, kind: ObjectKind) -> None:
        """A new repository holds nothing."""
        assert list(backend.list(kind)) == []

    def test_strangers_are_not_listed(self, backend: Backend, place: Place) -> None:
        """Names that do not look like ours, or lie where ours do not, are skipped."""
        if place.plant is None:
            pytest.skip("this backend has no place for strangers")
        name = stored(backend, PACK, b"ours")
        stranger = name_of(b"stranger")
        for path in (
            f"packs/{stranger}",
            f"packs/{stranger[:2]}/README",
            f"packs/{stranger[:2]}/{stranger}.part",
            f"packs/{stranger[:2]}/{stranger.upper()}",
            f"packs/{'00' if stranger[:2] != '00' else '01'}/{stranger}",
            f"packs/zz/{stranger}",
            f"index/{stranger[:2]}/{stranger}",
            "index/.DS_Store",
            stranger,
            "config.old",
        ):
            place.plant(path, b"stranger")
        assert names(backend, PACK) == {name}
        assert names(backend, ObjectKind.INDEX) == set()
        assert names(backend, CONFIG) == set()

    # --- uploads

    def test_upload_is_invisible_until_its_commit(self, backend: Backend) -> None:
        """No part of an upload can be seen, the whole of it as soon as it is committed (INV-2)."""
        name = name_of(b"one two")
        upload = backend.upload(PACK)
        upload.write(b"one ")
        upload.write(b"two")
        assert names(backend, PACK) == set()
        with pytest.raises(StorageObjectMissing):
            backend.load(PACK, name)
        upload.commit(name)
        assert list(backend.list(PACK)) == [ObjectInfo(name, 7)]
        assert backend.load(PACK, name) == b"one two"

    def test_aborted_upload_leaves_nothing(self, backend: Backend, place: Place) -> None:
        """An aborted upload is as if it had never been, however often it is aborted."""
        upload = backend.upload(PACK)
        upload.write(b"never mind")
        upload.abort()
        upload.abort()
        with closing(place.open()) as other:
            assert [names(other, kind) for kind in ObjectKind] == [set()] * len(ObjectKind)

    def test_abandoned_upload_is_invisible(self, backend: Backend, place: Place) -> None:
        """An upload that was neither committed nor aborted, as after a crash, shows nowhere."""
        upload = backend.upload(PACK)
        upload.write(b"the power goes now")
        with closing(place.open()) as other:
            assert [names(other, kind) for kind in ObjectKind] == [set()] * len(ObjectKind)
        upload.abort()

    def test_abort_after_commit_does_nothing(self, backend: Backend) -> None:
        """A committed object stays whatever happens to its upload."""
        upload = backend.upload(PACK)
        upload.write(b"stays")
        upload.commit(name_of(b"stays"))
        upload.abort()
        assert backend.load(PACK, name_of(b"stays")) == b"stays"

    @pytest.mark.parametrize("end", ["abort", "commit"])
    def test_ended_upload_is_refused(self, backend: Backend, end: str) -> None:
        """Nothing can be done with an upload that has ended."""
        upload = backend.upload(PACK)
        upload.write(b"data")
        if end == "abort":
            upload.abort()
        else:
            upload.commit(name_of(b"data"))
        calls: list[Callable[[], object]] = [
            lambda: upload.write(b"more"),
            lambda: upload.commit(name_of(b"datamore")),
        ]
        for call in calls:
            with pytest.raises(ValueError):  # noqa: PT011 - whatever text the backend has for it
                call()
        assert names(backend, PACK) == ({name_of(b"data")} if end == "commit" else set())

    def test_memory_given_to_an_upload_may_be_reused(self, backend: Backend) -> None:
        """A backend keeps no reference to the caller's memory."""
        buffer = bytearray(b"first ")
        upload = backend.upload(PACK)
        upload.write(buffer)
        buffer[:] = b"second"
        upload.write(memoryview(buffer)[:3])
        buffer[:] = b"XXXXXX"
        upload.commit(name_of(b"first sec"))
        assert backend.load(PACK, name_of(b"first sec")) == b"first sec"

    def test_many_uploads_at_once(self, backend: Backend) -> None:
        """Uploads that are open side by side do not mix."""
        uploads = [backend.upload(PACK) for _ in range(10)]
        for _ in range(3):
            for number, upload in enumerate(uploads):
                upload.write(bytes([number]) * 100)
        contents = [bytes([number]) * 300 for number in range(10)]
        for upload, data in zip(uploads, contents, strict=True):
            upload.commit(name_of(data))
        assert [backend.load(PACK, name_of(data)) for data in contents] == contents

    def test_large_upload(self, backend: Backend) -> None:
        """An object of 100 MB goes through an upload and is read back in ranges."""
        block = bytearray(b"\xa5" * MIB)
        hasher = blake3()
        upload = backend.upload(PACK)
        for number in range(100):
            block[:4] = number.to_bytes(4, "little")
            hasher.update(block)
            upload.write(block)
        name = hasher.hexdigest()
        upload.commit(name)
        hasher = blake3()
        for number in range(100):
            backend.read_into(PACK, name, number * MIB, memoryview(block))
            hasher.update(block)
        assert backend.size(PACK, name) == 100 * MIB
        assert hasher.hexdigest() == name

    # --- threads

    def test_the_same_object_from_many_writers(self, backend: Backend, place: Place) -> None:
        """Any number may store the same object at once, through one handle or several; all succeed."""
        data = b"wanted by all" * 10_000
        other = place.open()

        tasks: list[Callable[[], object]] = [
            partial(store, handle, PACK, data) for handle in (backend, other) for store in (stored, uploaded) * 2
        ]
        results = run_at_once(tasks)
        other.close()
        assert results == [name_of(data)] * 8
        assert list(backend.list(PACK)) == [ObjectInfo(name_of(data), len(data))]
        assert backend.load(PACK, name_of(data)) == data

    def test_threads_read_while_others_write(self, backend: Backend) -> None:
        """Readers get the right bytes of many objects while writers add, replace and delete; listings stay whole."""
        contents = [bytes([number]) * 5000 for number in range(60)]
        stable = {stored(backend, PACK, data): data for data in contents}
        finished = threading.Event()

        def write(number: int) -> None:
            for turn in range(40):
                gone = stored(backend, PACK, b"%d %d" % (number, turn))
                if self.replaces_at_once or turn % 2 == number:
                    stored(backend, PACK, contents[turn])
                backend.delete(PACK, gone)

        def read() -> int:
            buffer = memoryview(bytearray(1000))
            rounds = 0
            while not finished.is_set() or not rounds:
                rounds += 1
                for name, data in stable.items():
                    backend.read_into(PACK, name, 2000, buffer)
                    assert buffer == data[:1000]
                    assert backend.read(PACK, name, 4990, 10) == data[:10]
                assert stable.keys() <= names(backend, PACK)
            return rounds

        with ThreadPoolExecutor(5) as pool:
            readers = [pool.submit(read) for _ in range(3)]
            try:
                for writer in [pool.submit(write, number) for number in range(2)]:
                    writer.result()
            finally:
                finished.set()
            assert all(reader.result() for reader in readers)

    # --- deletion

    def test_deleted_object_is_gone(self, backend: Backend) -> None:
        """A deleted object is neither listed nor found, also where it was read before."""
        name = stored(backend, PACK, b"condemned")
        kept = stored(backend, PACK, b"kept")
        assert backend.read(PACK, name, 0, 4) == b"cond"
        backend.delete(PACK, name)
        assert names(backend, PACK) == {kept}
        calls: list[Callable[[], object]] = [
            lambda: backend.load(PACK, name),
            lambda: backend.size(PACK, name),
            lambda: backend.read(PACK, name, 0, 4),
        ]
        for call in calls:
            with pytest.raises(StorageObjectMissing):
                call()

    @pytest.mark.parametrize("kind", ObjectKind)
    def test_deleting_what_is_not_there(self, backend: Backend, kind: ObjectKind) -> None:
        """A deletion may be made again, or of what never was."""
        name = "config" if kind is CONFIG else name_of(b"x")
        backend.delete(kind, name)
        backend.save(kind, name, b"x")
        backend.delete(kind, name)
        backend.delete(kind, name)
        assert names(backend, kind) == set()

    @pytest.mark.parametrize("kind", [PACK, ObjectKind.CLAIM])
    def test_looking_for_a_few(self, backend: Backend, kind: ObjectKind) -> None:
        """Of objects that are looked for those are found that are there; a deletion may tell whether there was any."""
        there = {stored(backend, kind, bytes([number])) for number in range(3)}
        away = {name_of(bytes([number])) for number in range(3, 6)}
        assert abilities.present(backend, kind, there | away) == there
        assert abilities.present(backend, kind, []) == set()
        gone = there.pop()
        if abilities.takes(backend):
            assert [abilities.take(backend, kind, gone) for _ in range(2)] == [True, False]
        else:
            backend.delete(kind, gone)
        assert abilities.present(backend, kind, [gone, *there]) == there

    def test_deleted_object_can_come_back(self, backend: Backend) -> None:
        """What was deleted can be stored again, and is read anew."""
        name = stored(backend, PACK, b"again")
        assert backend.read(PACK, name, 0, 5) == b"again"
        backend.delete(PACK, name)
        stored(backend, PACK, b"again")
        assert backend.read(PACK, name, 0, 5) == b"again"

    # --- the place

    @pytest.mark.parametrize("kind", ObjectKind)
    def test_create_refuses_a_place_in_use(self, backend: Backend, place: Place, kind: ObjectKind) -> None:
        """A place that holds any object is never made into another repository."""
        backend.save(kind, "config" if kind is CONFIG else name_of(b"x"), b"x")
        with closing(place.open()) as other, pytest.raises(RepositoryExists):
            other.create()

    def test_create_refuses_a_place_with_strangers(self, place: Place) -> None:
        """A place that holds something that is not ours is left alone."""
        if place.plant is None:
            pytest.skip("this backend has no place for strangers")
        place.plant("thesis.txt", b"years of work")
        with closing(place.open()) as backend, pytest.raises(RepositoryExists):
            backend.create()

    def test_create_goes_on_after_a_crash(self, backend: Backend, place: Place) -> None:
        """What a `create` left that never got to store an object is taken for empty."""
        with closing(place.open()) as other:
            other.create()
            name = stored(other, PACK, b"works")
        assert backend.load(PACK, name) == b"works"

    def test_it_says_where_it_is(self, backend: Backend) -> None:
        """A backend has a name for messages and says how many calls are worth making at once."""
        assert backend.location
        assert backend.connections >= 1

    def test_close_twice(self, place: Place) -> None:
        """A backend may be closed again."""
        backend = place.open()
        backend.create()
        name = stored(backend, PACK, b"x")
        backend.read(PACK, name, 0, 1)
        backend.close()
        backend.close()

    # --- refusals

    def test_no_permission(self, denied: Backend) -> None:
        """A refusal for lack of permission is StorageDenied, and names the object or kind and the place."""
        calls: list[Callable[[], object]] = [
            lambda: denied.save(PACK, name_of(b"new"), b"new"),
            lambda: uploaded(denied, PACK, b"new"),
            lambda: denied.delete(PACK, name_of(b"kept")),
        ]
        for call in calls:
            with pytest.raises(StorageDenied) as caught:
                call()
            assert denied.location in str(caught.value)
            assert "pack" in str(caught.value)
            assert caught.value.hint

    @pytest.mark.parametrize("store", [stored, uploaded])
    def test_full_storage(self, full: Backend, store: Callable[[Backend, ObjectKind, bytes], str]) -> None:
        """A full storage is StorageFull, shows nothing of the object, still reads and deletes, and has room again."""
        data = bytes(range(256)) * (2 * MIB // 256)
        earlier = stored(full, PACK, b"earlier")
        with pytest.raises(StorageFull, match="pack") as caught:
            store(full, PACK, data)
        assert full.location in str(caught.value)
        assert names(full, PACK) == {earlier}
        assert full.load(PACK, earlier) == b"earlier"
        full.delete(PACK, earlier)
        later = stored(full, PACK, data[: MIB // 2])
        assert list(full.list(PACK)) == [ObjectInfo(later, MIB // 2)]

    def test_objects_lie_where_the_layout_says(self, backend: Backend, place: Place) -> None:
        """An object put at its path by other means (a copy of the repository) is found."""
        if place.plant is None:
            pytest.skip("this backend has no paths")
        for kind in ObjectKind:
            name = "config" if kind is CONFIG else name_of(b"copied")
            place.plant(object_path(kind, name), b"copied")
            assert backend.load(kind, name) == b"copied"
            assert names(backend, kind) == {name}
