"""Archives that follow each other on one stream, each filled up to whole records."""

from __future__ import annotations

import io
import tarfile
from typing import Final

import pytest

from bfrepo.formats.tar_header import BLOCK, MalformedTar
from bfrepo.formats.tar_reader import TarReader

RECORD: Final = 8 * BLOCK


def archive(name: str, blocks: int) -> bytes:
    """An archive of one file, of that many blocks with its header, up to the end of a record."""
    out = io.BytesIO()
    member = tarfile.TarInfo(name)
    member.size = (blocks - 1) * BLOCK
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(b"x" * member.size))
    whole = (blocks + 2) * BLOCK
    return out.getvalue()[:whole].ljust(whole + -whole % RECORD, b"\0")


def names(reader: TarReader) -> list[bytes]:
    """What is in the next archive."""
    return [member.path for member in reader.members()]


def test_archives_follow_each_other() -> None:
    """Wherever in a record an archive ends, between its two blocks of zeros too, the next is found behind it."""
    wanted = [f"file-{blocks}" for blocks in range(1, 20)]
    stream = io.BytesIO(b"".join(archive(name, blocks) for blocks, name in enumerate(wanted, 1)))
    reader = TarReader(stream, record=RECORD)
    assert [names(reader) for _ in wanted] == [[name.encode()] for name in wanted]
    assert reader.at_end()


def test_an_archive_that_is_cut_off() -> None:
    """The end of the stream within an archive is an error, also within what fills it up."""
    whole = archive("file", 6)
    for size in (BLOCK, len(whole) - BLOCK, len(whole) - 1):
        reader = TarReader(io.BytesIO(whole[:size]), record=RECORD)
        with pytest.raises(MalformedTar, match="truncated"):
            names(reader)
