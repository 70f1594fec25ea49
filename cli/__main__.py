"""`python -m cli` is the same as `backupforge`."""

from __future__ import annotations

from cli.main import main

main()
