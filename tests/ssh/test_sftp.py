from __future__ import annotations

import struct
from collections.abc import Callable
from typing import cast

import pytest
from paramiko import Channel

from bfrepo.ssh.errors import SshError, SshRefused
from bfrepo.ssh.sftp import Batch, SftpSession
from bfrepo.ssh.sftp_format import Attributes, Entry, SftpStatus, close_handle, extended, read_directory, read_piece
from bfrepo.ssh.sftp_format import open_file as opening

STATUS, HANDLE, DATA, NAME, ATTRIBUTES = 101, 102, 103, 104, 105
VERSION = struct.pack(">IBI", 5, 2, 3)


def answer(kind: int, number: int, *parts: bytes | int) -> bytes:
    """An answer as a server sends it; numbers have four bytes, strings their length in front."""
    body = b"".join(
        struct.pack(">I", part) if isinstance(part, int) else struct.pack(">I", len(part)) + part for part in parts
    )
    return struct.pack(">IBI", 5 + len(body), kind, number) + body


class FakeChannel:
    """A channel whose server sends what it is told to, in parts of `step` bytes, and then hangs up."""

    def __init__(self, *answers: bytes, step: int = 1 << 20, begin: bytes = VERSION) -> None:
        self.incoming = begin + b"".join(answers)
        self.outgoing = b""
        self.closed = False
        self._step = step

    def sendall(self, data: bytes) -> None:
        self.outgoing += data

    def recv(self, count: int) -> bytes:
        taken, self.incoming = self.incoming[: self._step], self.incoming[self._step :]
        return taken

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def close(self) -> None:
        self.closed = True

    def get_transport(self) -> FakeChannel:
        return self

    def is_active(self) -> bool:
        return True

    def get_exception(self) -> None:
        return None


def session(*answers: bytes, step: int = 1 << 20, begin: bytes = VERSION) -> SftpSession:
    """A session with such a server."""
    return SftpSession(cast(Channel, FakeChannel(*answers, step=step, begin=begin)), "the server")


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_answers_come_in_any_order_and_in_any_parts(step: int) -> None:
    """Each request gets its own answer, whatever order they come in and wherever the stream is cut."""
    answers = [answer(DATA, 3, b"third"), answer(HANDLE, 1, b"first"), answer(STATUS, 2, 0, b"", b"")]
    with Batch(session(*answers, step=step)) as batch:
        opened, closed, read = (
            batch.send(each) for each in (opening(b"x", 1), close_handle(b"h"), read_piece(b"h", 0, 5))
        )
        assert batch.handle(opened) == b"first"
        batch.done(closed)
        assert bytes(batch.data(read) or b"") == b"third"


def test_answers_that_nobody_wants_are_dropped() -> None:
    """What a batch asked for and did not take is not kept, whether it came before or comes after the batch's end."""
    found = session(
        answer(HANDLE, 1, b"early"), answer(HANDLE, 2, b"h"), answer(HANDLE, 3, b"late"), answer(HANDLE, 4, b"i")
    )
    with Batch(found) as batch:
        numbers = [batch.send(opening(b"x", 1)) for _ in range(3)]
        assert batch.handle(numbers[1]) == b"h"
    with Batch(found) as batch:
        assert batch.handle(batch.send(opening(b"x", 1))) == b"i"
    assert found._answers == {}


@pytest.mark.parametrize(
    ("code", "text", "shown"),
    [
        (2, b"No such file", "No such file (status 2)"),
        (4, b"", "failure (status 4)"),
        (3, b"\x1b[31mred\xff", "?[31mred\N{REPLACEMENT CHARACTER} (status 3)"),
    ],
)
def test_refusals(code: int, text: bytes, shown: str) -> None:
    """A status that is no success raises, with its code and with words that are safe to show."""
    with Batch(session(answer(STATUS, 1, code, text, b"en"))) as batch, pytest.raises(SftpStatus) as caught:
        batch.handle(batch.send(opening(b"x", 1)))
    assert (caught.value.code, str(caught.value)) == (code, shown)


def test_end_of_a_file_and_of_a_directory() -> None:
    """The end is no failure where one reads on until it comes; elsewhere it is."""
    ends = [answer(STATUS, number, 1, b"End of file", b"") for number in (1, 2, 3)]
    with Batch(session(*ends)) as batch:
        assert batch.data(batch.send(read_piece(b"h", 0, 1))) is None
        assert batch.entries(batch.send(read_directory(b"h"))) is None
        with pytest.raises(SftpStatus):
            batch.handle(batch.send(opening(b"x", 1)))


