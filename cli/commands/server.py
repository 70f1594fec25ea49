"""`server`: statistics, snapshots, jobs and stores over HTTP."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from bfrepo.core.errors import BackupForgeError, UsageError
from cli.app import App, pass_app
from cli.exit_codes import DONE, FAILED, USAGE
from cli.options import command
from cli.output import Output, json_line

if TYPE_CHECKING:
    from api.config import ServerConfig
    from api.server import Listening


database_option = click.option(
    "--database",
    metavar="URL",
    help="sqlite:///PATH or postgresql://USER@HOST/NAME; by default SQLite in the data folder. A URL with a password "
    "belongs into the variable.  [env: BACKUPFORGE_SERVER_DATABASE]",
)
data_option = click.option(
    "--data",
    metavar="DIR",
    help="Where the server keeps its key, its database and what clients store.  [env: BACKUPFORGE_SERVER_DATA]",
)
slots_option = click.option(
    "--slots",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    metavar="N",
    help="How many runs of jobs go on at once.",
)
allow_location_option = click.option(
    "--allow-location",
    "allowed_locations",
    multiple=True,
    metavar="LOCATION",
    help="Open repositories of tenants below this location too; {tenant} in it stands for the tenant's ID; may be "
    "repeated.",
)


@command(
    "server",
    short_help="Serve statistics, snapshots, jobs and stores over HTTP.",
    examples=[
        ("backupforge server", "for this machine, with everything in one folder"),
        ("backupforge server --listen :8420 --tls-cert cert.pem --tls-key key.pem", "for the network"),
        ("backupforge server --base-url https://backup.example.org --trusted-proxy 127.0.0.1", "behind nginx"),
        ("backupforge server --database postgresql://backupforge@db/backupforge", "where several servers share work"),
    ],
    exit_codes=(DONE, FAILED, USAGE),
)
@click.option(
    "--listen", metavar="HOST:PORT", default="127.0.0.1:8420", show_default=True, help="The address to listen on."
)
@database_option
@data_option
@click.option("--tls-cert", type=click.Path(), metavar="FILE", help="The certificate for TLS, with its chain.")
@click.option("--tls-key", type=click.Path(), metavar="FILE", help="The certificate's key, if it is not in that file.")
@click.option("--base-url", metavar="URL", help="How clients reach the server, if that is through a proxy.")
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    multiple=True,
    metavar="ADDRESS",
    help="A proxy that is believed whom it speaks for (X-Forwarded-For); may be repeated.",
)
@allow_location_option
@click.option(
    "--runner",
    type=click.Choice(["embedded", "procrastinate"]),
    default="embedded",
    show_default=True,
    help="Who runs jobs: the server itself, or workers (backupforge worker), which takes a PostgreSQL database.",
)
@slots_option
@click.option(
    "--log-requests", is_flag=True, help="Write a line for each request to the standard error; with --json as JSON."
)
@pass_app
def run(
    app: App,
    listen: str,
    database: str | None,
    data: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    base_url: str | None,
    trusted_proxies: Sequence[str],
    allowed_locations: Sequence[str],
    runner: str,
    slots: int,
    log_requests: bool,
) -> int:
    """Serve statistics, snapshots, jobs and stores over HTTP. GET /openapi.json describes all of it.

    The database is brought up to date first. While there are no users, each start prints a secret that makes the first
    administrator.

    Ctrl-C and SIGTERM end it, after what is under way.
    """
    _check_packages()
    from api.config import ServerConfig, default_database, parse_listen
    from api.server import serve

    check_database_option(database)
    _check_options(tls_cert, tls_key, base_url)
    host, port = parse_listen(listen)
    folder = app.settings.server_data(data).absolute()
    config = ServerConfig(
        data=folder,
        database=app.settings.server_database(database) or default_database(folder),
        listen_host=host,
        listen_port=port,
        tls_certificate=Path(tls_cert) if tls_cert else None,
        tls_key=Path(tls_key) if tls_key else None,
        base_url=base_url.rstrip("/") if base_url else None,
        trusted_proxies=tuple(trusted_proxies),
        allowed_locations=tuple(allowed_locations),
        runner=runner,
        slots=slots,
        log_requests=log_requests,
        log_json=app.output.as_json,
    )
    app.output.streaming = True
    app.output.outlives_readers = True
    _warn_of_clear_text(app, config)
    serve(config, app.clock, lambda listening: _show(app, listening))
    app.output.say("the server has ended")
    return DONE


def _check_packages() -> None:
    """Raises BackupForgeError."""
    try:
        import api.server  # noqa: F401
    except ModuleNotFoundError as error:
        raise BackupForgeError(
            f"the server needs the package {error.name}, which is not installed",
            hint="pip install 'backupforge[server]'",
        ) from error


def check_database_option(database: str | None) -> None:
    """Raises UsageError for a URL that others could read a password in."""
    if database and "@" in database and ":" in database.partition("://")[2].rpartition("@")[0]:
        raise UsageError(
            "the URL of --database has a password in it, which everybody on this machine could read",
            hint="put the URL into the environment variable BACKUPFORGE_SERVER_DATABASE",
        )


def _check_options(tls_cert: str | None, tls_key: str | None, base_url: str | None) -> None:
    if tls_key and not tls_cert:
        raise UsageError("--tls-key is the key of a certificate, and there is no --tls-cert")
    if base_url and urlsplit(base_url).scheme not in ("http", "https"):
        raise UsageError(f"--base-url {base_url} is no URL", hint="write https://HOST")


def _warn_of_clear_text(app: App, config: ServerConfig) -> None:
    """Behind a proxy TLS is the proxy's."""
    if config.tls_certificate or config.trusted_proxies or _is_local(config.listen_host):
        return
    app.output.notice(
        "warning", b"", "passwords and data cross the network unencrypted: use --tls-cert, or a proxy that has TLS"
    )


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _show(app: App, listening: Listening) -> None:
    app.output.say(f"listening on {listening.url}")
    app.output.line("listening", {"url": listening.url})
    if listening.first_secret is not None:
        _show_secret(app.output, listening.url, listening.first_secret)


def _show_secret(output: Output, url: str, secret: str) -> None:
    """To the screen and not to the log, as nobody else may have it."""
    if output.as_json:
        output.raw(json_line({"message_type": "first_secret", "secret": secret}))
        return
    body = f'{{"secret": "{secret}", "email": "YOU@EXAMPLE.ORG", "password": "PASSWORD"}}'
    output.result(
        [
            "There are no users yet. The secret to make the first administrator, once, within 24 hours:",
            f"  {secret}",
            "For example (the password has 10 characters or more):",
            f"  curl --json @- {url}/api/auth/register <<< '{body}'",
        ]
    )
