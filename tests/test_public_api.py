"""The library as others import it."""

from __future__ import annotations

import subprocess
import sys

import bfrepo


def test_every_public_name_is_there() -> None:
    """Each name in __all__ can be had from the package, and no other has a home."""
    assert sorted(bfrepo._HOMES) == bfrepo.__all__
    assert [name for name in bfrepo.__all__ if getattr(bfrepo, name) is None] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A name that the library does not have is refused as by any module."""
    assert not hasattr(bfrepo, "no_such_name")


def test_importing_the_package_loads_nothing_else() -> None:
    """Who imports one part of the library does not wait for the others."""
    script = "import sys, bfrepo; print(sorted(name for name in sys.modules if name.startswith('bfrepo.')))"
    shown = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert shown.strip() == "[]"
