"""VMA archives as files: what is in one, its disks as raw images, and an archive made of raw images."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from bfrepo.core.errors import Interrupted, ObjectNotFound, SourceError, TargetError, UsageError
from bfrepo.core.progress import Reporter
from bfrepo.core.protocols import Buffer
from bfrepo.exporter.sinks import Sink
from bfrepo.formats.vma import SECTOR, MalformedVma, VmaDevice, VmaHeader
from bfrepo.formats.vma_reader import ByteStream, VmaReader
from bfrepo.formats.vma_writer import VmaWriter
from bfrepo.localfs.extents import data_extents

_PARTIAL: Final = ".partial"
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class VmaExtracted:
    """What was extracted: names of files, bytes of the disks, and those of them that the archive had."""

    files: tuple[str, ...]
    size: int
    stored: int


def read_vma_header(stream: ByteStream) -> VmaHeader:
    """What an archive begins with. Raises MalformedVma."""
    return VmaReader(stream).header


def extract_vma(
    stream: ByteStream, target: str, names: Collection[str], reporter: Reporter, cancelled: Callable[[], bool]
) -> VmaExtracted:
    """Write configuration files, and disks as raw images with holes, to a directory.

    `names` are the devices that are wanted, all if it is empty. A file gets its name when all of the archive was read
    and is right; before that, and after an error, it ends in ".partial". Raises MalformedVma, ObjectNotFound for a
    device that is not there, TargetError, also where a file exists, and Interrupted.
    """
    reader = VmaReader(stream)
    devices = _chosen(reader.header, names)
    reporter.progress.bytes_total = sum(device.size for device in reader.header.devices)
    contents = dict(reader.header.configs)
    files = (*contents, *(_image(device) for device in devices))
    if len(set(files)) != len(files):
        raise MalformedVma("the VMA archive has two entries that would be the same file")
    with _target(target) as folder, ExitStack() as stack:
        _refuse_existing(folder, target, files)
        for name, content in contents.items():
            _write_at(stack.enter_context(_new_file(folder, name)), content, 0)
        images = {device.id: stack.enter_context(_new_file(folder, _image(device))) for device in devices}
        for device in devices:
            os.ftruncate(images[device.id], device.size)
        _write_runs(reader, images, reporter, cancelled)
        for name in files:
            os.rename(name + _PARTIAL, name, src_dir_fd=folder, dst_dir_fd=folder)
    return VmaExtracted(files, sum(device.size for device in devices), reader.stored)


def create_vma(
    sink: Sink,
    configs: Mapping[str, str],
    disks: Mapping[str, str],
    reporter: Reporter,
    cancelled: Callable[[], bool],
    *,
    created_s: int,
) -> VmaHeader:
    """Write an archive of configuration files and raw images or block devices, given as paths by their names in it.

    Raises SourceError for what cannot be read, UsageError for what the format cannot hold, Interrupted, and what the
    sink raises.
    """
    with ExitStack() as stack:
        opened = {name: stack.enter_context(_Disk(path, reporter, cancelled)) for name, path in disks.items()}
        devices = tuple(VmaDevice(number, name, disk.size) for number, (name, disk) in enumerate(opened.items(), 1))
        contents = tuple((name, _read_config(path)) for name, path in configs.items())
        header = VmaHeader(os.urandom(16), created_s, contents, devices)
        reporter.progress.bytes_total = sum(device.size for device in devices)
        try:
            writer = VmaWriter(sink, header)
        except (ValueError, MalformedVma) as error:
            raise UsageError(str(error)) from error
        for device in devices:
            reporter.progress.current = device.name.encode()
            writer.write(device, opened[device.name])
    return header


def _chosen(header: VmaHeader, names: Collection[str]) -> Sequence[VmaDevice]:
    known = {device.name for device in header.devices}
    for name in names:
        if name not in known:
            raise ObjectNotFound(f"the VMA archive has no disk {name}", hint=f"it has {', '.join(sorted(known))}")
    return [device for device in header.devices if not names or device.name in names]


def _image(device: VmaDevice) -> str:
    return f"{device.name}.raw"


def _write_runs(
    reader: VmaReader, images: Mapping[int, int], reporter: Reporter, cancelled: Callable[[], bool]
) -> None:
    for run in reader.runs():
        if cancelled():
            raise Interrupted("stopped while extracting", hint="what was extracted ends in .partial")
        reporter.progress.bytes_done = reader.seen
        fd = images.get(run.device.id)
        if fd is not None:
            _write_at(fd, run.data, run.offset)
    reporter.progress.bytes_done = reader.seen
    for fd in images.values():
        os.fsync(fd)


@contextmanager
def _target(path: str) -> Iterator[int]:
    """The directory, made if need be. An OSError within is a TargetError."""
    try:
        os.makedirs(path, exist_ok=True)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield folder
        finally:
            os.close(folder)
    except OSError as error:
        raise TargetError(f"cannot extract to {path}: {os.strerror(error.errno or 0)}") from error


def _refuse_existing(folder: int, target: str, names: Sequence[str]) -> None:
    taken = set(os.listdir(folder)).intersection(names)
    if taken:
        raise TargetError(f"there is {min(taken)} in {target} already", hint="extract to an empty directory")


@contextmanager
def _new_file(folder: int, name: str) -> Iterator[int]:
    """A new file with a name for the time being, for its owner alone."""
    if name + _PARTIAL in os.listdir(folder):
        os.unlink(name + _PARTIAL, dir_fd=folder)
    fd = os.open(name + _PARTIAL, _NEW, 0o600, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def _write_at(fd: int, data: Buffer, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        count = os.pwrite(fd, rest, offset)
        rest = rest[count:]
        offset += count


def _read_config(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error


class _Disk:
    """A raw image or a block device."""

    def __init__(self, path: str, reporter: Reporter, cancelled: Callable[[], bool]) -> None:
        self._path = path
        self._progress = reporter.progress
        self._cancelled = cancelled
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.size = os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror}") from error
        if not stat.S_ISREG(mode := os.fstat(self._fd).st_mode) and not stat.S_ISBLK(mode):
            os.close(self._fd)
            raise SourceError(f"{path} is neither a file nor a block device")
        if self.size % SECTOR or not self.size:
            os.close(self._fd)
            raise SourceError(f"{path} has {self.size} bytes: a disk has a multiple of {SECTOR}")

    def __enter__(self) -> _Disk:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._fd)

    def extents(self) -> Iterator[tuple[int, int]]:
        """See Disk."""
        return data_extents(self._fd, self.size)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """See Disk."""
        if self._cancelled():
            raise Interrupted("stopped while writing the archive")
        while buffer:
            try:
                count = os.preadv(self._fd, [buffer], offset)
            except OSError as error:
                raise SourceError(f"cannot read {self._path}: {error.strerror}") from error
            if not count:
                raise SourceError(f"{self._path} became shorter while it was read")
            buffer = buffer[count:]
            offset += count
            self._progress.bytes_done += count
