"""Options of a command that are derived from a frozen value of options, so that both always take the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import Field, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer

from secateur.cli.root import options_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["parsed", "takes_options"]


def takes_options(options: type[DataclassInstance]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each field of `options`, in the place of its ``**chosen``.

    The words that the command line shows are the field's metadata: ``help`` and ``metavar``.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(options)
        derived = [_parameter(option, hints[option.name]) for option in fields(options)]
        signature = inspect.signature(command, eval_str=True)
        parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        command.__signature__ = signature.replace(parameters=[*parameters, *derived])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in [*parameters, *derived]}
        return command

    return decorate


def _parameter(option: Field[Any], hint: Any) -> inspect.Parameter:
    typer_option = typer.Option(help=option.metadata["help"], metavar=option.metadata["metavar"])
    default = None if option.default == () or is_dataclass(option.default) else option.default
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[_text_type(option.default, hint), typer_option],
    )


def _text_type(default: object, hint: Any) -> Any:
    """What the command line reads: a number where a number may be given, a list where several may, else text."""
    if isinstance(default, (int, float, str)):
        return type(default)
    if default == () or is_dataclass(default) or any(get_origin(kind) is Sequence for kind in get_args(hint)):
        return list[str] | None
    return float | None if float in get_args(hint) else str | None


def parsed(chosen: dict[str, Any], options: type[DataclassInstance]) -> dict[str, Any]:
    """Return what a user chose on the command line, as the library takes it; what was not given is left out.

    >>> from secateur.pruning import PruneOptions
    >>> parsed({"budget": "macs=0.5", "block": "4,1", "ignore": None, "scope": "layer"}, PruneOptions)
    {'budget': {'macs': 0.5}, 'block': (4, 1), 'scope': 'layer'}
    """
    from secateur.types import InputError, with_changes

    values = {name: value for name, value in chosen.items() if value is not None}
    for option in fields(options):
        if option.name in values and is_dataclass(option.default):
            flag = f"--{option.name}"
            changes = options_of(values[option.name], flag)
            values[option.name] = with_changes(option.default, changes, f"option of {flag}")  # type: ignore[type-var]
    if "budget" in values:
        values["budget"] = options_of([values["budget"]], "--budget")
    if str(values.get("round_to", "")).isdecimal():
        values["round_to"] = int(values["round_to"])
    if "block" in values:
        try:
            values["block"] = tuple(int(size) for size in values["block"].split(","))
        except ValueError:
            raise InputError(f"--block {values['block']!r}: write rows and columns, such as 4,1") from None
    return values
