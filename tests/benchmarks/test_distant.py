"""The parts of benchmarks/distant.py that compute and judge, and the line that it measures with."""

from __future__ import annotations

import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic

from benchmarks import distant
from benchmarks.figures import Key, goal_ratio, verdict
from benchmarks.running import Scene
from tests.support.long_line import HttpHeads, LongLine, long_line_to

SCENE = Scene(Path("/scene/tool-0"), (Path("/src/fs"), Path("/src/kernel")), 0)
FAR = distant.Far(LongLine(0), Path(), "rest:http://host", {"restic": ["-o", "something"]})


def figure(tool: str, phase: str, quantity: str = "wall_s") -> Key:
    """The name of a figure."""
    return Key(tool, "rest", phase, quantity)


def test_both_tools_use_the_same_server(tmp_path: Path) -> None:
    """Both are told of the same place, each with what it needs besides, and have every phase but the mount."""
    (tmp_path / "restic").write_text("")
    (tmp_path / "restic").chmod(0o755)
    for name in distant.TOOLS:
        contender = distant.make_contender(name, tmp_path, ["true"], FAR)
        given = contender.tool.commands(SCENE)
        assert set(given) == {"init", *distant.TITLES} - {"list"}
        assert given["first"][0][-3:] == ["backup", "/src/fs", "/src/kernel"]
        for line in (given["check"][0], contender.mount(SCENE, Path("/mnt"))):
            assert "rest:http://host/tool-0" in line
            assert ("something" in line) == (name == "restic")


def test_requests_must_be_fewer() -> None:
    """As many requests as restic makes are too many; each phase with each server has a goal for them."""
    goals = [goal for goal in distant.GOALS if goal.quantity == "requests"]
    assert len(goals) == len(distant.SERVERS) * len(distant.TITLES)
    middles = {figure("restic", "first", "requests"): 500.0, figure("backupforge", "first", "requests"): 499.0}
    assert verdict(goals[0], goal_ratio(middles, goals[0])) == "must met"
    middles[figure("backupforge", "first", "requests")] = 500.0
    assert verdict(goals[0], goal_ratio(middles, goals[0])) == "missed"


def test_a_long_line_takes_its_time() -> None:
    """A request on a new connection takes two round trips, the next one one; a long answer more."""

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            size = int(self.path[1:])
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.write(bytes(size))

        def log_message(self, format: str, *arguments: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        with long_line_to(server.server_port, round_trip_s=0.1, rate=10e6) as line:
            client = HTTPConnection("127.0.0.1", line.port)
            for size, least_s in ((10, 0.2), (10, 0.1), (2_000_000, 0.3)):
                begun = monotonic()
                client.request("GET", f"/{size}")
                assert client.getresponse().read() == bytes(size)
                assert least_s <= monotonic() - begun < least_s + 5
            assert [each.path for each in line.requests] == ["/10", "/10", "/2000000"]
            assert line.connections == 1
            assert line.down > 2_000_000
            client.close()
        server.shutdown()
        thread.join()


def test_heads_are_told_from_bodies() -> None:
    """What looks like a request in a body is none, whether the body has a length or comes in chunks."""
    talk = (
        b"POST /a HTTP/1.1\r\nContent-Length: 22\r\n\r\nGET /b HTTP/1.1\r\n\r\n\r\n\r\nPUT /c HTTP/1.1\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n4\r\nGET \r\n0\r\nTrailer: x\r\n\r\nHEAD /d HTTP/1.1\r\n\r\n"
    )
    talk = talk.replace(b"22", str(len(b"GET /b HTTP/1.1\r\n\r\n\r\n\r\n")).encode())
    for step in (1, 7, len(talk)):
        line = LongLine(0)
        heads = HttpHeads(line, 1)
        for start in range(0, len(talk), step):
            heads.pass_by(talk[start : start + step])
        assert [(each.method, each.path) for each in line.requests] == [("POST", "/a"), ("PUT", "/c"), ("HEAD", "/d")]
    heads = HttpHeads(line := LongLine(0), 1)
    heads.pass_by(b"SSH-2.0-something\r\n")
    heads.pass_by(b"GET / HTTP/1.1\r\n\r\n")
    assert line.requests == []
