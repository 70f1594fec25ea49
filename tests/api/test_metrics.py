"""What the server tells of itself: metrics, the log of requests, and TLS."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path

import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert

from api.db.schema import damaged_objects, measurements, repositories, runs, stores
from tests.support.server import Answer, Client, Stage, make_stage
from tests.support.serving import serving
from tests.support.store_client import ALL, owner, settle


def samples(answer: Answer) -> dict[str, float]:
    """The values by name and labels, as the text format writes them."""
    assert answer.status == 200
    return {
        f"{sample.name}{json.dumps(sample.labels, sort_keys=True)}": sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def fill(stage: Stage) -> None:
    """One of all that is counted, of alpha's."""
    mine = {"tenant_id": stage.tenants["alpha"]}
    settle(stage, quota_bytes=5000)
    run = {"kind": "backup", "spec": "{}", "attempt": 1, "created": 1.0, "not_before": 1.0}
    with stage.database() as database, database.write() as connection:
        row = {"id": "s", "name": "main", "bytes": 1234, "created": 1.0, "scrubbed": 77.0}
        connection.execute(insert(stores).values(**row, **mine))
        row = {"store_id": "s", "path": "index/0", "found": 1.0, "seen": 1.0}
        connection.execute(insert(damaged_objects).values(**row, **mine))
        for number, (state, finished) in enumerate([("succeeded", 30.0), ("succeeded", 50.0), ("running", None)]):
            row = {"id": f"r{number}", "state": state, "due": number, "started": 20.0, "finished": finished}
            connection.execute(insert(runs).values(cancel_requested=False, **run, **row, **mine))
        row = {"id": "p", "name": "vault", "location": "x", "sealed_secrets": b"", "created": 1.0, "version": 1}
        connection.execute(insert(repositories).values(**row, **mine))
        for logical in (100, 400):
            row = {"repository_id": "p", "at": 1.0, "snapshots": 3, "logical_bytes": logical, "unique_bytes": 100}
            connection.execute(insert(measurements).values(stored_bytes=60, **row, **mine))


def test_metrics(any_stage: Stage) -> None:
    """Prometheus finds requests by route, and runs, stores, quotas and repositories of all tenants."""
    stage = any_stage
    fill(stage)

    async def talk(client: Client) -> None:
        await client.ask("GET", "/api/tenants/x", who="alpha.admin")
        await client.ask("GET", "/nowhere/at/all")
        await client.ask("PROPFIND", "/healthz")
        found = samples(await client.ask("GET", "/metrics", token=stage.api_token("main.root", "metrics:read")))
        expected = {
            'backupforge_tenant_quota_bytes{"tenant": "alpha"}': 5000,
            'backupforge_store_bytes{"store": "main", "tenant": "alpha"}': 1234,
            'backupforge_store_scrubbed_timestamp_seconds{"store": "main", "tenant": "alpha"}': 77,
            'backupforge_store_damaged_objects{"store": "main", "tenant": "alpha"}': 1,
            'backupforge_runs{"kind": "backup", "state": "succeeded", "tenant": "alpha"}': 2,
            'backupforge_runs{"kind": "backup", "state": "running", "tenant": "alpha"}': 1,
            'backupforge_run_seconds_sum{"kind": "backup", "state": "succeeded", "tenant": "alpha"}': 40,
            'backupforge_run_seconds_count{"kind": "backup", "state": "succeeded", "tenant": "alpha"}': 2,
            'backupforge_repository_dedup_ratio{"repository": "vault", "tenant": "alpha"}': 4,
            'backupforge_repository_stored_bytes{"repository": "vault", "tenant": "alpha"}': 60,
            'backupforge_http_request_seconds_count{"method": "GET", "route": "/api/tenants/{id}", "status": "404"}': 1,
            'backupforge_http_request_seconds_count{"method": "GET", "route": "none", "status": "404"}': 1,
            'backupforge_http_request_seconds_count{"method": "other", "route": "none", "status": "405"}': 1,
        }
        assert {key: found.get(key) for key in expected} == expected
        assert found["process_resident_memory_bytes{}"] > 0

    stage.run(talk)


