from __future__ import annotations

import pytest

from bfrepo.storage.base import ObjectKind
from bfrepo.storage.layout import describe, object_path, parse_object_path

NAME = "3f" + "2a" * 31

PATHS = {
    ObjectKind.CONFIG: "config",
    ObjectKind.KEY: f"keys/{NAME}",
    ObjectKind.PACK: f"packs/3f/{NAME}",
    ObjectKind.INDEX: f"index/{NAME}",
    ObjectKind.SNAPSHOT: f"snapshots/{NAME}",
    ObjectKind.CLAIM: f"claims/{NAME}",
}


def name_in(kind: ObjectKind) -> str:
    """The name that objects of this kind have here."""
    return "config" if kind is ObjectKind.CONFIG else NAME


@pytest.mark.parametrize("kind", ObjectKind)
def test_path_of_each_kind(kind: ObjectKind) -> None:
    """Every object has the path that the format gives it, and the path tells the object again."""
    assert object_path(kind, name_in(kind)) == PATHS[kind]
    assert parse_object_path(PATHS[kind]) == (kind, name_in(kind))


@pytest.mark.parametrize("name", ["", "config", NAME.upper(), NAME[:-1], NAME + "0", "../" + NAME[3:], NAME + "\n"])
def test_what_is_no_name_has_no_path(name: str) -> None:
    """No path is made from anything but 64 lower-case hex digits, so none can lead out of the repository."""
    with pytest.raises(ValueError, match="not the name"):
        object_path(ObjectKind.PACK, name)


def test_config_has_one_name() -> None:
    """The config object cannot be called otherwise."""
    with pytest.raises(ValueError, match="config"):
        object_path(ObjectKind.CONFIG, NAME)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/config",
        "config/",
        f"config/{NAME}",
        NAME,
        f"keys/{NAME}/",
        f"/keys/{NAME}",
        f"keys//{NAME}",
        f"keys/3f/{NAME}",
        f"packs/{NAME}",
        f"packs/00/{NAME}",
        f"packs/3f/{NAME}.tmp",
        f"packs/3f/x/{NAME}",
        f"packs/../{NAME}",
        f"tmp/{NAME}",
        f"parity/{NAME}",
    ],
)
def test_other_paths_are_nothing_of_ours(path: str) -> None:
    """A path is an object's only if it is written exactly as the layout writes it."""
    assert parse_object_path(path) is None


def test_messages_name_an_object_briefly() -> None:
    """People see the kind and the first 8 digits."""
    assert [describe(kind, name_in(kind)) for kind in ObjectKind] == [
        "config",
        "key 3f2a2a2a",
        "pack 3f2a2a2a",
        "index 3f2a2a2a",
        "snapshot 3f2a2a2a",
        "claim 3f2a2a2a",
    ]
