"""SSH, for storages and sources: connections to hosts as `ssh` would make them, and SFTP over them."""

from bfrepo.core.errors import UsageError

try:
    import paramiko as _paramiko  # noqa: F401 - nothing in here works without it
except ModuleNotFoundError:
    raise UsageError("SSH needs the package paramiko", hint="pip install 'backupforge[ssh]'") from None
