"""What a run of the program goes by: option, else environment variable, else profile, else default.

The only place that reads the environment. Profiles are tables in `config.toml`; profiles.py has what they may say.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from bfrepo.core.errors import BackupForgeError, UsageError
from cli.options import Flags
from cli.passwords import PasswordSource, one_of

if TYPE_CHECKING:
    from bfrepo.sources.proxmox.api import ApiSettings
    from bfrepo.sources.proxmox.node import NodeAccess
    from bfrepo.storage.options import StorageOptions
    from cli.profiles import Profile

VARIABLES: Final = {
    "BACKUPFORGE_REPOSITORY": "location of the repository",
    "BACKUPFORGE_REPOSITORY_HOT": "location of its hot part, if it is in cold storage",
    "BACKUPFORGE_PASSWORD": "the password itself",
    "BACKUPFORGE_PASSWORD_FILE": "a file that holds the password",
    "BACKUPFORGE_PASSWORD_COMMAND": "a command that prints the password",
    "BACKUPFORGE_FROM_PASSWORD": "the password of the other repository",
    "BACKUPFORGE_FROM_PASSWORD_FILE": "a file that holds the password of the other repository",
    "BACKUPFORGE_FROM_PASSWORD_COMMAND": "a command that prints the password of the other repository",
    "BACKUPFORGE_TO_PASSWORD": "the password of the repository that is copied to",
    "BACKUPFORGE_TO_PASSWORD_FILE": "a file that holds the password of the repository that is copied to",
    "BACKUPFORGE_TO_PASSWORD_COMMAND": "a command that prints the password of the repository that is copied to",
    "BACKUPFORGE_REST_USERNAME": "who we are for a REST server, where the location does not say it",
    "BACKUPFORGE_REST_PASSWORD": "the password for a REST server, where the location has none",
    "BACKUPFORGE_SFTP_PASSWORD": "the password for an SFTP server that takes no key",
    "BACKUPFORGE_PROXMOX_API": "where the API of a Proxmox cluster is",
    "BACKUPFORGE_PROXMOX_TOKEN": "the token for that API, USER@REALM!NAME=SECRET",
    "BACKUPFORGE_PROXMOX_TOKEN_FILE": "a file that holds that token",
    "BACKUPFORGE_PROXMOX_CA_FILE": "certificates to trust that API by, in place of the system's",
    "BACKUPFORGE_PROXMOX_NODE_DIR": "a directory on those nodes for what backups need meanwhile",
    "BACKUPFORGE_PROXMOX_SSH": "how the cluster's nodes are reached, such as root@{node}",
    "BACKUPFORGE_SERVER_DATABASE": "the URL of the server's database, which may have a password in it",
    "BACKUPFORGE_SERVER_DATA": "where the server keeps its key, its database and what clients store",
    "BACKUPFORGE_MCP_TOKEN": "the token that clients of `mcp --listen` have to send",
    "BACKUPFORGE_CACHE_DIR": "where the cache is kept",
    "XDG_CACHE_HOME": "the folder that holds the cache's folder by default",
    "XDG_CONFIG_HOME": "the folder that holds `backupforge/config.toml`",
    "XDG_STATE_HOME": "the folder that holds `backupforge/quarantine`, where repairs put what they take out, "
    "`backupforge/server`, the server's data, and `backupforge/mcp-audit.jsonl`",
    "NO_COLOR": "no colours, with any value but an empty one",
    "TERM": "no colours when it is `dumb`",
}
"""Every variable that means something to this program, for the documentation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of this run. `cache_dir` is None where there is to be no cache, `profile` where none was read.

    `storage` has the credentials, too. Limits are bytes a second, None for none.
    """

    repository: str | None
    repository_hot: str | None
    password: PasswordSource
    storage: StorageOptions = field(repr=False)
    limit_upload: int | None
    limit_download: int | None
    cache_dir: Path | None
    json: bool
    quiet: bool
    verbosity: int
    progress: bool
    log_file: str | None
    log_json: bool
    profile: Profile | None
    environment: Mapping[str, str] = field(repr=False)

    @property
    def location(self) -> str:
        """The repository's location. Raises UsageError when nobody said where it is."""
        if not self.repository:
            raise UsageError(
                "no repository was given",
                hint="use --repository or --profile, or set the environment variable BACKUPFORGE_REPOSITORY",
            )
        return self.repository

    @property
    def config_home(self) -> Path:
        """The folder that holds `backupforge/config.toml`."""
        return _xdg("CONFIG", ".config", self.environment).parent

    @property
    def quarantine(self) -> Path:
        """Where repairs put what they take out of repositories, in a folder for each."""
        return _xdg("STATE", ".local/state", self.environment) / "quarantine"

    @property
    def mcp_audit_log(self) -> Path:
        """Where the calls of assistants are written down."""
        return _xdg("STATE", ".local/state", self.environment) / "mcp-audit.jsonl"

    def mcp_token(self, file: str | None) -> str:
        """The token that clients of `mcp --listen` send. Raises UsageError for none, BackupForgeError."""
        token = self._token(file, "BACKUPFORGE_MCP_TOKEN")
        if not token:
            raise UsageError(
                "no token was given, and without one every program on this machine could call the tools",
                hint="write one into a file for --token-file: openssl rand -hex 32",
            )
        return token

    def proxmox(self, api: str | None, token_file: str | None, ca_file: str | None) -> ApiSettings:
        """The API of a Proxmox cluster, and the token. Raises UsageError for what nobody said, BackupForgeError."""
        from bfrepo.sources.proxmox.api import ApiSettings, parse_api

        place = api or self.environment.get("BACKUPFORGE_PROXMOX_API")
        if not place:
            raise UsageError("nobody said where the Proxmox API is", hint="use --api or BACKUPFORGE_PROXMOX_API")
        file = token_file or self.environment.get("BACKUPFORGE_PROXMOX_TOKEN_FILE")
        token = self._token(file, "BACKUPFORGE_PROXMOX_TOKEN")
        if not token:
            raise UsageError(
                "no token for the Proxmox API was given",
                hint="write USER@REALM!NAME=SECRET into a file for --token-file, readable by you alone",
            )
        host, port = parse_api(place)
        trusted = ca_file or self.environment.get("BACKUPFORGE_PROXMOX_CA_FILE") or None
        return ApiSettings(host=host, port=port, token=token, ca_file=trusted)

    def proxmox_nodes(self, way: str | None, *, sudo: bool, work: str | None) -> NodeAccess:
        """How the nodes of a Proxmox cluster are reached: as SFTP servers are, unless the way says something else."""
        from bfrepo.sources.proxmox.node import USUAL_WAY, NodeAccess
        from bfrepo.sources.proxmox.script import WORK

        chosen = way or self.environment.get("BACKUPFORGE_PROXMOX_SSH") or USUAL_WAY
        folder = work or self.environment.get("BACKUPFORGE_PROXMOX_NODE_DIR") or WORK
        return NodeAccess(way=chosen, ssh=self.storage.sftp.ssh(), sudo=sudo, work=folder)

    def _token(self, file: str | None, variable: str) -> str:
        """A token from a file, or else from a variable; empty where nobody gave one."""
        try:
            return Path(file).read_text().strip() if file else self.environment.get(variable, "")
        except (OSError, UnicodeDecodeError) as error:
            raise BackupForgeError(f"cannot read the token in {file}: {error}") from error

    def server_data(self, option: str | None) -> Path:
        """Where the server keeps its key, its database and what clients store."""
        data = option or self.environment.get("BACKUPFORGE_SERVER_DATA")
        return Path(data) if data else _xdg("STATE", ".local/state", self.environment) / "server"

    def server_database(self, option: str | None) -> str | None:
        """The URL of the server's database, None for the one in its data. It may hold a password."""
        return option or self.environment.get("BACKUPFORGE_SERVER_DATABASE") or None

    def other_password(
        self, file: str | None, command: str | None, *, which: Literal["from", "to"] = "from"
    ) -> PasswordSource:
        """The password of another repository than the one that is worked on."""
        return one_of(
            PasswordSource(file=file, command=command),
            _password_of(self.environment, f"BACKUPFORGE_{which.upper()}_PASSWORD"),
            option=f"--{which}-password-",
        )


