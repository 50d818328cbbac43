"""``secateur`` and ``python -m secateur`` are the command line."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress

__all__ = ["main"]


def main() -> None:
    """Run the command line; Ctrl-C ends it with one line and 130, also while its modules are being imported."""
    try:
        from secateur.cli import main as run

        run()
    except KeyboardInterrupt:
        print("secateur: interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        # The interpreter's own end is short, and would tell of a Ctrl-C by a traceback.
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()
