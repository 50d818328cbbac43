"""The command line: parses, calls the library, prints. Every command here is one library call that a script can make."""

from __future__ import annotations

import sys

# The modules of commands add theirs to the app as they are imported, in the order in which `--help` lists them.
from secateur.cli import models, one_call, runs, studies
from secateur.cli.root import app

__all__ = ["app", "main", "models", "one_call", "runs", "studies"]


def main() -> None:
    """Run the command line; one clear line for every error that is ours, and no traceback."""
    try:
        app(prog_name="secateur")
    except SystemExit as end:
        if _was_interrupted(end):
            _end("interrupted", 130)
        raise
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except Exception as error:
        # Only now, since the errors' module imports torch.
        from secateur.types import SecateurError

        if not isinstance(error, (SecateurError, OSError)):
            raise
        _end(str(error), 1)


def _was_interrupted(end: SystemExit) -> bool:
    """Whether it was Ctrl-C that ended the command, which typer turns into an exit without a word."""
    return isinstance(end.__context__, BaseException) and isinstance(end.__context__.__cause__, KeyboardInterrupt)


def _end(words: str, code: int) -> None:
    print(f"secateur: {words}", file=sys.stderr)
    sys.exit(code)
