"""A cluster of Proxmox VE of one node, simulated: its API over HTTPS, and a real sshd with stand-ins for its programs.

    with simulate(tmp_path) as cluster:
        cluster.add_machine(100, "web", {"drive-scsi0": image})

What a node's programs do is in tests/support/proxmox_node.py. The API answers as pve-http-server does, refuses what its
published schema does not have (tests/support/proxmox_schema.json), and runs tasks as threads with real UPIDs.
"""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import trustme

from bfrepo.sources.proxmox.api import ApiSettings, ProxmoxApi
from bfrepo.sources.proxmox.node import NodeAccess
from bfrepo.ssh.config import SshSettings
from tests.support.proxmox_node import NODE
from tests.support.sshd import Sshd, free_port, serve

TOKEN: Final = "backup@pve!forge=0b5c8f60-7f3c-4b6f-9d58-aaaaaaaaaaaa"
SCHEMA: Final = json.loads((Path(__file__).parent / "proxmox_schema.json").read_text())
PROGRAMS: Final = ("vzdump", "qmrestore", "qm", "pct", "flock")

Guest = dict[str, Any]


@dataclass
class Task:
    """A task that runs, or has ended when it has an exit status."""

    upid: str
    kind: str
    vmid: str
    started: int
    lines: list[str] = field(default_factory=list)
    exitstatus: str | None = None


@dataclass
class Cluster:
    """The simulated cluster."""

    folder: Path
    sshd: Sshd
    port: int
    ca_file: Path
    tasks: dict[str, Task] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    """What goes wrong: (status, message) for the path of a request, once."""
    ending: str = "OK"
    """With what the next task ends."""

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def work(self) -> Path:
        """The directory on the node for what backups need meanwhile."""
        return self.folder / "work"

    @property
    def settings(self) -> ApiSettings:
        """What gets one in."""
        return ApiSettings(host="127.0.0.1", port=self.port, token=TOKEN, ca_file=str(self.ca_file))

    @property
    def api(self) -> ProxmoxApi:
        return ProxmoxApi(self.settings)

    @property
    def access(self) -> NodeAccess:
        """The way to the node, whatever it is called."""
        options = self.sshd.options
        ssh = SshSettings(
            identity_file=options.identity_file, known_hosts=options.known_hosts, config_file=options.config_file
        )
        return NodeAccess(way=f"127.0.0.1:{self.sshd.port}", ssh=ssh, work=str(self.work))

    def add_machine(self, vmid: int, name: str, disks: Mapping[str, Path], **more: Any) -> None:
        """A machine with these disks, which stay where they are."""
        lines = [f"name: {name}", "memory: 512"]
        lines += [f"{each.removeprefix('drive-')}: local-lvm:vm-{vmid}-disk-0,size=1G" for each in disks]
        folder = self.state / "disks" / str(vmid)
        folder.mkdir(parents=True)
        for each, path in disks.items():
            (folder / f"{each}.raw").symlink_to(path)
        self.add_guest(vmid, {"kind": "qemu", "name": name, "config": "".join(f"{line}\n" for line in lines), **more})

    def add_container(self, vmid: int, name: str, root: Path, **more: Any) -> None:
        """A container with these files, which stay where they are."""
        config = f"hostname: {name}\nmemory: 512\nunprivileged: 1\nrootfs: local-lvm:vm-{vmid}-disk-0,size=8G\n"
        (self.state / "roots").mkdir(exist_ok=True)
        (self.state / "roots" / str(vmid)).symlink_to(root)
        self.add_guest(vmid, {"kind": "lxc", "name": name, "config": config, **more})

    def add_guest(self, vmid: int, guest: Guest) -> None:
        """Any guest."""
        plain = {"node": NODE, "status": "running", "lock": "", "snapshots": []}
        (self.state / "guests" / f"{vmid}.json").write_text(json.dumps({**plain, **guest}))

    def guest(self, vmid: int) -> Guest:
        """What is known of a guest now."""
        found: Guest = json.loads((self.state / "guests" / f"{vmid}.json").read_text())
        return found

    def guests(self) -> dict[int, Guest]:
        """All guests."""
        return {int(path.stem): json.loads(path.read_text()) for path in (self.state / "guests").glob("*.json")}

    def change(self, vmid: int, **values: Any) -> None:
        """Change a guest."""
        (self.state / "guests" / f"{vmid}.json").write_text(json.dumps({**self.guest(vmid), **values}))

    def disk(self, vmid: int, name: str) -> bytes:
        """The content of a disk."""
        return (self.state / "disks" / str(vmid) / f"{name}.raw").read_bytes()

    def set_fault(self, name: str, what: str) -> None:
        """Have a program of the node do this at that place: see `fault` in proxmox_node.py."""
        (self.state / "faults" / name).write_text(what)

    def clear_fault(self, name: str) -> None:
        """No more."""
        (self.state / "faults" / name).unlink(missing_ok=True)
        (self.state / "faults" / f"{name}.reached").unlink(missing_ok=True)

    def reached(self, name: str) -> int | None:
        """The process that waits at that place, if one does."""
        try:
            return int((self.state / "faults" / f"{name}.reached").read_text() or 0) or None
        except FileNotFoundError:
            return None

    def said(self) -> list[str]:
        """The programs that ran, with their arguments."""
        path = self.state / "said"
        return path.read_text().splitlines() if path.exists() else []

    def start(self, kind: str, vmid: int, user: str, work: Callable[[Task], None]) -> str:
        """Run a task; its UPID."""
        started = int(time.time())
        upid = (
            f"UPID:{NODE}:{len(self.tasks) + 4096:08X}:{started % 0xFFFFFFFF:08X}:{started:08X}:{kind}:{vmid}:{user}:"
        )
        task = self.tasks[upid] = Task(upid, kind, str(vmid), started)
        ending = self.ending

        def run() -> None:
            work(task)
            last = {"OK": "TASK OK"}.get(ending, f"TASK {ending}" if "WARN" in ending else f"TASK ERROR: {ending}")
            task.lines.append(last)
            task.exitstatus = ending

        threading.Thread(target=run, daemon=True).start()
        return upid


