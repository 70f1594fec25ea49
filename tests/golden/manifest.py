"""What is in a repository, down to the hash of every file: written when it is made, compared whenever it is read."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
from blake3 import blake3

from bfrepo.core.ids import BlobKind
from bfrepo.data.node import Node
from bfrepo.data.snapshot import decode_claim
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind
from tests.support.restoring import file_content, restored_nodes

Manifest: TypeAlias = dict[str, Any]


def describe(repository: Repository) -> Manifest:
    """All that can be told of an open repository, as JSON types."""
    index = repository.refresh_index()
    table, objects, backend = index.table, repository.objects, repository.backend
    claims = [
        decode_claim(objects.load(ObjectKind.CLAIM, info.name), name=info.name)
        for info in backend.list(ObjectKind.CLAIM)
    ]
    described = {
        "id": repository.id.hex(),
        "config": [str(repository.config.compression), repository.config.chunker.format(), repository.config.created],
        "seed": repository.config.seed.hex(),
        "slots": sorted(msgspec.to_builtins(info)["label"] for _, info in repository.slots()),
        "packs": sorted(
            [pack.id.hex(), pack.size, pack.kind.name, pack.state.name, pack.blobs] for pack in table.packs()
        ),
        "codecs": sorted({table.frame(number).codec.name for pack in table.packs() for number in pack.frames}),
        "blobs": blake3(b"".join(sorted(blob_id for blob_id, _ in table.blobs()))).hexdigest(),
        "copies": sum(len(table.copies(blob_id)) for blob_id, _ in table.blobs()),
        "loaded": _load_everything(repository),
        "flags": sorted(flag.id.hex() for flags in index.active_flags().values() for flag in flags),
        "claims": [claim.snapshot.hex() for claim in claims],
        "snapshots": {
            identifier.hex(): {
                "fields": msgspec.to_builtins(snapshot),
                "files": {
                    path: _describe_node(repository, node)
                    for path, node in sorted(restored_nodes(repository.loader, snapshot.tree).items())
                    if not path.startswith("/srv/many/")
                },
                "many": sum(path.startswith("/srv/many/") for path in restored_nodes(repository.loader, snapshot.tree)),
            }
            for identifier, snapshot in load_snapshots(repository).items()
        },
    }
    plain: Manifest = msgspec.json.decode(msgspec.json.encode(_text(described)))
    return plain


def _load_everything(repository: Repository) -> str:
    """A hash over all blobs in the order of their IDs."""
    found = sorted(
        (blob_id, repository.index.table.kind_of(place.frame)) for blob_id, place in repository.index.table.blobs()
    )
    hasher = blake3()
    for blob_id, kind in found:
        hasher.update(repository.loader.load(BlobKind(kind), blob_id))
    return hasher.hexdigest()


def _describe_node(repository: Repository, node: Node) -> dict[str, Any]:
    """Every field that is not at its default, and what a file holds."""
    fields: dict[str, Any] = msgspec.to_builtins(node)
    if node.type == "file":
        fields["BLAKE3"] = blake3(file_content(repository.loader, node)).hexdigest()
    return fields


def _text(value: object) -> object:
    """The same with paths that are no text written so that JSON can hold them."""
    if isinstance(value, dict):
        return {_text(key): _text(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_text(each) for each in value]
    return value.encode(errors="surrogateescape").decode(errors="backslashreplace") if isinstance(value, str) else value
