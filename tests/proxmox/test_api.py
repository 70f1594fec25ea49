"""The API of a cluster: who may ask, what goes wrong, which guests are meant, and how tasks are waited for."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bfrepo.core.errors import AmbiguousPrefix, InvalidValue, ObjectNotFound, UsageError
from bfrepo.sources.proxmox import api as api_module
from bfrepo.sources.proxmox.api import (
    ApiSettings,
    ProxmoxApi,
    ProxmoxDenied,
    ProxmoxError,
    TaskFailed,
    parse_api,
    wait_for_task,
)
from bfrepo.sources.proxmox.inventory import (
    Guest,
    GuestSelection,
    config_of,
    find_guest,
    list_guests,
    list_nodes,
    next_free_id,
    version_of,
)
from tests.support.backups import never
from tests.support.proxmox import SCHEMA, Cluster, Refused, answer

GUESTS = [
    Guest(100, "qemu", "web", "pve", tags=("prod",)),
    Guest(101, "lxc", "db", "pve", pool="shop", tags=("prod", "db")),
    Guest(102, "qemu", "web", "pve2"),
    Guest(103, "lxc", "100", "pve2", pool="shop"),
]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits between two attempts."""
    monkeypatch.setattr(api_module, "_PAUSES_S", (0.0, 0.0))


def test_inventory(cluster: Cluster) -> None:
    """What the cluster says of nodes and guests is known."""
    web, db = list_guests(cluster.api)
    assert (web.id, web.kind, web.name, web.tags, web.pool) == (100, "qemu", "web", ("prod", "linux"), "")
    assert (db.id, db.kind, db.pool, db.shown) == (101, "lxc", "shop", "CT 101 (db)")
    assert [(node.name, node.status) for node in list_nodes(cluster.api)] == [("pve", "online")]
    assert (version_of(cluster.api), next_free_id(cluster.api)) == ("9.1.11", 102)
    assert config_of(cluster.api, db)["rootfs"].startswith("local-lvm:")


def test_wrong_token(cluster: Cluster) -> None:
    """A wrong token is refused with a clear error, which does not tell it."""
    settings = replace(cluster.settings, token="backup@pve!forge=wrong-secret-0123")
    with pytest.raises(ProxmoxDenied, match="Authentication failed") as caught:
        list_guests(ProxmoxApi(settings))
    assert "wrong-secret" not in f"{caught.value} {caught.value.hint} {settings!r} {caught.value!r}"


@pytest.mark.parametrize("token", ["", "root@pam", "root@pam!x", "root!x=1", "a b@pve!x=1", "root@pam!x=1 2"])
def test_bad_tokens(token: str) -> None:
    """What is no token is refused before anything is sent, and not repeated."""
    with pytest.raises(InvalidValue) as caught:
        ProxmoxApi(ApiSettings(host="127.0.0.1", token=token))
    assert not token or token not in str(caught.value)


def test_untrusted(cluster: Cluster, hasty: None) -> None:
    """A server that no trusted authority vouches for gets no request, least of all a token."""
    with pytest.raises(ProxmoxError, match="cannot be trusted"):
        list_guests(ProxmoxApi(replace(cluster.settings, ca_file=None)))
    assert cluster.requests == []


def test_wrong_name(cluster: Cluster, hasty: None) -> None:
    """The right certificate of another name is not enough."""
    with pytest.raises(ProxmoxError, match="cannot be trusted"):
        list_guests(ProxmoxApi(replace(cluster.settings, host="localhost")))


def test_nobody_there(hasty: None) -> None:
    """Where nobody answers, that is said."""
    with pytest.raises(ProxmoxError, match="does not answer"):
        list_guests(ProxmoxApi(ApiSettings(host="127.0.0.1", port=1, token="a@pve!bf=c")))