@contextmanager
def simulate(folder: Path) -> Iterator[Cluster]:
    """Run a cluster without guests."""
    state = folder / "state"
    for name in ("guests", "disks", "faults", "roots"):
        (state / name).mkdir(parents=True)
    programs = folder / "bin"
    (programs / ".programs").mkdir(parents=True)
    for name in PROGRAMS:
        (programs / ".programs" / name).symlink_to(Path(__file__).parent / "proxmox_node.py")
        script = programs / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -B "{programs}/.programs/{name}" "$@"\n')
        script.chmod(0o755)
    ca = trustme.CA()
    ca_file = folder / "pve-root-ca.pem"
    ca.cert_pem.write_to_path(str(ca_file))
    variables = f"SetEnv PATH={programs}:/usr/bin:/bin PVE_STATE={state} PVE_NODE={NODE}"
    (folder / "ssh").mkdir()
    with serve(folder / "ssh", variables) as sshd:
        server = _Server(("127.0.0.1", free_port()), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("127.0.0.1").configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        cluster = server.cluster = Cluster(folder, sshd, server.server_address[1], ca_file)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield cluster
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
            for path in (state / "faults").iterdir():
                path.unlink()


def make_ext4(path: Path, tree: Path, size: int) -> Path:
    """An image of a file system with these files in it."""
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", str(tree), str(path)], check=True)
    return path


def read_ext4(image: Path, name: str) -> bytes:
    """A file in such an image."""
    return subprocess.run(["debugfs", "-R", f"cat {name}", image], check=True, capture_output=True).stdout


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, errors: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.errors = errors


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    cluster: Cluster

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up, or does not trust us, is none of ours."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        cluster, parts = self.server.cluster, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        params = dict(parse_qsl(parts.query if method == "GET" else body, keep_blank_values=True))
        path = parts.path.removeprefix("/api2/json")
        cluster.requests.append(f"{method} {path}")
        try:
            if self.headers.get("Authorization") != f"PVEAPIToken={TOKEN}":
                raise Refused(401, "Authentication failed!")
            if path in cluster.answers:
                raise Refused(*cluster.answers.pop(path))
            self._send(200, "OK", {"data": answer(cluster, method, path, params)})
        except Refused as error:
            said = {"data": None, "message": str(error), **({"errors": error.errors} if error.errors else {})}
            self._send(error.status, str(error), said)

    def _send(self, status: int, reason: str, document: Any) -> None:
        data = json.dumps(document).encode()
        self.send_response(status, reason)
        self.send_header("Content-Type", "application/json;charset=UTF-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def answer(cluster: Cluster, method: str, path: str, params: dict[str, str]) -> Any:
    """What the API says; all of it goes through the schema."""
    for name, endpoint in SCHEMA["endpoints"].items():
        wanted, template = name.split(" ", 1)
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template)
        match = re.fullmatch(pattern, path)
        if wanted != method or match is None:
            continue
        values = {key: unquote(value) for key, value in match.groupdict().items()}
        unknown = sorted(params.keys() - endpoint["parameters"].keys())
        if unknown:
            said = "property is not defined in schema and the schema does not allow additional properties"
            raise Refused(400, "Parameter verification failed.", dict.fromkeys(unknown, said))
        return ROUTES[name](cluster, **values, **{key.replace("-", "_"): value for key, value in params.items()})
    raise Refused(501, f"Method '{method} {path}' not implemented")


# --- what the endpoints do


def _version(cluster: Cluster) -> Any:
    return {"version": "9.1.11", "release": "9.1", "repoid": "0123456789abcdef"}


def _nodes(cluster: Cluster) -> Any:
    return [{"node": NODE, "status": "online", "id": f"node/{NODE}", "type": "node"}]


def _resources(cluster: Cluster, type: str = "") -> Any:
    assert type == "vm"
    found = []
    for vmid, guest in sorted(cluster.guests().items(), reverse=True):
        entry = {"id": f"{guest['kind']}/{vmid}", "type": guest["kind"], "vmid": vmid, "node": guest["node"],
                 "name": guest["name"], "status": guest["status"], "template": 0, "maxdisk": 1 << 30}  # fmt: skip
        found.append({**entry, **{key: guest[key] for key in ("lock", "tags", "pool") if guest.get(key)}})
    return found


def _next_id(cluster: Cluster) -> Any:
    return str(next(each for each in range(100, 1000) if each not in cluster.guests()))


def _config(cluster: Cluster, node: str, vmid: str) -> Any:
    pairs = (line.partition(": ")[::2] for line in _guest(cluster, node, vmid)["config"].splitlines())
    return {**dict(pairs), "digest": "0" * 40}


def _start(cluster: Cluster, node: str, vmid: str, kind: str) -> Any:
    _guest(cluster, node, vmid)

    def work(task: Task) -> None:
        task.lines.append("starting")
        time.sleep(0.1)
        if cluster.ending == "OK":
            cluster.change(int(vmid), status="running")

    return cluster.start(kind, int(vmid), TOKEN.partition("=")[0], work)


def _status(cluster: Cluster, node: str, upid: str) -> Any:
    task = _task(cluster, upid)
    parts = upid.split(":")
    plain = {"upid": upid, "node": node, "pid": int(parts[2], 16), "pstart": int(parts[3], 16), "type": task.kind,
             "id": task.vmid, "user": "backup@pve!forge", "starttime": task.started}  # fmt: skip
    if task.exitstatus is None:
        return {**plain, "status": "running"}
    return {**plain, "status": "stopped", "exitstatus": task.exitstatus}


def _log(cluster: Cluster, node: str, upid: str, start: str = "0", limit: str = "50") -> Any:
    lines = _task(cluster, upid).lines
    some = lines[int(start) : int(start) + int(limit)] if int(limit) else lines[int(start) :]
    found = [{"n": number, "t": text} for number, text in enumerate(some, int(start) + 1)]
    return found or [{"n": 1, "t": "no content"}]


def _guest(cluster: Cluster, node: str, vmid: str) -> Guest:
    if int(vmid) not in cluster.guests():
        raise Refused(500, f"Configuration file 'nodes/{node}/qemu-server/{vmid}.conf' does not exist")
    return cluster.guest(int(vmid))


def _task(cluster: Cluster, upid: str) -> Task:
    if upid not in cluster.tasks:
        raise Refused(400, "Parameter verification failed.", {"upid": "no such task"})
    return cluster.tasks[upid]


ROUTES: Final[dict[str, Callable[..., Any]]] = {
    "GET /version": _version,
    "GET /nodes": _nodes,
    "GET /cluster/resources": _resources,
    "GET /cluster/nextid": _next_id,
    "GET /nodes/{node}/qemu/{vmid}/config": _config,
    "GET /nodes/{node}/lxc/{vmid}/config": _config,
    "POST /nodes/{node}/qemu/{vmid}/status/start": lambda cluster, node, vmid: _start(cluster, node, vmid, "qmstart"),
    "POST /nodes/{node}/lxc/{vmid}/status/start": lambda cluster, node, vmid: _start(cluster, node, vmid, "vzstart"),
    "GET /nodes/{node}/tasks/{upid}/status": _status,
    "GET /nodes/{node}/tasks/{upid}/log": _log,
}
