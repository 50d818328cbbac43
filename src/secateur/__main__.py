"""``secateur`` and ``python -m secateur`` are the command line."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; Ctrl-C ends it with one line and 130, also while its modules are being imported."""
    try:
        from secateur.cli import main as run

        run()
    except KeyboardInterrupt:
        print("secateur: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
