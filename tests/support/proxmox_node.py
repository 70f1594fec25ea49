#!/usr/bin/env python3
"""The programs of a node of Proxmox VE that are used here, as stand-ins: vzdump, qmrestore, qm, pct and flock.

One program under several names. What guests there are is in the folder PVE_STATE, which the simulated API reads, too:

    guests/ID.json     kind, node, name, ..., config (text), lock, snapshots
    disks/ID/NAME.raw  disks of a machine; roots/ID a container's files
    faults/NAME        what goes wrong or waits: see `fault`
    said               a line for each program that ran, with its arguments

They write and read real archives by other code than the product's: tests/support/vma.py, and GNU tar with the options
of Proxmox.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
STATE = Path(os.environ.get("PVE_STATE", "/nonexistent"))
NODE = os.environ.get("PVE_NODE", "pve")
TAR = ("--totals", "--one-file-system", "-p", "--sparse", "--numeric-owner", "--acls", "--xattrs",
       "--xattrs-include=user.*", "--xattrs-include=security.capability", "--warning=no-file-ignored",
       "--warning=no-xattr-write")  # fmt: skip


def die(message: str, status: int = 255) -> NoReturn:
    """End with a message."""
    print(message, file=sys.stderr, flush=True)
    sys.exit(status)


def info(message: str) -> None:
    """A line of the log."""
    print(f"INFO: {message}", file=sys.stderr, flush=True)


def load(vmid: int) -> dict[str, Any]:
    """A guest, which has to be there."""
    path = STATE / "guests" / f"{vmid}.json"
    if not path.exists():
        die(f"Configuration file 'nodes/{NODE}/qemu-server/{vmid}.conf' does not exist", 2)
    guest: dict[str, Any] = json.loads(path.read_text())
    return guest


def store(vmid: int, guest: dict[str, Any]) -> None:
    """Write a guest down."""
    path = STATE / "guests" / f"{vmid}.json"
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(guest, indent=1))
    temporary.rename(path)


def fault(name: str) -> str:
    """What shall go wrong here, as tests have written it down: "wait" until the file is gone, "die" by SIGKILL, or
    words of the place's own."""
    path = STATE / "faults" / name
    if not path.exists():
        return ""
    what = path.read_text()
    if what == "wait":
        (STATE / "faults" / f"{name}.reached").write_text(str(os.getpid()))
        while path.exists():
            time.sleep(0.01)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return what


# --- vzdump


