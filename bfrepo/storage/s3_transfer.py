"""How the bytes of objects get into a bucket, and out of it.

Nothing in S3 can be renamed, and the name of a pack is known when all its bytes are. So an upload waits in a spool and
is sent at its `commit`, under its name, as one request: durable and seen whole when that returns, or not at all. The
other way, parts sent as they come to a provisional name and copied at the end, would spare the spool, but costs twice
the writes, needs deletions where a writer should not be able to delete, and leaves an object behind at every crash.

Packs too large for one request to be repeated lightly go in parts, several at a time; the object appears when the
server joins them. Parts of an upload that was cut off are invisible, but cost money on AWS: a rule of the bucket should
remove incomplete uploads after some days.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

from bfrepo.core.protocols import Buffer
from bfrepo.core.units import MIB
from bfrepo.storage.s3_client import content_md5
from bfrepo.storage.s3_errors import IncompleteAnswer, required
from bfrepo.storage.spool import Spool

_ONE_REQUEST: Final = 128 * MIB
"""Larger objects go in parts. Packs of the usual size do not: a request for each costs more than it gains."""
_PART: Final = 32 * MIB
"""Packs have at most 4 GiB, so that there are never as many as the 10,000 parts that S3 allows; each has at least 5 MiB
but the last."""
_PARTS_AT_ONCE: Final = 4
_BLOCK: Final = MIB
"""What goes between a socket and our memory at a time: small enough to stay in the processor's cache."""
_IN_MEMORY: Final = MIB


class Sender:
    """Sends whole objects to one bucket. Any thread may call anything; errors are those of botocore.

    Every body has its MD5 with it, so that what a network changes on the way is refused. All servers look at that one,
    not all at the SHA-256 in a signature, and where objects are locked it is asked for.
    """

    def __init__(self, client: Any, bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def send_bytes(self, key: str, data: Buffer, headers: Mapping[str, object]) -> None:
        """Store a small object. `headers` are arguments of PutObject."""
        body = data if isinstance(data, (bytes, bytearray)) else bytes(data)
        self._put(key, body, content_md5(body), headers)

    def send_spool(self, key: str, spool: Spool, headers: Mapping[str, object]) -> None:
        """Store an object of any size."""
        if spool.size <= _IN_MEMORY:
            self.send_bytes(key, spool.read(0, spool.size), headers)
        elif spool.size <= _ONE_REQUEST:
            body = _Body(spool, 0, spool.size)
            self._put(key, body, content_md5(*body.blocks()), headers)
        else:
            self._send_parts(key, spool, headers)

    def _put(self, key: str, body: object, md5: str, headers: Mapping[str, object]) -> None:
        answer = self._client.put_object(Bucket=self._bucket, Key=key, Body=body, ContentMD5=md5, **headers)
        required(answer, "ETag")

    def _send_parts(self, key: str, spool: Spool, headers: Mapping[str, object]) -> None:
        started = self._client.create_multipart_upload(Bucket=self._bucket, Key=key, **headers)
        upload_id = required(started, "UploadId")

        def send(number: int) -> dict[str, object]:
            start = (number - 1) * _PART
            body = _Body(spool, start, min(_PART, spool.size - start))
            md5 = content_md5(*body.blocks())
            answer = self._client.upload_part(
                Bucket=self._bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=body, ContentMD5=md5
            )
            return {"PartNumber": number, "ETag": required(answer, "ETag")}

        try:
            count = -(-spool.size // _PART)
            with ThreadPoolExecutor(_PARTS_AT_ONCE, thread_name_prefix="s3-part") as pool:
                parts = list(_results(pool, send, count))
            completed = self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}
            )
            required(completed, "ETag")
        except BaseException:
            with suppress(Exception):  # what is left of it is for the bucket's own rule to remove
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)
            raise


def _results(
    pool: ThreadPoolExecutor, send: Callable[[int], dict[str, object]], count: int
) -> Iterator[dict[str, object]]:
    """The answers in order. The first failure ends it; what was not begun by then never is."""
    futures = [pool.submit(send, number) for number in range(1, count + 1)]
    try:
        for future in futures:
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


class _Body(io.RawIOBase):
    """A range of a spool, as botocore wants what it sends: it is read once for its hash, then again to be sent."""

    def __init__(self, spool: Spool, start: int, length: int) -> None:
        super().__init__()
        self._spool = spool
        self._start = start
        self._length = length
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        rest = max(0, self._length - self._at)
        data = self._spool.read(self._start + self._at, rest if size < 0 else min(size, rest))
        self._at += len(data)
        return data

    def blocks(self) -> Iterator[bytes]:
        """All of it, a piece at a time; it is then at its start again."""
        self.seek(0)
        while block := self.read(_BLOCK):
            yield block
        self.seek(0)


def read_exactly(body: Any, length: int) -> bytes:
    """The next `length` bytes of an answer. Raises errors of botocore, IncompleteAnswer."""
    data: bytes = body.read(length)
    while len(data) < length:
        more: bytes = body.read(length - len(data))
        _check_progress(len(more))
        data += more
    return data


def fill(body: Any, view: memoryview) -> None:
    """The next bytes of an answer, right into `view`. Raises what `read_exactly` raises."""
    while view:
        count: int = body.readinto(view[:_BLOCK])
        _check_progress(count)
        view = view[count:]


def _check_progress(count: int) -> None:
    if not count:
        raise IncompleteAnswer("the answer of the server ended before it was complete")