def resolve(flags: Flags, environment: Mapping[str, str] = os.environ) -> Settings:
    """Put the settings together. Raises InvalidValue or UsageError.

    Where nobody says which repository, the profile `default` counts, if there is one.
    """
    if flags.log_json and not flags.log_file:
        raise UsageError("--log-json says how to write a log file, and --log-file names none")
    repository = flags.repository or environment.get("BACKUPFORGE_REPOSITORY")
    profile = _profile(flags.profile, environment, wanted=not repository)
    password = one_of(
        PasswordSource(file=flags.password_file, command=flags.password_command),
        _password_of(environment, "BACKUPFORGE_PASSWORD"),
        PasswordSource(file=profile.password_file, command=profile.password_command) if profile else PasswordSource(),
        option="--password-",
    )
    cache = flags.cache_dir or environment.get("BACKUPFORGE_CACHE_DIR") or (profile.cache_dir if profile else None)
    return Settings(
        repository=repository or (profile.repository if profile else None),
        repository_hot=_hot_part(flags, environment, profile),
        password=password,
        storage=_storage_options(flags, environment, profile),
        limit_upload=_rate(flags.limit_upload, profile.limit_upload if profile else None),
        limit_download=_rate(flags.limit_download, profile.limit_download if profile else None),
        cache_dir=None if flags.no_cache else Path(cache) if cache else _xdg("CACHE", ".cache", environment),
        json=flags.json,
        quiet=flags.quiet,
        verbosity=flags.verbose,
        progress=not (flags.no_progress or flags.quiet),
        log_file=flags.log_file,
        log_json=flags.log_json,
        profile=profile,
        environment=environment,
    )


