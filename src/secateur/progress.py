"""The bar that shows how far a measuring, a pruning or a search is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["about_left", "bar"]


@contextmanager
def bar(total: float, visible: bool, words: str) -> Iterator[Callable[[float], None]]:
    """Draw a bar on standard error where it is `visible`; give what moves it on.

    Args:
        total: how far it goes.
        visible: without, nothing is drawn, and moving it on does nothing.
        words: what is counted, before the bar.

    >>> with bar(3, False, "units removed") as advance:
    ...     advance(1)
    """
    if not visible:
        yield lambda more: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column

    columns = (
        TextColumn(words, markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), expand=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda more: progress.advance(task, more)


def about_left(seconds: float) -> str:
    """Return how long something may still take, as a person says it.

    >>> about_left(20), about_left(170), about_left(7900)
    ('less than a minute left', 'about 3 min left', 'about 2 h 12 min left')
    """
    if seconds < 45:
        return "less than a minute left"
    hours, minutes = divmod(max(round(seconds / 60), 1), 60)
    return f"about {hours} h {minutes} min left" if hours else f"about {minutes} min left"
