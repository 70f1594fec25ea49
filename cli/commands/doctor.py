"""`doctor`: what this machine lacks."""

from __future__ import annotations

import importlib
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import bfrepo
from bfrepo.core.errors import BackupForgeError
from cli.app import App, pass_app
from cli.commands.version import LIBRARIES, installed_version
from cli.exit_codes import DONE, FAILED, USAGE
from cli.options import command
from cli.render import shown

_OPTIONAL: Final = {
    "pyfuse3": ("mount", "mounting snapshots"),
    "botocore": ("s3", "repositories in S3"),
    "paramiko": ("ssh", "repositories behind SSH"),
    "proxmoxer": ("proxmox", "virtual machines of Proxmox VE"),
    "aiohttp": ("server", "the API server"),
    "mcp": ("mcp", "tools for assistants"),
}
"""Packages that only some commands need: the extra that brings each, and what it is for."""

_FUSE_PACKAGES: Final = "fuse3 (Debian, Ubuntu, Fedora, Alpine, Arch)"

_OLDEST_YEAR: Final = 2025
"""No clock that is right shows a time before this program was written."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. What is `optional` may be missing without harm; `remedy` says how to get it."""

    what: str
    ok: bool
    detail: str = ""
    remedy: str = ""
    optional: bool = False


@command(
    "doctor",
    short_help="Say what this machine lacks, and how to get it.",
    examples=[
        ("backupforge doctor", "is everything here?"),
        ("backupforge doctor -r /srv/backup", "and can this repository be reached?"),
    ],
    exit_codes=(DONE, FAILED, USAGE),
)
@pass_app
def run(app: App) -> int:
    """Say what this machine lacks, and how to get it.

    What only some commands need is listed as optional and does no harm when it is missing. The exit code is 1 when
    something is missing that every backup needs.
    """
    findings = list(_examine(app))
    app.output.document([asdict(finding) for finding in findings])
    app.output.result(_line(app, finding) for finding in findings)
    return DONE if all(finding.ok or finding.optional for finding in findings) else FAILED


def _line(app: App, finding: Finding) -> str:
    style = app.output.style
    if finding.ok:
        mark = style.green("ok      ")
    else:
        mark = style.yellow("optional") if finding.optional else style.red("missing ")
    detail = f": {shown(finding.detail)}" if finding.detail else ""
    remedy = "" if finding.ok or not finding.remedy else f"\n          {style.dim(shown(finding.remedy))}"
    return f"{mark}  {finding.what}{detail}{remedy}"


def _examine(app: App) -> Iterator[Finding]:
    yield _python()
    yield from map(_kernel, kernels())
    yield from map(_library, LIBRARIES)
    yield _cache(app.settings.cache_dir)
    yield _terminal()
    yield _clock(app.clock.now())
    yield from _fuse()
    yield from (_optional(name, extra, purpose) for name, (extra, purpose) in _OPTIONAL.items())
    if app.settings.repository:
        yield _repository(app)


def kernels() -> list[str]:
    """The compiled modules of the library: each has a file beside it that says its types."""
    package = Path(bfrepo.__file__).parent
    stubs = sorted(package.rglob("_[!_]*.pyi"))
    return [".".join(("bfrepo", *path.relative_to(package).with_suffix("").parts)) for path in stubs]


def _python() -> Finding:
    number = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", sys.version_info >= (3, 11), number, "install Python 3.11 or newer")


def _kernel(module: str) -> Finding:
    remedy = (
        "install the package again with a C compiler at hand: gcc, and python3-dev (Debian), python3-devel (Fedora)"
    )
    try:
        importlib.import_module(module)
    except ImportError as error:
        return Finding(f"compiled module {module}", False, str(error), remedy)
    return Finding(f"compiled module {module}", True)


def _library(name: str) -> Finding:
    number = installed_version(name)
    return Finding(f"library {name}", number is not None, number or "", f"pip install {name}")


def _optional(module: str, extra: str, purpose: str) -> Finding:
    found = find_spec(module) is not None
    return Finding(f"{module}, for {purpose}", found, remedy=f"pip install 'backupforge[{extra}]'", optional=True)


def _cache(folder: Path | None) -> Finding:
    if folder is None:
        return Finding("cache", True, "not wanted")
    place = next((each for each in (folder, *folder.parents) if each.exists()), Path("/"))
    writable = os.access(place, os.W_OK | os.X_OK) and place.is_dir()
    return Finding("cache", writable, str(folder), "choose a folder that is writable with --cache-dir, or --no-cache")


def _terminal() -> Finding:
    if not sys.stdout.isatty():
        return Finding("terminal", True, "none: progress comes as a line a minute")
    size = shutil.get_terminal_size()
    encoding = (sys.stdout.encoding or "").lower()
    remedy = "set a UTF-8 locale, such as LANG=C.UTF-8, to see names as they are"
    return Finding("terminal", "utf" in encoding, f"{size.columns} columns, {encoding}", remedy, optional=True)


def _clock(now: datetime) -> Finding:
    sane = now.year >= _OLDEST_YEAR
    return Finding("clock", sane, f"{now:%Y-%m-%d %H:%M:%S %Z}", "set it: snapshots are found by their times")


def _fuse() -> Iterator[Finding]:
    """What mounting snapshots takes. pyfuse3 is among the optional packages."""
    device, program = Path("/dev/fuse"), shutil.which("fusermount3")
    by_root = os.geteuid() == 0
    yield Finding(
        "/dev/fuse, for mounting snapshots",
        os.access(device, os.R_OK | os.W_OK),
        remedy="chmod 666 /dev/fuse as root, as most systems do"
        if device.exists()
        else "modprobe fuse; in a container, start it with --device /dev/fuse --cap-add SYS_ADMIN",
        optional=True,
    )
    yield Finding(
        "fusermount3, for mounting snapshots",
        program is not None and (by_root or bool(os.stat(program).st_mode & stat.S_ISUID)),
        program or "",
        f"chmod u+s {program} as root" if program else f"install {_FUSE_PACKAGES}",
        optional=True,
    )
    if find_spec("pyfuse3") is not None:
        yield _libfuse()
    allowed = _others_may_be_allowed()
    yield Finding(
        "user_allow_other, for mount --allow-other",
        by_root or allowed,
        "set in /etc/fuse.conf" if allowed else "root needs none" if by_root else "",
        "as root: echo user_allow_other >> /etc/fuse.conf",
        optional=True,
    )


def _libfuse() -> Finding:
    what = "libfuse, for mounting snapshots"
    try:
        importlib.import_module("pyfuse3")
    except ImportError as error:
        return Finding(what, False, str(error), f"install {_FUSE_PACKAGES}", optional=True)
    return Finding(what, True, optional=True)


def _others_may_be_allowed() -> bool:
    try:
        lines = Path("/etc/fuse.conf").read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def _repository(app: App) -> Finding:
    from bfrepo.repository.repository import read_head

    try:
        backend = app.open_backend()
        try:
            head = read_head(backend)
        finally:
            backend.close()
    except BackupForgeError as error:
        return Finding("repository", False, str(error), error.hint or "")
    return Finding("repository", True, f"{head.repository_id.hex()[:8]} in {backend.location}, {head.encryption}")