def colours_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the user's terminal shows colours and the user did not ask for none."""
    return not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def _hot_part(flags: Flags, environment: Mapping[str, str], profile: Profile | None) -> str | None:
    """The hot part, from where the repository is named or from what beats that.

    A variable that says where the hot part of one repository is means nothing for another one that an option names.
    """
    if flags.repository_hot or flags.repository:
        return flags.repository_hot
    if environment.get("BACKUPFORGE_REPOSITORY_HOT") or environment.get("BACKUPFORGE_REPOSITORY"):
        return environment.get("BACKUPFORGE_REPOSITORY_HOT")
    return profile.repository_hot if profile else None


def _storage_options(flags: Flags, environment: Mapping[str, str], profile: Profile | None) -> StorageOptions:
    """What the profile says and the command line after it, with the credentials."""
    from bfrepo.storage.options import parse_options

    options = parse_options((*(profile.options if profile else ()), *flags.option))
    user = environment.get("BACKUPFORGE_REST_USERNAME") or None
    password = environment.get("BACKUPFORGE_REST_PASSWORD") or None
    return replace(
        options,
        rest=replace(options.rest, user=user, password=password),
        sftp=replace(options.sftp, password=environment.get("BACKUPFORGE_SFTP_PASSWORD") or None),
    )


def _rate(option: str | None, default: str | None) -> int | None:
    from bfrepo.core.units import parse_rate

    wanted = option if option is not None else default
    return None if wanted is None else parse_rate(wanted)


def _password_of(environment: Mapping[str, str], name: str) -> PasswordSource:
    value = environment.get(name)
    return PasswordSource(
        file=environment.get(f"{name}_FILE") or None,
        command=environment.get(f"{name}_COMMAND") or None,
        value=os.fsencode(value) if value else None,
    )


def _xdg(kind: str, default: str, environment: Mapping[str, str]) -> Path:
    """Our folder by the XDG rules. A relative value does not count, says the specification."""
    base = environment.get(f"XDG_{kind}_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / default) / "backupforge"


def _profile(name: str | None, environment: Mapping[str, str], *, wanted: bool) -> Profile | None:
    """The profile of this name; without one the default profile, if there is one and it is wanted."""
    path = _xdg("CONFIG", ".config", environment) / "config.toml"
    if name is None and not (wanted and os.path.exists(path)):
        return None
    from cli.profiles import DEFAULT_PROFILE, find_profile, load_profile

    home = environment.get("HOME") or str(Path.home())
    return find_profile(path, DEFAULT_PROFILE, home) if name is None else load_profile(path, name, home)
