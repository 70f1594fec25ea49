"""`schedule`: profiles run at fixed times."""

from __future__ import annotations

import os
from dataclasses import asdict

import click

import cli.schedules
import cli.systemd
from bfrepo.core.errors import BackupForgeError
from cli.app import App, pass_app
from cli.exit_codes import DONE, FAILED, USAGE
from cli.options import Flags, Group
from cli.render import shown, table
from cli.schedules import Entry, Job, Schedule
from cli.settings import Settings, resolve

run = Group(
    "schedule",
    help="""Run profiles at fixed times, by systemd or cron.

    Where systemd runs, a service and a timer are written for each profile: for root those of the system, for others
    those of the user. Elsewhere it is a line in the user's crontab. Nothing secret is written there: a profile says
    where its password comes from.""",
    short_help="Run profiles at fixed times, by systemd or cron.",
)

_CODES = (DONE, FAILED, USAGE)


@run.command(
    "install",
    short_help="Run a profile from now on.",
    examples=[
        ("backupforge schedule install home --at daily", "at midnight, or when the machine is on again"),
        ("backupforge schedule install home --at '*-*-* 02:30'", "every night"),
        ("backupforge schedule install office --at 'Mon..Fri 12,18:00' --dry-run", "what would be written?"),
    ],
    exit_codes=_CODES,
)
@click.argument("name", metavar="PROFILE")
@click.option("--at", required=True, metavar="CALENDAR", help="When: daily, '02:30', 'Mon..Fri 03:00', ...")
@click.option("-n", "--dry-run", is_flag=True, help="Change nothing; print what would be written.")
@pass_app
def install_command(app: App, name: str, at: str, dry_run: bool) -> None:
    """Run a profile from now on, in place of an earlier schedule of the same profile.

    A run that was missed while the machine was off is made up for (not by cron), and runs are spread over five
    minutes, so that many machines do not come at once.
    """
    cli.schedules.require_plain_name(name)
    settings = _settings_alone(name, app)
    cli.schedules.require_calendar(at)
    variables = {"XDG_CONFIG_HOME": str(settings.config_home)}
    job = Job(profile=name, calendar=at, command=(*cli.schedules.own_program(), "run", name), variables=variables)
    schedule = _schedule(app)
    written = schedule.preview(job)
    remarks = [] if dry_run else schedule.install(job)
    for remark in [*_doubts(settings), *remarks]:
        app.output.notice("warning", b"", remark)
    app.output.document(
        {"profile": name, "dry_run": dry_run, "written": [{"to": to, "text": text} for to, text in written]}
    )
    for to, text in written:
        app.output.result(f"# {shown(to)}\n{text}" if dry_run else f"wrote {shown(to)}")
    if not dry_run:
        entries = [each for each in schedule.entries() if each.profile == name and each.next_run]
        app.output.say(f"profile {name} runs at {shown(at)}{f': next {entries[0].next_run}' if entries else ''}")


@run.command(
    "remove",
    short_help="Run a profile no longer.",
    examples=[("backupforge schedule remove home", "takes away what install wrote, and nothing else")],
    exit_codes=_CODES,
)
@click.argument("name", metavar="PROFILE")
@pass_app
def remove_command(app: App, name: str) -> None:
    """Run a profile no longer. The profile and its snapshots stay."""
    cli.schedules.require_plain_name(name)
    removed = _schedule(app).remove(name)
    if not removed:
        raise BackupForgeError(
            f"profile {name!r} is not scheduled", hint="see what is with 'backupforge schedule show'"
        )
    app.output.document({"profile": name, "removed": removed})
    app.output.result(f"removed {shown(each)}" for each in removed)


@run.command(
    "show",
    short_help="Show what runs when, and how the last run ended.",
    examples=[("backupforge schedule show", "of this user")],
    exit_codes=_CODES,
)
@pass_app
def show_command(app: App) -> None:
    """Show what runs when, and how the last run ended. Cron keeps no account of that."""
    entries = _schedule(app).entries()
    app.output.document([asdict(each) for each in entries])
    if entries:
        headings = ("Profile", "When", "Next run", "Last run", "Ended")
        app.output.result(table(headings, map(_row, entries), "<<<<<", app.output.style))
    else:
        app.output.say("nothing is scheduled: 'backupforge schedule install PROFILE --at daily' does that")


def _row(entry: Entry) -> list[str]:
    cells = (entry.profile, entry.calendar, entry.next_run, entry.last_run, entry.last_result)
    return [shown(cell) if cell else "-" for cell in cells]


def _schedule(app: App) -> Schedule:
    """What this machine has."""
    if not cli.schedules.SYSTEMD_RUNS.is_dir():
        from cli.cron import CronSchedule

        return CronSchedule(app.settings.environment, app.clock)
    of_user = os.geteuid() != 0
    directory = app.settings.config_home / "systemd" / "user" if of_user else cli.systemd.SYSTEM_UNITS
    return cli.systemd.SystemdSchedule(directory, of_user=of_user)


def _settings_alone(name: str, app: App) -> Settings:
    """The settings as a scheduled run will find them, without our variables. Raises UsageError for what cannot run."""
    from cli.routine import require_schedulable

    variables = app.settings.environment.items()
    settings = resolve(
        Flags(profile=name), {key: value for key, value in variables if not key.startswith("BACKUPFORGE_")}
    )
    require_schedulable(name, settings, app.clock)
    return settings


def _doubts(settings: Settings) -> list[str]:
    if settings.password.given:
        return []
    return ["the profile has no password-file or password-command, and nobody will be there to type a password"]