def test_attributes_that_a_server_leaves_out() -> None:
    """Names come with whatever the server says about them, in any combination."""
    everything: list[bytes | int] = [
        0x8000_000F,
        0,
        10,
        1000,
        1000,
        0o100400,
        5,
        7,
        1,
        b"vendor@example.com",
        b"whatever",
    ]
    names = answer(NAME, 1, 2, b"a", b"-r--------", *everything, b"b", b"", 0)
    with Batch(session(names)) as batch:
        assert batch.entries(batch.send(read_directory(b"h"))) == [
            Entry(b"a", Attributes(size=10, mode=0o100400, mtime=7, uid=1000, gid=1000)),
            Entry(b"b", Attributes(size=None, mode=None, mtime=None)),
        ]


@pytest.mark.parametrize(
    "wrong",
    [answer(HANDLE, 1), answer(HANDLE, 1, 99), answer(DATA, 1, b"x"), answer(STATUS, 1), answer(NAME, 1, 0xFFFF_FFFF)],
)
def test_answers_that_make_no_sense(wrong: bytes) -> None:
    """An answer that ends too early, or to another question, is a failure of that request."""
    with Batch(session(wrong)) as batch, pytest.raises(SftpStatus):
        batch.handle(batch.send(opening(b"x", 1)))


@pytest.mark.parametrize("length", [0, 1 << 30])
def test_stream_that_makes_no_sense(length: int) -> None:
    """What cannot be an answer ends the session before memory is taken for it."""
    found = session(struct.pack(">IBI", length, HANDLE, 1))
    with pytest.raises(SshRefused, match="what is not SFTP"), Batch(found) as batch:
        batch.handle(batch.send(opening(b"x", 1)))
    assert not found.usable


@pytest.mark.parametrize("begin", [answer(STATUS, 4), struct.pack(">IBI", 5, 2, 2), b"Last login: Tue May 14"])
def test_beginning_that_makes_no_sense(begin: bytes) -> None:
    """A server that does not begin as SFTP does is refused."""
    with pytest.raises(SshRefused, match="what is not SFTP"):
        session(begin=begin)


@pytest.mark.parametrize("begin", [b"", VERSION[:3]])
def test_server_that_hangs_up_at_once(begin: bytes) -> None:
    """A server that says nothing is told apart from one that is lost later."""
    with pytest.raises(SshError, match="before SFTP began"):
        session(begin=begin)


def test_server_that_hangs_up() -> None:
    """A session whose server hangs up is broken for good, also for the answer that was begun."""
    found = session(answer(DATA, 1, b"whole")[:-1])
    with Batch(found) as batch, pytest.raises(SshError, match="the connection to the server was lost"):
        batch.data(batch.send(read_piece(b"h", 0, 5)))
    assert not found.usable


def test_what_a_server_can_do() -> None:
    """The extensions that a server names are known."""
    named = b"".join(struct.pack(">I", len(each)) + each for each in (b"fsync@openssh.com", b"1", b"x", b""))
    found = session(begin=struct.pack(">IBI", 5 + len(named), 2, 3) + named)
    assert found.extensions == {"fsync@openssh.com": b"1", "x": b""}


def test_space() -> None:
    """What is left on a file system is read from the numbers that OpenSSH sends."""
    numbers = (4096, 1024, 900, 800, 700, 50, 40, 30, 0, 1, 255)
    body = b"".join(struct.pack(">Q", number) for number in numbers)
    reply = struct.pack(">IBI", 5 + len(body), 201, 1) + body
    with Batch(session(reply)) as batch:
        space = batch.space(batch.send(extended("statvfs@openssh.com", b"/")))
    assert (space.free, space.free_names, space.read_only) == (1024 * 700, 30, True)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_interrupted_transfer_breaks_the_session(
    monkeypatch: pytest.MonkeyPatch, interruption: Callable[[], BaseException]
) -> None:
    """After a Ctrl-C in a transfer nobody knows where the stream is: the session is not used again."""
    found = session()

    def interrupt(data: bytes) -> None:
        raise interruption()

    monkeypatch.setattr(found._channel, "sendall", interrupt)
    with pytest.raises((KeyboardInterrupt, SystemExit)), Batch(found) as batch:
        batch.send(opening(b"x", 1))
    assert not found.usable
