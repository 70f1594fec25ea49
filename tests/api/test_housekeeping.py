"""What the server clears away by itself."""

from __future__ import annotations

from sqlalchemy import func, insert, select

from api.db.schema import audit, login_failures, metadata, repositories, sessions, tenants
from api.services.attempts import WINDOW_S, Attempts
from api.services.housekeeping import Housekeeping
from api.services.jobspecs import JobSpec, Kind, RunSpec
from api.services.runqueue import RunQueue, insert_run
from api.services.tenants import GRACE
from tests.support.repositories import FakeClock
from tests.support.server import Client, Stage


def counts(stage: Stage, tenant_id: str) -> dict[str, int]:
    """How many rows of a tenant each table has."""
    with stage.database() as database, database.read() as connection:
        return {
            table.name: connection.execute(
                select(func.count()).select_from(table).where(table.c.tenant_id == tenant_id)
            ).scalar_one()
            for table in metadata.sorted_tables
            if "tenant_id" in table.c
        }


def clean(stage: Stage) -> None:
    """One round."""
    with stage.database() as database:
        Housekeeping(database, stage.clock, stage.config.stores).run()


def test_deleted_tenant_goes_after_its_grace_time(any_stage: Stage) -> None:
    """Until the grace time is over all of a deleted tenant is there; then nothing but what the audit log says."""
    stage, tenant_id = any_stage, any_stage.tenants["beta"]
    clock = stage.clock = FakeClock(stage.clock.now())
    stage.api_token("beta.admin", "store:read")
    data = {name: stage.config.stores / stage.tenants[name] / "repo" / "config" for name in ("alpha", "beta")}
    for path in data.values():
        path.parent.mkdir(parents=True)
        path.write_bytes(b"data")
    row = {"id": "r", "name": "r", "location": "x", "sealed_secrets": b"", "created": 0, "version": 1}
    with stage.database() as database, database.write() as connection:
        connection.execute(insert(repositories).values(tenant_id=tenant_id, **row))

    async def talk(client: Client) -> None:
        assert (await client.ask("DELETE", f"/api/tenants/{tenant_id}", who="main.root")).status == 204

    stage.run(talk)
    before = counts(stage, tenant_id)
    others = counts(stage, stage.tenants["alpha"])["users"]
    clock.advance(GRACE.total_seconds() - 1)
    clean(stage)
    assert counts(stage, tenant_id) == {**before, "sessions": 0}
    assert data["beta"].exists()

    clock.advance(2)
    for _ in range(2):
        clean(stage)
        assert {name for name, count in counts(stage, tenant_id).items() if count} == {"audit"}
    assert (data["alpha"].exists(), data["beta"].parent.parent.exists()) == (True, False)
    assert counts(stage, stage.tenants["alpha"])["users"] == others
    with stage.database() as database, database.read() as connection:
        assert tenant_id not in connection.execute(select(tenants.c.id)).scalars().all()
        query = select(audit.c.action).where(audit.c.tenant_id == tenant_id).order_by(audit.c.id)
        assert connection.execute(query).scalars().all() == ["tenant.delete", "tenant.purge"]


def test_what_has_expired_goes(stage: Stage) -> None:
    """Sessions that are over and failures that count no more are removed, and none of the others."""
    clock = stage.clock = FakeClock(stage.clock.now())
    with stage.database() as database:
        Attempts(database, clock).begin("a@example.org", "192.0.2.1")
        clock.advance(WINDOW_S + 1)
        Attempts(database, clock).begin("b@example.org", "192.0.2.2")
        clean(stage)
        with database.read() as connection:
            assert connection.execute(select(func.count()).select_from(login_failures)).scalar_one() == 2
            assert connection.execute(select(func.count()).select_from(sessions)).scalar_one() == 7
        clock.advance(24 * 3600)
        clean(stage)
        with database.read() as connection:
            assert connection.execute(select(func.count()).select_from(login_failures)).scalar_one() == 0
            assert connection.execute(select(func.count()).select_from(sessions)).scalar_one() == 0


def test_runs_of_long_ago_go(any_stage: Stage) -> None:
    """What a run has said can be looked up for 90 days after its end; runs that have not ended stay."""
    clock = any_stage.clock = FakeClock(any_stage.clock.now())
    spec = RunSpec(repository="0", name="job", job=JobSpec(kind=Kind.CHECK))
    tenant = any_stage.tenants["alpha"]
    with any_stage.database() as database:
        queue = RunQueue(database, clock, stale_s=60.0)
        for name in ("ended", "waits"):
            with database.write() as connection:
                insert_run(connection, tenant, spec, any_stage.now, job_id=None, due=0.0, run_id=name)
        claim = queue.claim("ended", "me")
        assert claim is not None
        queue.finish(claim, "done", "", {})
    before = counts(any_stage, tenant)
    clock.advance(90 * 86400 - 1)
    clean(any_stage)
    assert counts(any_stage, tenant)["runs"] == before["runs"] == 2
    clock.advance(2)
    clean(any_stage)
    after = counts(any_stage, tenant)
    assert (after["runs"], after["run_events"]) == (1, 0)
