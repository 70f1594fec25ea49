"""`version`: the program and what it uses."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from cli.app import App, pass_app
from cli.exit_codes import DONE, USAGE
from cli.options import command
from cli.version import PROGRAM, VERSION

LIBRARIES = (
    "argon2-cffi", "blake3", "borghash", "click", "cryptography", "lz4", "msgspec", "sqlite-utils", "urllib3",
    "zstandard",
)  # fmt: skip
"""What the program needs to run, by the names of the distributions."""

FORMAT_VERSION = 1


@command(
    "version",
    short_help="Show the versions of the program and what it uses.",
    examples=[("backupforge version", "for a bug report"), ("backupforge version --json", "for a program")],
    exit_codes=(DONE, USAGE),
)
@pass_app
def run(app: App) -> None:
    """Show the versions of the program, the repository format, Python and the libraries."""
    libraries = {name: installed_version(name) for name in LIBRARIES}
    app.output.document(
        {
            "version": VERSION,
            "repository_format": FORMAT_VERSION,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "libraries": libraries,
        }
    )
    app.output.result(f"{PROGRAM}, repository format {FORMAT_VERSION}")
    app.output.result(f"{platform.python_implementation()} {platform.python_version()} on {platform.platform()}")
    app.output.result(", ".join(f"{name} {number or 'missing'}" for name, number in libraries.items()))


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, None when it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
