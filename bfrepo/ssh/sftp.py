"""SFTP over a channel: requests go out without waiting, and their answers are asked for when they are needed.

The server answers in any order, though OpenSSH's keeps it. That matters for nothing here but the order of effects: what
must come after something else is sent when that has been answered, or the server is known to keep the order.

Paramiko has an SFTP client as well. It waits for each answer, or reads ahead with a thread that polls; it tells neither
the code of a failure nor what the server can do; and for the same bytes it takes twice the CPU to write, and five times
to read.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, NoReturn

from paramiko import Channel
from paramiko.ssh_exception import SSHException

from bfrepo.core.protocols import Buffer
from bfrepo.ssh.errors import SshError, SshRefused
from bfrepo.ssh.sftp_format import (
    BAD_MESSAGE,
    PIECE,
    Answer,
    Attributes,
    Entry,
    Request,
    SftpStatus,
    Space,
    printable,
    read_piece,
    write_piece,
)

_OK: Final = 0
_END_OF_FILE: Final = 1

_VERSION: Final = 3
_INIT, _VERSION_ANSWER = 1, 2
_STATUS, _HANDLE, _DATA, _NAME, _ATTRIBUTES, _EXTENDED_REPLY = 101, 102, 103, 104, 105, 201
_READS_UNDER_WAY: Final = 128
_LONGEST_ANSWER: Final = 1 << 22
_ANSWER_S: Final = 300.0
"""How long a server that is reachable may think: it may be writing 64 MiB to a slow disk."""

_UINT32 = struct.Struct(">I")
_HEAD = struct.Struct(">IBI")


class SftpSession:
    """A conversation with an SFTP server. One thread at a time.

    Whatever goes wrong with the connection raises SshError and leaves the session broken for good.
    """

    def __init__(self, channel: Channel, host: str, *, in_order: bool = False) -> None:
        """Begin on a channel to the subsystem. `host` is for messages. Raises SshRefused, SshError.

        `in_order` says that this server does one thing after the other, in the order in which it was asked.
        """
        self._channel = channel
        self._host = host
        self._number = 0
        self._received = b""
        self._position = 0
        self._answers: dict[int, memoryview | None] = {}
        self._broken = False
        self.in_order = in_order
        channel.settimeout(_ANSWER_S)
        self.extensions: Mapping[str, bytes] = self._begin()

    @property
    def usable(self) -> bool:
        """Whether nothing is known to be wrong with it."""
        return not self._broken and not self._channel.closed and self._channel.get_transport().is_active()

    def close(self) -> None:
        """End the conversation, and everything open in it. May be called again."""
        self._broken = True
        with suppress(SSHException, EOFError, OSError):  # there may be nobody to say goodbye to
            self._channel.close()

    def send(self, request: Request, data: Buffer = b"") -> int:
        """Send a request with `data` at its end; gives its number. Nothing keeps a reference to `data`."""
        self._number = (self._number + 1) & 0xFFFF_FFFF
        length = 5 + len(request.body) + len(data)
        self._transmit(b"".join((_HEAD.pack(length, request.kind, self._number), request.body, data)))
        self._answers[self._number] = None
        return self._number

    def take(self, number: int) -> memoryview:
        """The answer to a request, from its kind on. Waits for it."""
        while (answer := self._answers[number]) is None:
            self._receive()
        del self._answers[number]
        return answer

    def drop(self, number: int) -> None:
        """The answer to a request does not matter."""
        self._answers.pop(number, None)

    def _begin(self) -> dict[str, bytes]:
        extensions = {}
        try:
            self._transmit(_UINT32.pack(5) + bytes([_INIT]) + _UINT32.pack(_VERSION))
            answer = Answer(self._next_packet())
            if answer.byte() != _VERSION_ANSWER or answer.uint32() < _VERSION:
                self._fail_for_nonsense()
            while answer.rest():
                name = bytes(answer.string()).decode(errors="replace")
                extensions[name] = bytes(answer.string())
        except SftpStatus:
            self._fail_for_nonsense()
        except SshRefused:
            raise
        except SshError as error:
            raise SshError(f"{error}, before SFTP began; its log may tell why") from error
        return extensions

    def _transmit(self, data: bytes) -> None:
        with self._guarded():
            self._channel.sendall(data)

    def _receive(self) -> None:
        packet = self._next_packet()
        if len(packet) < 5:
            self._fail_for_nonsense()
        number = _UINT32.unpack_from(packet, 1)[0]
        if number in self._answers:
            # What is large is used at once; what is small must not keep the whole of what came with it in memory.
            self._answers[number] = packet if packet[0] == _DATA else memoryview(bytes(packet))

    def _next_packet(self) -> memoryview:
        self._await(4)
        length = _UINT32.unpack_from(self._received, self._position)[0]
        if not 0 < length <= _LONGEST_ANSWER:
            self._fail_for_nonsense()
        self._await(4 + length)
        start = self._position + 4
        self._position = start + length
        return memoryview(self._received)[start : start + length]

    def _await(self, count: int) -> None:
        """Wait for bytes. All that has come is taken, because paramiko moves what is left each time."""
        missing = count - (len(self._received) - self._position)
        if missing <= 0:
            return
        parts = [self._received[self._position :]]
        with self._guarded():
            while missing > 0:
                part = self._channel.recv(_LONGEST_ANSWER)
                if not part:
                    raise EOFError("the server hung up")
                parts.append(part)
                missing -= len(part)
        self._received, self._position = b"".join(parts), 0

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Whatever interrupts a transfer, a Ctrl-C too, leaves nobody knows how much of a packet: it is the end."""
        try:
            yield
        except TimeoutError as error:
            self.close()
            raise SshError(f"{self._host} has not answered for {_ANSWER_S:.0f} seconds") from error
        except (SSHException, EOFError, OSError) as error:
            self.close()
            cause = self._channel.get_transport().get_exception() or error
            raise SshError(f"the connection to {self._host} was lost: {cause or type(cause).__name__}") from error
        except BaseException:
            self.close()
            raise

    def _fail_for_nonsense(self) -> NoReturn:
        said = printable(self._received[self._position : self._position + 60])
        self.close()
        raise SshRefused(
            f"{self._host} says what is not SFTP: {said!r}",
            hint="if that is text, a start-up file of the user's shell there prints it: it must not without a terminal",
        )