def test_tokens_for_metrics(stage: Stage) -> None:
    """Only the server's administrator can have such a token, and it opens nothing else."""

    async def talk(client: Client) -> None:
        body = {"name": "prometheus", "scopes": ["metrics:read"]}
        assert (await client.ask("POST", "/api/auth/tokens", who="alpha.admin", json=body)).status == 403
        token = (await client.ask("POST", "/api/auth/tokens", who="main.root", json=body)).value["token"]
        assert (await client.ask("GET", "/metrics", token=token)).status == 200
        assert (await client.ask("GET", "/api/tenants", token=token)).status == 403
        assert (await client.ask("GET", "/metrics", token=stage.api_token("alpha.admin", "metrics:read"))).status == 403

    stage.run(talk)


def test_paths_are_no_labels(stage: Stage) -> None:
    """Who asks for a thousand paths makes no thousand time series."""

    async def talk(client: Client) -> None:
        store = owner(stage, client)
        before = samples(await client.ask("GET", "/metrics", who="main.root"))
        for number in range(50):
            await client.ask("GET", f"/api/tenants/{number}", who="alpha.admin")
            await client.ask("GET", f"/elsewhere/{number}")
            await store.status("GET", f"data/{number:064x}")
        after = samples(await client.ask("GET", "/metrics", who="main.root"))
        assert len(after) - len(before) < 4 * 20

    stage.run(talk)


@pytest.mark.parametrize("as_json", [False, True])
def test_log_of_requests(stage: Stage, as_json: bool) -> None:
    """Each request leaves a line that says who asked for what, and holds no secret, even of the query."""
    secret = stage.api_token("alpha.admin", *ALL)
    with serving(stage, "--log-requests", *(["--json"] if as_json else [])) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        headers = {"Authorization": f"Bearer {stage.tokens['alpha.viewer']}", "X-Request-ID": "mine-12345"}
        connection.request("GET", "/api/tenants/x?secret=in-the-query", headers=headers)
        connection.getresponse().read()
        connection.request("GET", f"/api/%0Aevil?{secret}", headers={"Authorization": f"Bearer {secret}"})
        connection.getresponse().read()
        connection.close()
        server.process.terminate()
        server.process.wait(30)
        said = Path(server.log).read_text()
    assert secret not in said
    assert "in-the-query" not in said
    assert stage.tokens["alpha.viewer"] not in said
    if not as_json:
        assert "INFO backupforge.requests: GET /api/tenants/x 400 " in said
        assert "GET /api/%0Aevil 404 " in said
        return
    lines = [json.loads(line) for line in said.splitlines()]
    line = next(line for line in lines if line.get("request_id") == "mine-12345")
    assert (line["method"], line["path"], line["status"]) == ("GET", "/api/tenants/x", 400)
    assert (line["level"], line["logger"]) == ("info", "backupforge.requests")
    assert (line["tenant"], line["user"]) == (stage.tenants["alpha"], stage.users["alpha.viewer"])
    assert line["client"] == "127.0.0.1"


def test_tls(tmp_path: Path) -> None:
    """With a certificate the server speaks TLS and nothing else, 1.2 and newer; what is stored comes back by it."""
    stage = make_stage(tmp_path / "data")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    options = ("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
    headers = {"Authorization": f"Bearer {stage.tokens['alpha.viewer']}"}
    with serving(stage, *options) as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context()
        authority.configure_trust(context)
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=30)
        connection.request("GET", "/api/auth/me", headers=headers)
        assert connection.getresponse().read().startswith(b'{"id"')
        _store_and_read(connection, stage)
        connection.close()
        plain = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        plain.request("GET", "/healthz")
        with pytest.raises((http.client.HTTPException, OSError)):
            plain.getresponse()
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(old)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        old.set_ciphers("AES128-SHA")
        with pytest.raises(ssl.SSLError):
            http.client.HTTPSConnection("127.0.0.1", server.port, context=old, timeout=30).connect()


def _store_and_read(connection: http.client.HTTPSConnection, stage: Stage) -> None:
    from tests.support.store_client import PLACE, basic, sha256

    data = bytes(range(256)) * 20_000
    sent = {"Authorization": basic(stage.api_token("alpha.admin", *ALL))}
    for method, path, body, answered in (
        ("POST", f"{PLACE}?create=true", b"", b""),
        ("POST", f"{PLACE}data/{sha256(data)}", data, b""),
        ("GET", f"{PLACE}data/{sha256(data)}", None, data),
    ):
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, answered)
