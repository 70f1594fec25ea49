"""Opens a repository of format 1 and lists its snapshots, by what docs/format.md says, without BackupForge.

python format_reader.py REPOSITORY PASSWORD_FILE
"""

import base64
import json
import sys
from pathlib import Path

import msgspec
import zstandard
from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def derive(secret: bytes, purpose: str) -> bytes:
    """A key for one purpose."""
    return blake3(secret, derive_key_context=f"BackupForge repository format 1: {purpose}").digest()


def unseal(key: bytes | None, sealed: bytes, repository_id: bytes, what: str, more: bytes = b"") -> bytes:
    """What was sealed as `what`; without a key, nothing was."""
    associated = b"BackupForge\x01" + repository_id + bytes(5) + what.encode() + more
    return AESGCM(key).decrypt(sealed[:12], sealed[12:], associated) if key else sealed


def open_slot(slot: dict, password: bytes, repository_id: bytes) -> bytes | None:
    """The master secret behind a key slot, None if it has another password."""
    kdf = slot["kdf"]
    costs = kdf["time_cost"], kdf["memory_kib"], kdf["lanes"]
    slot_key = hash_secret_raw(password, base64.b64decode(kdf["salt"]), *costs, 32, Type.ID)
    if derive(slot_key, "slot commitment") != base64.b64decode(slot["commitment"]):
        return None
    return unseal(derive(slot_key, "slot"), base64.b64decode(slot["sealed"]), repository_id, "key")


def read_object(path: Path) -> bytes:
    """A stored object, whose name says what its bytes must be."""
    data = path.read_bytes()
    if blake3(data).hexdigest() != path.name:
        raise ValueError(f"{path} is damaged")
    return data


root, password = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes().split(b"\n")[0]
config = json.loads((root / "config").read_bytes())
if config["format"] != 1 or config["features"]:
    raise SystemExit("this repository needs another reader")
repository_id = bytes.fromhex(config["id"])

key = None
if config["encryption"] != "none":
    slots = (open_slot(json.loads(read_object(path)), password, repository_id) for path in (root / "keys").iterdir())
    key = derive(next(secret for secret in slots if secret), "objects")

header = f"{config['format']}\n{config['id']}\n{config['encryption']}\n{','.join(config['features'])}\n".encode()
settings = msgspec.msgpack.decode(unseal(key, base64.b64decode(config["sealed"]), repository_id, "config", header))
sys.stdout.write(f"chunker {settings['chunker']}, compression {settings['compression']}\n")

for path in sorted((root / "snapshots").iterdir()):
    packed = unseal(key, read_object(path)[8:], repository_id, "snapshots")
    snapshot = msgspec.msgpack.decode(zstandard.decompress(packed))
    paths = b" ".join(snapshot.get("paths", [])).decode(errors="replace")
    sys.stdout.write(f"{path.name[:8]}  {snapshot['time']}  tree {snapshot['tree'].hex()[:8]}  {paths}\n")
