"""The tools that change something, as clients see them. They exist only where whoever started the server allowed them.

What destroys something is asked of the person in front of the client first, in words that hold nothing out of the
repository but IDs and times. A client that cannot ask gets an error, and nothing is done. The question is put together
from what is resolved in the same call, and what was confirmed is what is done: if `latest` has become another snapshot
between the question and the answer, it is asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

from mcp.server import MCPServer
from mcp.server.mcpserver import AcceptedElicitation, Elicit, ElicitationResult, Resolve
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from api.tools.bounds import MOST_NAME, quoted, raw_path
from api.tools.calls import Call, Toolbox, long, quick, toolbox
from api.tools.changing import RestorePlace, named
from api.tools.config import ToolsConfig
from api.tools.reading_tools import DATA_NOT_INSTRUCTIONS, PathInSnapshot, RawPath, SnapshotName
from api.tools.results import BackupView, ForgetView, PrunePlanView, PruneView, RestoreView
from bfrepo.data.snapshot import Snapshot
from bfrepo.restorer.plan import Overwrite

_MOST_FORGOTTEN: Final = 20

_ADDS: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)
_PLANS: Final = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
_DESTROYS: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)

Names = Annotated[
    list[SnapshotName], Field(min_length=1, max_length=_MOST_FORGOTTEN, description="The snapshots to remove.")
]
LocalPaths = Annotated[
    list[Annotated[str, Field(max_length=MOST_NAME)]],
    Field(max_length=100, description="Absolute paths on the server's machine, in directories that were allowed."),
]
Target = Annotated[
    str,
    Field(
        max_length=MOST_NAME,
        description="The directory on the server's machine to write into, in one that was allowed; made where it is "
        "missing. The contents of path land directly in it.",
    ),
]
OverwriteRule = Annotated[
    Overwrite,
    Field(description="What may replace a file that is there: nothing by default; anything else is asked first."),
]
DryRun = Annotated[bool, Field(description="Change nothing; say what would be done.")]


class Confirmation(BaseModel):
    """What the person in front of the client answers."""

    confirm: bool = Field(description="Really do it?")


@dataclass(frozen=True, slots=True)
class Chosen:
    """The snapshots that a call is about, and how many others there are."""

    snapshots: dict[bytes, Snapshot]
    others: int


def add_changing_tools(server: MCPServer[Toolbox], config: ToolsConfig) -> None:
    """Register those that `config` allows."""
    tools: list[tuple[str, Callable[..., Any], ToolAnnotations]] = [
        ("Remove snapshots", forget_snapshots, _DESTROYS),
        ("Plan a prune", plan_prune, _PLANS),
        ("Free space", prune, _DESTROYS),
    ]
    if config.backup_roots:
        tools.append(("Back up", backup, _ADDS))
    if config.restore_roots:
        tools.append(("Restore", restore_files, _DESTROYS))
    for title, tool, hints in tools:
        description = f"{' '.join((tool.__doc__ or '').split())} {DATA_NOT_INSTRUCTIONS}"
        server.add_tool(tool, title=title, description=description, annotations=hints)


# --- what is asked


def must_be_able_to_ask(call: Call) -> None:
    """Raises ToolError for a client that cannot ask a person."""
    capabilities = call.client_capabilities
    if capabilities is None or capabilities.elicitation is None:
        raise ToolError(
            "confirmation-needed: this has to be confirmed by a person, and the client cannot ask one "
            "(it does not offer elicitation); nothing was done (use the command line instead)"
        )


def must_be_confirmed(answer: ElicitationResult[Confirmation]) -> None:
    """Raises ToolError unless a person said yes."""
    if not (isinstance(answer, AcceptedElicitation) and answer.data.confirm):
        raise ToolError("not-confirmed: it was not confirmed, and nothing was done (do not try again unless asked to)")


async def _choose(call: Call, snapshots: Names) -> Chosen:
    must_be_able_to_ask(call)
    tools = toolbox(call)
    return Chosen(*await quick(tools, lambda: tools.changing.find_to_forget(snapshots)))


async def _ask_forget(call: Call, chosen: Annotated[Chosen, Resolve(_choose)]) -> Elicit[Confirmation]:
    names = [named(*each) for each in chosen.snapshots.items()]  # all of them: nobody confirms what is not shown
    where = quoted(toolbox(call).changing.location)
    return Elicit(
        f"Remove {len(names)} of {len(names) + chosen.others} snapshots from {where}, for good: {', '.join(names)}?",
        Confirmation,
    )


async def _ask_prune(call: Call) -> Elicit[Confirmation]:
    must_be_able_to_ask(call)
    where = quoted(toolbox(call).changing.location)
    return Elicit(f"Prune {where}: delete for good what no snapshot needs, a day after it was found?", Confirmation)


async def _place(
    call: Call, snapshot: SnapshotName, target: Target, path: PathInSnapshot = "/", path_raw: RawPath = None
) -> RestorePlace:
    tools = toolbox(call)
    raw_target = target.encode(errors="surrogateescape")
    return await quick(tools, lambda: tools.changing.restore_place(snapshot, raw_path(path, path_raw), raw_target))


async def _ask_restore(
    call: Call, overwrite: OverwriteRule, dry_run: DryRun, place: Annotated[RestorePlace, Resolve(_place)]
) -> Elicit[Confirmation] | Confirmation:
    """Only what replaces something has to be confirmed."""
    if dry_run or overwrite == "never":
        return Confirmation(confirm=True)
    must_be_able_to_ask(call)
    what = f"/{place.path.decode(errors='replace')}"
    return Elicit(
        f"Restore {quoted(what)} of snapshot {named(place.snapshot_id, place.snapshot)} into "
        f"{quoted(place.target.decode(errors='replace'))}, replacing files that are there ({overwrite})?",
        Confirmation,
    )


# --- the tools


async def forget_snapshots(
    call: Call,
    snapshots: Names,
    chosen: Annotated[Chosen, Resolve(_choose)],
    answer: Annotated[ElicitationResult[Confirmation], Resolve(_ask_forget)],
) -> ForgetView:
    """Remove snapshots, for good. A person is asked to confirm. Their space is freed by a prune."""
    must_be_confirmed(answer)
    changing, identifiers = toolbox(call).changing, list(chosen.snapshots)
    return await long(call, lambda notes, cancelled: changing.forget(identifiers, notes, cancelled))


async def plan_prune(call: Call) -> PrunePlanView:
    """How much a prune would delete and copy now, in bytes. Changes nothing."""
    return await long(call, toolbox(call).changing.plan_prune)


async def prune(call: Call, answer: Annotated[ElicitationResult[Confirmation], Resolve(_ask_prune)]) -> PruneView:
    """Free the space that no snapshot needs. A person is asked to confirm. What is found is deleted by the first prune
    a day later; see plan_prune for how much that is."""
    must_be_confirmed(answer)
    return await long(call, toolbox(call).changing.prune, unit="bytes")


async def backup(
    call: Call,
    paths: LocalPaths,
    exclude: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=4096)]],
        Field(max_length=100, description="Patterns of what to leave out, such as *.tmp."),
    ] = [],  # noqa: B006 (nobody changes it, and clients are told the default)
    tags: Annotated[
        list[Annotated[str, Field(pattern=r"^[^,]{1,256}$")]], Field(max_length=20, description="Tags of the snapshot.")
    ] = [],  # noqa: B006
    label: Annotated[str, Field(max_length=1024, description="A remark on the snapshot, for people.")] = "",
    dry_run: DryRun = False,
) -> BackupView:
    """Make a snapshot of files and directories of the server's machine. Only what is new or has changed is stored."""
    changing, raw = toolbox(call).changing, [path.encode(errors="surrogateescape") for path in paths]
    return await long(
        call,
        lambda notes, cancelled: changing.backup(raw, exclude, tags, label, dry_run, notes, cancelled),
        unit="bytes",
    )


async def restore_files(
    call: Call,
    snapshot: SnapshotName,
    target: Target,
    place: Annotated[RestorePlace, Resolve(_place)],
    answer: Annotated[ElicitationResult[Confirmation], Resolve(_ask_restore)],
    path: PathInSnapshot = "/",
    path_raw: RawPath = None,
    overwrite: OverwriteRule = "never",
    dry_run: DryRun = False,
) -> RestoreView:
    """Write a file, or the contents of a directory, of a snapshot into a directory of the server's machine. Nothing is
    removed there. To replace what is there a person is asked to confirm."""
    must_be_confirmed(answer)
    changing = toolbox(call).changing
    return await long(
        call,
        lambda notes, cancelled: changing.restore(place, overwrite, dry_run, notes, cancelled),
        unit="bytes",
    )
