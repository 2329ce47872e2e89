"""`python -m glasskernel` is the `glasskernel` command."""

from __future__ import annotations

from glasskernel.cli.main import main

if __name__ == "__main__":
    main()