@pytest.mark.parametrize("status, message, error", [
    (403, "Permission check failed (/vms/100, VM.Audit)", ProxmoxDenied),
    (500, "Configuration file 'nodes/pve/qemu-server/100.conf' does not exist", ProxmoxError),
    (400, "Parameter verification failed.", ProxmoxError),
])  # fmt: skip
def test_refusals(cluster: Cluster, status: int, message: str, error: type[ProxmoxError]) -> None:
    """What the API refuses is an error with its own words, and is not asked for again."""
    cluster.answers["/nodes/pve/qemu/100/config"] = (status, message)
    with pytest.raises(error, match=re.escape(message)):
        config_of(cluster.api, find_guest("100", list_guests(cluster.api)))
    assert cluster.requests.count("GET /nodes/pve/qemu/100/config") == 1


def test_asked_again(cluster: Cluster, hasty: None) -> None:
    """What only asks is asked again where one node does not reach another."""
    cluster.answers["/cluster/resources"] = (595, "No route to host")
    assert len(list_guests(cluster.api)) == 2
    assert cluster.requests.count("GET /cluster/resources") == 2


@pytest.mark.parametrize("said", [[{"type": "qemu", "vmid": "x"}], {"a": 1}, None, [{"vmid": 3}]])
def test_nonsense(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    """An answer of another shape is an error, not a crash."""
    import tests.support.proxmox as simulator

    monkeypatch.setitem(simulator.ROUTES, "GET /cluster/resources", lambda cluster, **params: said)
    with pytest.raises(ProxmoxError, match="makes no sense"):
        list_guests(cluster.api)


@pytest.mark.parametrize("place, found", [
    ("pve.example.com", ("pve.example.com", 8006)),
    ("https://pve.example.com:443/", ("pve.example.com", 443)),
    ("https://[::1]:8006", ("::1", 8006)),
])  # fmt: skip
def test_places(place: str, found: tuple[str, int]) -> None:
    """An API is a host, with a port or not."""
    assert parse_api(place) == found


@pytest.mark.parametrize("place", ["http://pve", "https://", "https://pve/path", "https://u:p@pve", "https://pve:x"])
def test_bad_places(place: str) -> None:
    """Nothing is asked without TLS, and no password stands in a location."""
    with pytest.raises(InvalidValue):
        parse_api(place)


@pytest.mark.parametrize("selection, ids", [
    (GuestSelection(names=["101", "web"], excluded=[]), None),
    (GuestSelection(names=["100"]), [100]),
    (GuestSelection(names=["db", "102"]), [101, 102]),
    (GuestSelection(tags=["prod"]), [100, 101]),
    (GuestSelection(pools=["shop"], names=["102"]), [101, 102, 103]),
    (GuestSelection(everything=True, excluded=["db", "100"]), [102, 103]),
    (GuestSelection(tags=["none"]), []),
])  # fmt: skip
def test_selection(selection: GuestSelection, ids: list[int] | None) -> None:
    """Guests are named by ID before name, by tag, by pool, or all; a name of two guests is none."""
    if ids is None:
        with pytest.raises(AmbiguousPrefix, match="100, 102"):
            selection.choose(GUESTS)
    else:
        assert [guest.id for guest in selection.choose(GUESTS)] == ids


def test_no_such_guest() -> None:
    """A guest that is not there is an error, and so is a selection that says nothing."""
    with pytest.raises(ObjectNotFound, match="'mail'"):
        GuestSelection(names=["mail"]).choose(GUESTS)
    with pytest.raises(ObjectNotFound):
        GuestSelection(everything=True, excluded=["mail"]).choose(GUESTS)
    with pytest.raises(UsageError):
        GuestSelection().choose(GUESTS)


def _start(cluster: Cluster) -> str:
    return cluster.api.post("nodes", "pve", "qemu", "100", "status", "start")


@pytest.mark.parametrize("ending", ["OK", "WARNINGS: 2"])
def test_task(cluster: Cluster, ending: str) -> None:
    """A task is waited for to its end; each line of its log is told once; warnings are no failure."""
    cluster.ending = ending
    lines: list[str] = []
    assert wait_for_task(cluster.api, _start(cluster), lines.append, never) == ending
    assert lines == ["starting", f"TASK {ending}"]


@pytest.mark.parametrize("ending", ["start failed: QEMU exited with code 1", "unexpected status"])
def test_failed_task(cluster: Cluster, ending: str) -> None:
    """A task that fails is an error with what it says."""
    cluster.ending = ending
    with pytest.raises(TaskFailed, match=ending):
        wait_for_task(cluster.api, _start(cluster), lambda line: None, never)


def test_task_left_alone(cluster: Cluster) -> None:
    """Who no longer wants to wait is told that the task goes on; what is no task is not asked for."""
    with pytest.raises(TaskFailed, match="goes on"):
        wait_for_task(cluster.api, _start(cluster), lambda line: None, lambda: True)
    with pytest.raises(ProxmoxError, match="is no task"):
        wait_for_task(cluster.api, "UPID:../../etc:1:", lambda line: None, never)


def test_long_log(cluster: Cluster) -> None:
    """A log of more lines than come at once is told whole."""
    upid = cluster.start("qmstart", 100, "backup@pve!forge", lambda task: task.lines.extend(map(str, range(1234))))
    lines: list[str] = []
    wait_for_task(cluster.api, upid, lines.append, never)
    assert lines == [*map(str, range(1234)), "TASK OK"]


# --- the simulator itself


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether an answer has the types that the schema says, and all that is not optional. More keys are allowed."""
    kind = schema["type"]
    if kind == "object":
        properties = schema.get("properties", {})
        missing = [key for key, each in properties.items() if not each.get("optional") and key not in value]
        return not missing and all(_fits(value[key], properties[key]) for key in value.keys() & properties.keys())
    if kind == "array":
        return all(_fits(each, schema["items"]) for each in value)
    types: dict[str, Any] = {"string": str, "integer": (int, str), "number": (int, float), "boolean": (int, str)}
    return isinstance(value, types[kind]) and value in schema.get("enum", [value])


def test_simulator_answers(cluster: Cluster) -> None:
    """What the simulated API answers has the shape that is published."""
    upid = _start(cluster)
    values = {"node": "pve", "upid": upid}
    for name, endpoint in SCHEMA["endpoints"].items():
        method, template = name.split(" ", 1)
        values["vmid"] = "101" if "/lxc/" in template else "100"
        params = {"type": "vm"} if template == "/cluster/resources" else {}
        said = answer(cluster, method, template.format(**values), params)
        assert _fits(said, endpoint["returns"]), (name, said)


def test_simulator_refuses(cluster: Cluster) -> None:
    """What is not published is refused: endpoints and parameters."""
    with pytest.raises(Refused, match="not implemented"):
        answer(cluster, "GET", "/nodes/pve/qemu/100/nothing", {})
    with pytest.raises(Refused, match="Parameter verification failed"):
        answer(cluster, "GET", "/nodes", {"more": "1"})


def test_published_schema() -> None:
    """The table of the simulator says what the published schema says, where PROXMOX_SCHEMA names one.

    It is a JSON file with "endpoints" as they stand in api-viewer/apidata.js of pve-docs, one of each path and method.
    """
    path = os.environ.get("PROXMOX_SCHEMA")
    if path is None:
        pytest.skip("PROXMOX_SCHEMA names no published schema")
    published = {f"{each['method']} {each['path']}": each for each in json.loads(Path(path).read_text())["endpoints"]}
    compared = 0
    for name, ours in SCHEMA["endpoints"].items():
        theirs = published.get(name)
        if theirs is None:
            continue
        compared += 1
        assert ours["parameters"].keys() == theirs["parameters"].get("properties", {}).keys(), name
        _compare(name, ours["returns"], theirs["returns"])
    assert compared >= 9


def _compare(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours["type"] == theirs.get("type", "object"), name
    assert ours.get("enum") == theirs.get("enum"), name
    if "items" in ours:
        _compare(name, ours["items"], theirs["items"])
    for key, each in ours.get("properties", {}).items():
        assert bool(each.get("optional")) == bool(theirs["properties"][key].get("optional")), (name, key)
        _compare(f"{name}: {key}", each, theirs["properties"][key])
