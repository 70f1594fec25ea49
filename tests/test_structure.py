"""The shape of the program: who may import whom, what every package must have, and linters with nothing to say."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import grimp
import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("bfrepo", "cli", "mount", "api")
CONFIG: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
CONTRACTS: dict[str, dict[str, Any]] = {each["id"]: each for each in CONFIG["importlinter"]["contracts"]}


def packages_present() -> list[str]:
    """The top-level packages of the distribution that exist today."""
    return [name for name in PROGRAMS if (ROOT / name / "__init__.py").exists()]


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs a tool of the environment the tests run in, from the project's root."""
    tool = Path(sys.executable).with_name(command[0])
    # Without a width of its own a tool asks the terminal, and wraps the names this file looks for.
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run([tool, *command[1:]], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def assert_clean(done: subprocess.CompletedProcess[str]) -> None:
    """Fails with everything the tool said."""
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_imports_keep_the_contracts() -> None:
    """Nothing imports what the contracts in pyproject.toml forbid."""
    assert_clean(run("lint-imports", "--no-cache"))


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        ("bfrepo/core/ids.py", "import bfrepo.data"),
        ("bfrepo/data/node.py", "import bfrepo.pack"),
        ("bfrepo/archiver/archiver.py", "import bfrepo.repository"),
        ("bfrepo/archiver/archiver.py", "import bfrepo.restorer"),
        ("bfrepo/localfs/walk.py", "import bfrepo.sources"),
        ("bfrepo/repository/saver.py", "import bfrepo.data"),
        ("bfrepo/pack/writer.py", "import bfrepo.index"),
        ("bfrepo/storage/local.py", "import bfrepo.crypto"),
        ("bfrepo/operations/backup.py", "import cli.main"),
        ("bfrepo/operations/backup.py", "import click"),
        ("cli/main.py", "import trio"),
        ("api/app.py", "import mount"),
        ("mount/main.py", "import api"),
        ("mount/main.py", "import cli"),
        ("bfrepo/surprise/__init__.py", ""),
    ],
)
def test_a_forbidden_import_is_caught(tmp_path: Path, importer: str, statement: str) -> None:
    """The contracts bite: one forbidden import in an otherwise empty copy of the program breaks them."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for layer in [*packages_present(), *(f"bfrepo/{name}" for name in children_of_bfrepo())]:
        (tmp_path / layer).mkdir()
        (tmp_path / layer / "__init__.py").touch()
    (tmp_path / "cli/main.py").touch()
    assert_clean(run("lint-imports", "--no-cache", cwd=tmp_path))

    (tmp_path / importer).parent.mkdir(exist_ok=True)
    (tmp_path / importer).write_text(f"{statement}\n")

    assert run("lint-imports", "--no-cache", cwd=tmp_path).returncode == 1


def children_of_bfrepo() -> list[str]:
    """The names directly under bfrepo: packages and modules."""
    found = (
        path.stem for path in (ROOT / "bfrepo").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    )
    return sorted(name for name in found if name != "__init__")


def test_every_part_of_the_library_is_in_one_column() -> None:
    """Everything in bfrepo is ground (core, ssh, formats), bridge, keeping or meaning; the columns do not meet."""
    meaning, keeping = CONTRACTS["meaning-knows-no-keeping"], CONTRACTS["keeping-knows-no-meaning"]
    both = [*meaning["source_modules"], *keeping["source_modules"]]

    assert sorted(each.removeprefix("bfrepo.") for each in both) == [
        name for name in children_of_bfrepo() if name not in ("core", "ssh", "formats", "operations")
    ]
    assert meaning["forbidden_modules"] == keeping["source_modules"]
    assert keeping["forbidden_modules"] == meaning["source_modules"]


def test_every_program_is_linted_typed_and_packaged() -> None:
    """A top-level package that exists is under import-linter, mypy and setuptools."""
    present = packages_present()

    assert CONFIG["importlinter"]["root_packages"] == present
    assert CONTRACTS["no-cycles"]["ancestors"] == present
    assert CONFIG["mypy"]["files"] == [*present, "tests"]
    included = CONFIG["setuptools"]["packages"]["find"]["include"]
    assert [name for name in present if not any(fnmatch.fnmatch(name, pattern) for pattern in included)] == []


def test_the_ground_stands_on_the_standard_library() -> None:
    """bfrepo.core imports the standard library and itself, nothing else."""
    graph = grimp.build_graph("bfrepo", include_external_packages=True, cache_dir=None)
    inside = {"bfrepo.core"} | graph.find_descendants("bfrepo.core")
    imported = set().union(*(graph.find_modules_directly_imported_by(module) for module in inside)) - inside

    assert {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names} == set()


def test_every_folder_of_code_is_a_package() -> None:
    """A folder with Python files has an __init__.py: without one it would be left out of the wheel without a word."""
    folders = {path.parent for program in packages_present() for path in (ROOT / program).rglob("*.py")}

    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_no_module_is_named_for_nothing() -> None:
    """No module is called utils, helpers, common or misc: a name says what is inside."""
    empty_names = {"util", "utils", "helper", "helpers", "common", "misc"}
    files = [path for program in packages_present() for path in (ROOT / program).rglob("*.py")]

    assert [path for path in files if empty_names & {path.stem, path.parent.name}] == []


def test_ruff_has_nothing_to_say() -> None:
    """The whole tree passes the rules of pyproject.toml."""
    assert_clean(run("ruff", "check", "--no-cache"))


def test_everything_is_formatted() -> None:
    """The whole tree is as `ruff format` writes it."""
    assert_clean(run("ruff", "format", "--check", "--no-cache"))


def test_types_are_right() -> None:
    """The programs and their tests pass mypy in strict mode."""
    assert_clean(run("mypy"))
