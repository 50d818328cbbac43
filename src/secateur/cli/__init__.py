"""The command line: parses, calls the library, prints. Every command here is one library call that a script can make."""

from __future__ import annotations

import io
import os
import sys

from secateur.cli.root import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; one clear line for every error that is ours, and no traceback."""
    _spell_out()
    _look_here()
    try:
        app(prog_name="secateur")
    except SystemExit as end:
        if _was_interrupted(end):
            _end("interrupted", 130)
        raise
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except Exception as error:
        if _was_interrupted(error):
            _end("interrupted", 130)
        # Only now, since the errors' module imports torch.
        from secateur.types import SecateurError

        if not isinstance(error, (SecateurError, OSError)):
            raise
        _end(str(error), 1)


def _spell_out() -> None:
    """Let what a terminal or a file cannot hold, such as an arrow in Latin-1, be a question mark and no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _look_here() -> None:
    """Let import paths name modules of the working folder, after all others, so that none of theirs is hidden."""
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether it was Ctrl-C that ended the command: typer, and imports that it breaks, make other exceptions of it."""
    visited: set[int] = set()
    while error is not None and id(error) not in visited:
        if isinstance(error, KeyboardInterrupt):
            return True
        visited.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def _end(words: str, code: int) -> None:
    print(f"secateur: {words}", file=sys.stderr)
    sys.exit(code)
