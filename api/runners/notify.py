"""Tells people how a run ended, in a process of its own: `python -m api.runners.notify`, with a Notice on its input.

Tenants say where notifications go, and the server reaches networks that they do not. So this process connects to public
addresses, and to networks that the operator allows the tenant, and to nothing else. It is the connection itself that is
looked at, by the interpreter's audit hook: no name that resolves to something else the next time, no redirect and no
literal address gets past it.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from api.services.notices import Notice

_LOCAL: Final = frozenset({"socket.bind", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"})
"""What no notification needs."""

_TRANSLATED: Final = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48")))
"""Addresses that routers turn into those of IPv4, private ones too (RFC 6052, RFC 8215)."""


class Refused(OSError):
    """A connection to where no notification may go."""


def main() -> int:
    """Send it to each of its targets. 0 when all of them have taken it."""
    notice = msgspec.json.decode(sys.stdin.buffer.read(), type=Notice)
    from apprise import Apprise, AppriseAsset, NotifyType  # noqa: PLC0415 - it takes long, and must be here first

    sys.addaudithook(guard(notice.networks))
    asset = AppriseAsset(app_id="BackupForge", async_mode=False, plugin_paths=[], secure_logging=True)
    kind = NotifyType.FAILURE if notice.failed else NotifyType.SUCCESS
    failed = 0
    for target in notice.targets:
        sender = Apprise(asset=asset)
        if not sender.add(target) or not sender.notify(title=notice.title, body=notice.body, notify_type=kind):
            failed += 1
    return 1 if failed else 0


def guard(networks: Sequence[str]) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook (docs.python.org, "Audit events table") that raises Refused."""
    allowed = [ipaddress.ip_network(network, strict=False) for network in networks]

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto"):
            _check(arguments[1], allowed)
        elif event in _LOCAL:
            raise Refused(f"no notification needs {event}")

    return look


def _check(address: Any, allowed: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> None:
    if not isinstance(address, tuple):
        raise Refused("that is no address in a network")
    found = ipaddress.ip_address(str(address[0]).partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None) or found
    public = mapped.is_global and not mapped.is_multicast and not any(mapped in network for network in _TRANSLATED)
    if not public and not any(mapped in network for network in allowed):
        raise Refused(f"{found} is not a public address")


if __name__ == "__main__":
    sys.exit(main())
