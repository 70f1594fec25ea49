"""Types of the public names; how they are loaded is in __init__.py."""

from bfrepo.core.clock import SystemClock as SystemClock
from bfrepo.core.errors import BackupForgeError as BackupForgeError
from bfrepo.core.progress import Quiet as Quiet
from bfrepo.core.progress import Reporter as Reporter
from bfrepo.operations.backup import BackupOptions as BackupOptions
from bfrepo.operations.backup import BackupResult as BackupResult
from bfrepo.operations.backup import backup as backup
from bfrepo.operations.check import CheckOptions as CheckOptions
from bfrepo.operations.check import CheckResult as CheckResult
from bfrepo.operations.check import check as check
from bfrepo.operations.restore import RestoreResult as RestoreResult
from bfrepo.operations.restore import restore as restore
from bfrepo.operations.snapshots import load_snapshots as load_snapshots
from bfrepo.repository.config import new_config as new_config
from bfrepo.repository.repository import Repository as Repository
from bfrepo.repository.repository import init_repository as init_repository
from bfrepo.repository.repository import open_repository as open_repository
from bfrepo.restorer.plan import RestoreOptions as RestoreOptions
from bfrepo.sources.exclude import ExcludeRules as ExcludeRules
from bfrepo.sources.exclude import PathFilter as PathFilter
from bfrepo.sources.filesystem import FileSystemSource as FileSystemSource
from bfrepo.storage.location import open_backend as open_backend
from bfrepo.storage.location import parse_location as parse_location

__all__: list[str]
_HOMES: dict[str, str]
