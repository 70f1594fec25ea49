"""What lets other threads work while a large reply is written: mount/_reply.c."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mount._reply
from tests.support.program import process_environment

STAND_IN = """
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
int fuse_reply_buf(void *request, const char *data, size_t size)
{
    struct pollfd other = {.fd = (int)(intptr_t)request, .events = POLLIN};
    return poll(&other, 1, size < 65536 ? 300 : 60000) * 100 + data[size - 1];
}
"""
"""What stands for libfuse: waits for another thread to write to a pipe, the number of which is the request's."""

REPLY = """
import ctypes, os, sys, threading
from mount import _reply
_reply.stand_for(ctypes.CDLL(sys.argv[1])._name)
reply = ctypes.PyDLL(_reply.__file__).fuse_reply_buf  # called with the lock, as pyfuse3 does
reply.argtypes = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
sys.setswitchinterval(1000)  # nobody gets the lock but who is given it
for size in (65535, 65536):
    (reader, writer), go, data = os.pipe(), threading.Event(), b"\\x07" * size
    other = threading.Thread(target=lambda: (go.wait(), os.write(writer, b"x")))
    other.start()
    go.set()
    print(size, reply(reader, data, size))
    other.join()
"""


def python(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """What another Python says."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=process_environment(environment),
        capture_output=True,
        text=True,
        check=True,
    )


def test_pyfuse3_replies_by_it() -> None:
    """The linker finds ours in libfuse's place for pyfuse3, and libfuse's for ours."""
    said = python("-c", "import mount.main", LD_DEBUG="bindings").stderr
    if "binding file" not in said:
        pytest.skip("this linker does not tell what it does")
    lines = [line for line in said.splitlines() if "`fuse_reply_buf'" in line and "binding file" in line]
    found = [line.split(" to ")[1].split(" [")[0] for line in lines if "pyfuse3" in line.split(" to ")[0]]
    assert [Path(each).name.split(".")[0] for each in found] == ["_reply", "libfuse3"]


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a compiler")
def test_others_work_while_a_large_reply_is_written(tmp_path: Path) -> None:
    """A large reply is written without the lock, a small one with it; both arrive, and tell how it went."""
    (tmp_path / "stand_in.c").write_text(STAND_IN)
    library = tmp_path / "libstandin.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "stand_in.c"], check=True)
    said = python("-c", REPLY, library).stdout
    assert said.splitlines() == ["65535 7", "65536 107"]


def test_a_library_that_is_not_there(tmp_path: Path) -> None:
    """What is not loaded is an error, and not looked for."""
    with pytest.raises(OSError, match="not loaded"):
        mount._reply.stand_for(str(tmp_path / "libmissing.so"))
