"""Which snapshot is meant:

an ID prefix, `latest`, `latest~N`, each with an optional `:PATH`, and filters by host, tag and path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bfrepo.core.errors import InvalidValue, ObjectNotFound
from bfrepo.core.ids import resolve_prefix
from bfrepo.core.protocols import BlobLoader
from bfrepo.data.node import Node
from bfrepo.data.snapshot import Snapshot
from bfrepo.data.tree import load_tree

_LATEST = re.compile(r"latest(?:~(\d{1,6}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFilter:
    """Keeps snapshots of one of `hosts`, with all tags of one of `tags`, and with all of `paths`; empty means any.

    An empty set of tags in `tags` is for snapshots that have none.
    """

    hosts: tuple[str, ...] = ()
    tags: tuple[frozenset[str], ...] = ()
    paths: tuple[bytes, ...] = ()

    def matches(self, snapshot: Snapshot) -> bool:
        """Whether the filter keeps it."""
        return (
            (not self.hosts or snapshot.hostname in self.hosts)
            and (not self.tags or any(has_tags(snapshot, wanted) for wanted in self.tags))
            and set(self.paths) <= set(snapshot.paths)
        )

    def apply(self, snapshots: Mapping[bytes, Snapshot]) -> dict[bytes, Snapshot]:
        """Those that match, oldest first."""
        kept = [(identifier, each) for identifier, each in snapshots.items() if self.matches(each)]
        return dict(sorted(kept, key=lambda item: (item[1].when, item[0])))


def has_tags(snapshot: Snapshot, wanted: frozenset[str]) -> bool:
    """Whether a snapshot has all these tags; for an empty set whether it has none at all."""
    return wanted <= set(snapshot.tags) if wanted else not snapshot.tags


def find_snapshot(text: str, snapshots: Mapping[bytes, Snapshot], chosen: SnapshotFilter | None = None) -> bytes:
    """The ID of the one snapshot that `text` means. Filters apply to `latest` only.

    Raises ObjectNotFound, AmbiguousPrefix or InvalidValue.
    """
    match = _LATEST.fullmatch(text)
    if match is None:
        return resolve_prefix(text, snapshots, what="snapshot")
    kept = list((chosen or SnapshotFilter()).apply(snapshots))
    back = int(match[1] or 0)
    if back >= len(kept):
        raise ObjectNotFound(
            f"there is no snapshot {text}: {len(kept)} match", hint="see them all with 'backupforge list'"
        )
    return kept[-1 - back]


def split_path(text: str) -> tuple[str, bytes]:
    """ "SNAPSHOT:PATH" as the snapshot and the raw path below its root, which is empty for the root."""
    snapshot, _, path = text.partition(":")
    if not snapshot:
        raise InvalidValue(f"{text!r} names no snapshot", hint="write latest, latest~1 or an ID, then :PATH if wanted")
    return snapshot, path.encode(errors="surrogateescape").strip(b"/")


def find_node(loader: BlobLoader, root: bytes, path: bytes) -> Node:
    """The node at a raw path below a tree; the root itself is a nameless directory. Raises ObjectNotFound."""
    node = Node(name=b"/", type="dir", subtree=root)
    for name in filter(None, path.split(b"/")):
        children = load_tree(loader, node.subtree) if node.type == "dir" else []
        found = next((child for child in children if child.name == name), None)
        if found is None:
            shown = path.decode(errors="backslashreplace")
            raise ObjectNotFound(f"the snapshot has no /{shown}", hint="see what it has with 'backupforge ls'")
        node = found
    return node
