"""`worker`: run the jobs of servers, on any machine that reaches their database."""

from __future__ import annotations

from bfrepo.core.errors import BackupForgeError, UsageError
from cli.app import App, pass_app
from cli.commands.server import allow_location_option, check_database_option, data_option, database_option, slots_option
from cli.exit_codes import DONE, FAILED, USAGE
from cli.options import command


@command(
    "worker",
    short_help="Run the jobs of a server that leaves them to workers.",
    examples=[
        ("backupforge worker --database postgresql://backupforge@db/backupforge", "beside any number of others"),
        ("backupforge worker --slots 8", "eight runs at once; database and data from the environment"),
    ],
    exit_codes=(DONE, FAILED, USAGE),
)
@database_option
@data_option
@slots_option
@allow_location_option
@pass_app
def run(app: App, database: str | None, data: str | None, slots: int, allowed_locations: tuple[str, ...]) -> int:
    """Run the jobs of a server that leaves them to workers (server --runner procrastinate).

    The database is the server's, a PostgreSQL. The data folder has a copy of the server's server.key, which opens
    what the database keeps sealed, and allowed.toml, which says what jobs may read and run on this machine.

    Any number of workers on any number of machines share the work; their clocks have to agree to within seconds. No run
    is carried out twice. Ctrl-C and SIGTERM end the worker; runs that are under way are interrupted, and tried again as
    their jobs say.
    """
    try:
        from api.config import ServerConfig
        from api.worker import work
    except ModuleNotFoundError as error:
        raise BackupForgeError(
            f"the worker needs the package {error.name}, which is not installed",
            hint="pip install 'backupforge[server]'",
        ) from error
    check_database_option(database)
    url = app.settings.server_database(database)
    if url is None:
        raise UsageError("no database was given", hint="name that of the server with --database postgresql://...")
    config = ServerConfig(
        data=app.settings.server_data(data).absolute(),
        database=url,
        slots=slots,
        allowed_locations=allowed_locations,
    )
    app.output.streaming = True
    app.output.outlives_readers = True
    work(config, app.clock, lambda: _show(app))
    app.output.say("the worker has ended")
    return DONE


def _show(app: App) -> None:
    app.output.say("the worker waits for runs")
    app.output.line("ready", {})
