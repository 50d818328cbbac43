"""The app that the commands belong to, the options that several of them share, and how results are printed.

Nothing here imports torch, and a command's module is imported when the command is asked for, so that the help is quick.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

__all__ = [
    "DataDir",
    "Json",
    "app",
    "in_json",
    "options_of",
    "print_record",
    "studies_app",
]

EXAMPLES = {"--budget": "macs=0.5", "--goal": "latency=0.5", "--train": "epochs=2", "--finish": "epochs=6"}

MODULES = {
    "list": ("models", "List all that has a name: models, initialisation schemes, data, criteria, studies."),
    "train": ("models", "Train a model and write the weights of its best epoch."),
    "prune": ("models", "Prune a model, verify and measure the result."),
    "inspect": ("models", "Show what can be cut out of a model, what is tied to it, and what is left whole and why."),
    "evaluate": ("models", "Measure a model: accuracy, size, MACs and latency."),
    "compress": (
        "one_call",
        "Make a trained model smaller or faster, at the accuracy that it had: cut, trained back, verified, measured, exported.",
    ),
    "export": ("deploy", "Write a model as a file for a runtime, once it was run there and compared with torch."),
    "bench": (
        "deploy",
        "Measure a model before and after pruning in all runtimes: time, bytes, memory, and whether pruning made it faster.",
    ),
    "study": ("studies", "Run a published experiment again, from training to report."),
    "report": ("reports", "Write a study's report again, or one page that compares several runs, computing nothing."),
    "runs": ("runs", "Look into the stores: list, filter, compare, export and remove results."),
}
"""Command → the module that has it, and its help in one line; in the order in which `--help` lists them."""


class _Commands(MutableMapping[str, Any]):
    """The commands, each imported when it is looked at."""

    def __init__(self, registered: Mapping[str, Any]) -> None:
        self.registered = dict(registered)

    def __getitem__(self, name: str) -> Any:
        if name not in MODULES:
            raise KeyError(name)
        if name not in self.registered:
            import_module(f"secateur.cli.{MODULES[name][0]}")
            # What was registered meanwhile is in a group that is built anew.
            self.registered |= typer.main.get_command(app).commands.registered  # type: ignore[attr-defined]
        return self.registered[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self.registered[name] = command

    def __delitem__(self, name: str) -> None:
        del self.registered[name]

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


class _Group(TyperGroup):
    """The group of all commands: the list in its help needs none of them."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands(self.commands)

    def format_commands(self, _: Any, formatter: Any) -> None:
        width = formatter.width - 6 - max(map(len, MODULES))
        rows = [(name, textwrap.shorten(words, width, placeholder="...")) for name, (_, words) in MODULES.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


# \b keeps click from wrapping the lines of a paragraph.
app = typer.Typer(
    name="secateur",
    cls=_Group,
    help="Find what a trained network does not need, cut it out for real, and show what the cut cost and gained.",
    epilog="""\b
Examples:
  secateur train lenet-300-100 --data digits --out lenet.safetensors
  secateur compress lenet-300-100 --data digits --weights lenet.safetensors --goal macs=0.5 --folder half
  secateur prune lenet-300-100 --data digits --weights lenet.safetensors --out small
  secateur evaluate lenet-300-100 --data digits --pruned small
  secateur study run demo

Exit codes: 0 done, 1 something failed (one line on standard error says what and what to do), 2 wrong usage, 130 interrupted.""",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
studies_app = typer.Typer(
    help="Run a published experiment again, from training to report.", no_args_is_help=True, rich_markup_mode=None
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to standard output, for machines.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="The folder with the data files; otherwise $SECATEUR_DATA, the system's package, the cache, a download.",
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        # By name: a room imports other rooms, not the public face, and that is where the version stands.
        print(f"secateur {import_module('secateur').__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Find what a trained network does not need, cut it out for real, and show what the cut cost and gained."""


def options_of(pairs: list[str] | None, flag: str = "--set") -> dict[str, Any]:
    """Return KEY=VALUE pairs as a mapping; values are JSON where they can be, else text.

    >>> options_of(["input_size=8", "data=digits", "sparsities=[0.5]"])
    {'input_size': 8, 'data': 'digits', 'sparsities': [0.5]}
    """
    from secateur.files import from_json
    from secateur.types import InputError

    options: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"{flag} {pair!r}: write KEY=VALUE, such as {EXAMPLES.get(flag, 'input_size=8')}")
        try:
            options[key] = from_json(value)
        except ValueError:
            options[key] = value
    return options


def in_json(record: dict[str, Any]) -> str:
    """Return a record as JSON, which has no word for what is no number: null.

    >>> in_json({"accuracy": float("nan"), "latency_ms": [1.5]})
    '{"accuracy": null, "latency_ms": [1.5]}'
    """
    text = json.dumps(record)
    return json.dumps(json.loads(text, parse_constant=lambda _: None))


def print_record(record: dict[str, Any], as_json: bool) -> None:
    """Print a record as one JSON object, or as lines of name and value."""
    if as_json:
        print(in_json(record))
        return
    for name, value in record.items():
        print(f"{name:<22}{_words(value)}")


def _words(value: Any) -> str:
    """A value as people read it.

    >>> _words(1234567), _words([0.5, 0.25]), _words(True)
    ('1,234,567', '0.5 0.25', 'True')
    """
    from secateur.checks import is_whole

    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return " ".join(_words(v) for v in value)
    return f"{value:,}" if is_whole(value) else str(value)
