"""Making a tree from what comes in an order of its own, as from an archive: content is stored as it comes.

Small files are collected, so that many are hashed and copied together; a large one is done when its last chunk is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from bfrepo.archiver.archiver import ArchiveStats
from bfrepo.archiver.assembler import TreeAssembler, Unplaceable
from bfrepo.archiver.filesaver import FileSaver, PendingFile
from bfrepo.archiver.images import ImageSaver
from bfrepo.core.errors import Interrupted
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Reporter
from bfrepo.core.protocols import BlobSaver
from bfrepo.core.units import MIB
from bfrepo.data.node import Node
from bfrepo.sources.base import ImageSource, Member, MemberSource, OpenFile

_BATCH_SIZE: Final = 1 * MIB
_UNFINISHED: Final = 256
"""Large files whose last chunks may be under way while others are read."""


class MemberArchiver:
    """Stores what a source gives, and gives the root of the tree. Used once, by one thread."""

    def __init__(
        self,
        saver: BlobSaver,
        files: FileSaver,
        reporter: Reporter,
        cancelled: Callable[[], bool],
        *,
        image_chunk: int = MIB,
    ) -> None:
        """`image_chunk` is the bytes of a chunk of a disk image."""
        self.stats = ArchiveStats()
        self._saver = saver
        self._files = files
        self._reporter = reporter
        self._cancelled = cancelled
        self._image_chunk = image_chunk
        self._buffer = memoryview(bytearray(_BATCH_SIZE))
        self._filled = 0
        self._small: list[tuple[int, Node]] = []
        self._large: deque[tuple[int, PendingFile]] = deque()

    def save(self, source: MemberSource) -> bytes:
        """The tree ID of everything that comes. Raises Interrupted, and what the source and storing raise."""
        with TreeAssembler() as trees:
            for member in source.members():
                if self._cancelled():
                    raise Interrupted("stopped while reading an archive")
                self._reporter.progress.current = b"/" + b"/".join(member.path)
                try:
                    self._add(trees, member)
                except Unplaceable as error:
                    self._leave_out(member, str(error))
            self._save_small(trees)
            while self._large:
                self._finish_large(trees)
            if isinstance(source, ImageSource):
                self._save_images(trees, source)
            return trees.save(self._saver)

    def _add(self, trees: TreeAssembler, member: Member) -> None:
        node = member.node
        if member.link is not None:
            trees.link(member.path, member.link, node)
            self._count(member, None)
        elif node.type == "dir":
            trees.add_directory(member.path, node)
            self.stats.dirs += 1
        elif member.file is None:
            trees.fill(trees.reserve(member.path, node), node)
            self.stats.others += 1
        else:
            number = trees.reserve(member.path, node)
            self._read(trees, number, node, member.file)
            self._count(member, node)

    def _read(self, trees: TreeAssembler, number: int, node: Node, file: OpenFile) -> None:
        size = node.size
        if size > self._files.small_file or list(file.extents(size)) != [(0, size)]:
            self._large.append((number, self._files.save_open(file)))
            while self._large and (len(self._large) > _UNFINISHED or self._large[0][1].is_ready()):
                self._finish_large(trees)
            return
        if self._filled + size > _BATCH_SIZE:
            self._save_small(trees)
        file.read_into(self._buffer[self._filled : self._filled + size], 0)
        self._filled += size
        self._small.append((number, node))

    def _save_small(self, trees: TreeAssembler) -> None:
        nodes = [node for _, node in self._small]
        blob_ids = self._saver.save_many(BlobKind.DATA, self._buffer, [node.size for node in nodes])
        for (number, node), blob_id in zip(self._small, blob_ids, strict=True):
            node.content = blob_id
            trees.fill(number, node)
        self._small.clear()
        self._filled = 0

    def _finish_large(self, trees: TreeAssembler) -> None:
        number, pending = self._large.popleft()
        trees.fill(number, pending.finish(self._saver))

    def _save_images(self, trees: TreeAssembler, source: ImageSource) -> None:
        images = source.images()
        progress = self._reporter.progress
        progress.bytes_total = progress.bytes_done + sum(image.node.size for image in images)
        numbers = [trees.reserve(image.path, image.node) for image in images]
        with ImageSaver(self._saver, [image.node for image in images], self._image_chunk) as saver:
            for part in source.parts():
                if self._cancelled():
                    raise Interrupted("stopped while reading disks")
                for place, offset, data in part.pieces:
                    saver.put(place, offset, data)
                for place, start, end in part.ranges:
                    saver.cover(place, start, end)
                    progress.bytes_done += end - start
            for number, image, node in zip(numbers, images, saver.finish(), strict=True):
                trees.fill(number, node)
                self._count_image(image)

    def _count_image(self, image: Member) -> None:
        self.stats.files_new += 1
        self.stats.size += image.node.size
        self._reporter.progress.files_done += 1
        if self._reporter.wants_items:
            self._reporter.item(b"/" + b"/".join(image.path), "new", image.node.size)

    def _count(self, member: Member, node: Node | None) -> None:
        size = node.size if node is not None else 0
        self.stats.files_new += 1
        self.stats.size += size
        progress = self._reporter.progress
        progress.files_done += 1
        progress.bytes_done += size
        if self._reporter.wants_items:
            self._reporter.item(b"/" + b"/".join(member.path), "new", size)

    def _leave_out(self, member: Member, why: str) -> None:
        self.stats.errors += 1
        self._reporter.problem(b"/" + b"/".join(member.path), f"left out: {why}")