class Batch:
    """Requests that are on their way. When the block ends, answers that nobody asked for do not matter any more."""

    def __init__(self, session: SftpSession) -> None:
        self._session = session
        self._numbers: set[int] = set()

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._numbers:
            self._session.drop(number)
        self._numbers.clear()

    def send(self, request: Request) -> int:
        """Send a request and give its number. Raises SshError."""
        number = self._session.send(request)
        self._numbers.add(number)
        return number

    def write(self, handle: bytes, offset: int, data: Buffer) -> int:
        """Send a write of at most PIECE bytes and give its number; a status answers it. Raises SshError."""
        number = self._session.send(write_piece(handle, offset, len(data)), data)
        self._numbers.add(number)
        return number

    def done(self, number: int) -> None:
        """Wait until a request was carried out. Raises SftpStatus, SshError."""
        self._answer(number, None)

    def handle(self, number: int) -> bytes:
        """The handle that answers an open. Raises SftpStatus, SshError."""
        return bytes(self._answer(number, _HANDLE).string())

    def data(self, number: int) -> memoryview | None:
        """The bytes that answer a read, None at the end of the file. Raises SftpStatus, SshError."""
        answer = self._answer(number, _DATA, end=True)
        return answer.string() if answer.rest() else None

    def read(self, handle: bytes, offset: int, buffer: memoryview) -> int:
        """Fill the buffer with bytes of a file, with many pieces under way; fewer only at its end. How many there were.

        Raises SftpStatus, SshError.
        """
        wanted = deque((start, min(PIECE, len(buffer) - start)) for start in range(0, len(buffer), PIECE))
        under_way: deque[tuple[int, int, int]] = deque()
        end = len(buffer)
        while wanted or under_way:
            while wanted and len(under_way) < _READS_UNDER_WAY:
                start, length = wanted.popleft()
                under_way.append((self.send(read_piece(handle, offset + start, length)), start, length))
            number, start, length = under_way.popleft()
            data = self.data(number)
            if not data:
                end = min(end, start)
                wanted.clear()
                continue
            count = min(len(data), length)
            buffer[start : start + count] = data[:count]
            if count < length:  # a piece may come in parts
                wanted.appendleft((start + count, length - count))
        return end

    def attributes(self, number: int) -> Attributes:
        """What answers `status_of`. Raises SftpStatus, SshError."""
        return self._answer(number, _ATTRIBUTES).attributes()

    def entries(self, number: int) -> list[Entry] | None:
        """What answers `read_directory`, None after the last. Raises SftpStatus, SshError."""
        answer = self._answer(number, _NAME, end=True)
        return [answer.entry() for _ in range(answer.uint32())] if answer.rest() else None

    def names(self, number: int) -> tuple[list[bytes], list[bytes]]:
        """What answers the extension users-groups-by-id@openssh.com: of users, and of groups; empty where there is no
        name. Raises SftpStatus, SshError.
        """
        answer = self._answer(number, _EXTENDED_REPLY)
        users, groups = Answer(answer.string()), Answer(answer.string())
        return _strings(users), _strings(groups)

    def space(self, number: int) -> Space:
        """What answers the extension statvfs@openssh.com. Raises SftpStatus, SshError."""
        return self._answer(number, _EXTENDED_REPLY).space()

    def _answer(self, number: int, kind: int | None, *, end: bool = False) -> Answer:
        """The body of an answer of this kind; with `end`, an empty one where the server says that is all."""
        self._numbers.discard(number)
        answer = Answer(self._session.take(number))
        found = answer.byte()
        answer.uint32()
        if found == kind:
            return answer
        if found != _STATUS:
            raise SftpStatus(BAD_MESSAGE, f"an answer of kind {found} that was not asked for")
        code = answer.uint32()
        if (code == _OK and kind is None) or (code == _END_OF_FILE and end):
            return Answer(memoryview(b""))
        raise SftpStatus(code, printable(bytes(answer.string())) if answer.rest() else "")


def _strings(answer: Answer) -> list[bytes]:
    found = []
    while answer.rest():
        found.append(bytes(answer.string()))
    return found