def vzdump(arguments: list[str]) -> None:
    """`vzdump ID --stdout 1 ...`"""
    vmid, options = int(arguments[0]), dict(zip(arguments[1::2], arguments[2::2], strict=True))
    assert options["--stdout"] == "1"
    assert options["--compress"] == "0"
    folder = Path(options["--dumpdir"])
    with open(STATE / "vzdump.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        guest = load(vmid)
        if guest["node"] != NODE:
            return  # as the real one: silently
        what = "VM" if guest["kind"] == "qemu" else "CT"
        info(f"starting new backup job: vzdump {' '.join(arguments)}")
        info(f"Starting Backup of {what} {vmid} ({guest['kind']})")
        if guest.get("lock"):
            die(f"ERROR: Backup of {what} {vmid} failed - {what} is locked ({guest['lock']})")
        fault("before-lock")
        store(vmid, {**guest, "lock": "backup"})
        os.set_blocking(1, True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        try:
            fault("locked")
            (folder / f"vzdump-{guest['kind']}-{vmid}.tmp").mkdir()
            dump(vmid, guest, folder, options["--mode"])
        except BrokenPipeError:
            die(f"ERROR: Backup of {what} {vmid} failed - vma_queue_write: write error - Broken pipe")
        finally:
            store(vmid, {**load(vmid), "lock": "", "snapshots": guest.get("snapshots", [])})
            for path in folder.iterdir():
                shutil.rmtree(path)
    info(f"Finished Backup of {what} {vmid} (00:00:01)")
    info("Backup job finished successfully")


def dump(vmid: int, guest: dict[str, Any], folder: Path, mode: str) -> None:
    """The backup itself, with what has to be undone."""
    if guest["kind"] == "qemu":
        if guest.get("agent") and guest["status"] == "running":
            info("issuing guest-agent 'fs-freeze' command")
        dump_machine(vmid, guest)
        return
    if mode == "snapshot":
        info("create storage snapshot 'vzdump'")
        store(vmid, {**load(vmid), "snapshots": [*guest.get("snapshots", []), "vzdump"]})
    fault("snapshot")
    dump_container(vmid, guest, folder)
    if mode == "snapshot":
        info("cleanup temporary 'vzdump' snapshot")


def dump_machine(vmid: int, guest: dict[str, Any]) -> None:
    """A VMA archive."""
    sys.path.insert(0, str(ROOT))
    from tests.support.vma import extent, header, with_header_checksum

    disks = sorted((STATE / "disks" / str(vmid)).glob("*.raw"))
    configs = {"qemu-server.conf": guest["config"].encode() + mapped(disks)}
    if guest.get("firewall"):
        configs["qemu-server.fw"] = guest["firewall"].encode()
    contents = {path.stem: path.stat().st_size for path in disks}
    uuid = os.urandom(16)
    head = bytearray(header(contents, configs, created=int(time.time())))
    head[8:24] = uuid
    send(with_header_checksum(head))
    fault("header")
    clusters = [
        (number, at // 65536) for number, path in enumerate(disks, 1) for at in range(0, path.stat().st_size, 65536)
    ]
    shuffle(clusters)
    opened = [path.open("rb") for path in disks]
    cut = fault("cut")
    for start in range(0, len(clusters), 58):
        entries = []
        for disk, cluster in clusters[start : start + 58]:
            opened[disk - 1].seek(cluster * 65536)
            entries.append((disk, cluster, opened[disk - 1].read(65536)))
        piece = extent(entries, uuid=uuid)
        if start >= len(clusters) // 2:
            fault("middle")
            if cut:
                send(piece[: len(piece) // 2])
                if cut == "fail":
                    die("ERROR: Backup of VM failed - job failed with err -5 - Input/output error")
                return
        send(piece)
        percent = 100 * start // len(clusters)
        info(f"{percent:3d}% ({start * 65536} B of {len(clusters) * 65536} B) in 1s, read: 1 MiB/s, write: 1 MiB/s")
    fault("end")


def shuffle(clusters: list[tuple[int, int]]) -> None:
    """Mostly in order, disks side by side, some clusters early: as a guest that writes meanwhile has it."""
    chance = random.Random(os.urandom(8))
    clusters.sort(key=lambda each: (each[1], each[0]))
    for _ in range(len(clusters) // 20):
        clusters.insert(0, clusters.pop(chance.randrange(len(clusters))))


def mapped(disks: list[Path]) -> bytes:
    """The lines that say which disk is which."""
    lines = [f"#qmdump#map:{path.stem.removeprefix('drive-')}:{path.stem}:local-lvm:raw:\n" for path in disks]
    return "".join(lines).encode()


def dump_container(vmid: int, guest: dict[str, Any], folder: Path) -> None:
    """A tar archive."""
    place = folder / f"vzdump-lxc-{vmid}.tmp" / "etc" / "vzdump"
    place.mkdir(parents=True)
    (place / "pct.conf").write_text(guest["config"])
    (place / "pct.fw").write_text(guest.get("firewall", ""))
    line = ["tar", "cpf", "-", *TAR, f"--directory={place.parents[1]}", "./etc/vzdump/pct.conf", "./etc/vzdump/pct.fw",
            f"--directory={STATE}/roots/{vmid}", "--no-anchored", "--exclude=lost+found", "--anchored",
            "--exclude=./tmp/?*", "--exclude=./var/tmp/?*", "--exclude=./var/run/?*.pid", "./"]  # fmt: skip
    fault("header")
    cut = fault("cut")
    with subprocess.Popen(line, stdout=subprocess.PIPE) as tar:
        assert tar.stdout is not None
        total = 0
        while piece := tar.stdout.read(65536):
            total += len(piece)
            if total > 200_000:
                fault("middle")
                if cut:
                    send(piece[:1000])
                    tar.kill()
                    if cut == "fail":
                        die("ERROR: Backup of CT failed - command 'tar' failed: exit code 2")
                    return
            send(piece)
    if tar.returncode:
        die("ERROR: Backup of CT failed - tar failed")
    fault("end")


def send(data: bytes | bytearray) -> None:
    """Write all of it to standard output."""
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


# --- restores


def restored_options(arguments: list[str]) -> dict[str, str]:
    """Options with their values."""
    return dict(zip(arguments[::2], arguments[1::2], strict=True))


def refuse_existing(vmid: int, what: str, options: dict[str, str]) -> None:
    """What a restore says of a guest that is there."""
    path = STATE / "guests" / f"{vmid}.json"
    if not path.exists():
        return
    if options.get("--force") != "1":
        die(f"unable to restore {what} {vmid} - {what} {vmid} already exists on node '{NODE}'")
    if load(vmid)["status"] == "running":
        die(f"unable to restore {what} {vmid} - {what.lower()} is running")


def qmrestore(arguments: list[str]) -> None:
    """`qmrestore - ID ...`"""
    sys.path.insert(0, str(ROOT))
    from tests.support.vma import take_apart

    assert arguments[0] == "-"
    vmid, options = int(arguments[1]), restored_options(arguments[2:])
    refuse_existing(vmid, "VM", options)
    fault("restore")
    data = sys.stdin.buffer.read()
    print("progress 1% (read 1 bytes, duration 0 sec)", flush=True)
    try:
        configs, disks = take_apart(data)
    except (AssertionError, LookupError, ValueError) as error:
        die(f"error before or during data restore, some or all disks were not completely restored. {error!r}")
    lines = configs["qemu-server.conf"].decode().splitlines()
    known = {line.split(":")[2] for line in lines if line.startswith("#qmdump#map:")}
    for name in disks:
        if name not in known:
            die(f"found no device mapping information for device '{name}'")
    folder = STATE / "disks" / str(vmid)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in disks.items():
        (folder / f"{name}.raw").write_bytes(content)
    config = "".join(f"{line}\n" for line in lines if not line.startswith("#qmdump#"))
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("name:")), "")
    guest = {"kind": "qemu", "node": NODE, "name": name, "status": "stopped", "config": config,
             "storage": options.get("--storage", "")}  # fmt: skip
    if "qemu-server.fw" in configs:
        guest["firewall"] = configs["qemu-server.fw"].decode()
    store(vmid, guest)


def pct_restore(arguments: list[str]) -> None:
    """`pct restore ID - ...`"""
    vmid, options = int(arguments[0]), restored_options(arguments[2:])
    assert arguments[1] == "-"
    if "--rootfs" not in options:
        die("restore from pipe requires rootfs parameter")
    refuse_existing(vmid, "CT", options)
    fault("restore")
    root = STATE / "roots" / f"{vmid}.new"
    root.mkdir(parents=True)
    line = ["tar", "xpf", "-", "--totals", "--sparse", "--numeric-owner", "--acls", "--xattrs",
            "--xattrs-include=user.*", "--xattrs-include=security.capability", "--warning=no-file-ignored",
            "--warning=no-xattr-write", "-C", str(root), "--skip-old-files", "--anchored",
            "--exclude=./dev/*"]  # fmt: skip
    if subprocess.run(line).returncode:
        shutil.rmtree(root)
        die(f"unable to restore CT {vmid} - command 'tar xpf -' failed: exit code 2")
    config = (root / "etc/vzdump/pct.conf").read_text()
    firewall = (root / "etc/vzdump/pct.fw").read_text() if (root / "etc/vzdump/pct.fw").exists() else ""
    shutil.rmtree(root / "etc/vzdump")
    if not list((root / "etc").iterdir()):
        (root / "etc").rmdir()
    shutil.rmtree(STATE / "roots" / str(vmid), ignore_errors=True)
    root.rename(STATE / "roots" / str(vmid))
    name = next((line.partition(":")[2].strip() for line in config.splitlines() if line.startswith("hostname:")), "")
    store(vmid, {"kind": "lxc", "node": NODE, "name": name, "status": "stopped", "config": config,
                 "firewall": firewall, "options": options})  # fmt: skip


# --- the rest


def manage(arguments: list[str]) -> None:
    """What both `qm` and `pct` do."""
    verb, vmid = arguments[0], int(arguments[1])
    guest = load(vmid)
    if verb == "config":
        print(guest["config"], end="")
        if guest.get("lock"):
            print(f"lock: {guest['lock']}")
    elif verb == "unlock":
        store(vmid, {**guest, "lock": ""})
    elif verb == "listsnapshot":
        for name in guest.get("snapshots", []):
            print(f"`-> {name}                       2024-05-17 12:00:00     a snapshot")
        print(" `-> current                                             You are here!")
    elif verb == "delsnapshot":
        if guest.get("lock"):
            die(f"CT is locked ({guest['lock']})")
        store(vmid, {**guest, "snapshots": [name for name in guest["snapshots"] if name != arguments[2]]})
    else:
        die(f"ERROR: unknown command '{verb}'")


def flock(arguments: list[str]) -> None:
    """The real one, which is told of the lock of this node."""
    words = [str(STATE / "vzdump.lock") if word == "/run/vzdump.lock" else word for word in arguments]
    os.execv("/usr/bin/flock", ["flock", *words])


def main() -> None:
    """Be the program that is asked for."""
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    with open(STATE / "said", "a") as file:
        file.write(f"{name} {' '.join(arguments)}\n")
    if name == "vzdump":
        vzdump(arguments)
    elif name == "qmrestore":
        qmrestore(arguments)
    elif name == "pct" and arguments[0] == "restore":
        pct_restore(arguments[1:])
    elif name in ("qm", "pct"):
        manage(arguments)
    elif name == "flock":
        flock(arguments)
    else:
        die(f"there is no {name} here")


if __name__ == "__main__":
    main()
