"""The version of the program, kept here too because asking the package's metadata takes longer than to start."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"

PROGRAM: Final = f"backupforge {VERSION}"
"""What snapshots record as the program that made them."""
