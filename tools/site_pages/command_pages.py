"""The page of all commands, made from their parsers."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator

from effdet.commands import COMMANDS

_START = """| command | what it does |
|---|---|
"""


def markdown() -> str:
    """Return a table of all commands, then a section for each with its usage and arguments."""
    commands = {name: what for name, what in COMMANDS.items() if name != "inspect_data"}  # that is data's old name
    lines = [f"| [{_shown(name)}](#effdet-{_shown(name)}) | {what} |" for name, what in commands.items()]
    return _START + "\n".join([*lines, "", *(part for name in commands for part in _command(name))])


def _command(name: str) -> Iterator[str]:
    module = importlib.import_module(f"effdet.commands.{name}")
    parser: argparse.ArgumentParser = module.parser()
    yield from _parser(parser, f"effdet {_shown(name)}", level=2)


def _parser(parser: argparse.ArgumentParser, program: str, level: int) -> Iterator[str]:
    parser.prog = program
    yield f"{'#' * level} {program}\n"
    yield f"{_text(parser.description)}\n"
    yield f"```text\n{_usage(parser)}\n```\n"
    yield from _table(parser)
    if parser.epilog:
        yield f"{_text(parser.epilog)}\n"
    for subparsers in _subparsers(parser):
        for name, below in subparsers.choices.items():
            yield from _parser(below, f"{program} {name}", level + 1)


def _usage(parser: argparse.ArgumentParser) -> str:
    return parser.format_usage().removeprefix("usage: ").strip()


def _table(parser: argparse.ArgumentParser) -> Iterator[str]:
    without = (argparse._SubParsersAction, argparse._HelpAction)
    actions = [action for action in parser._actions if not isinstance(action, without)]
    rows = [f"| `{_name(action)}` | {_help(action, parser)} |" for action in actions]
    if rows:
        yield "\n".join(["| argument | meaning |", "|---|---|", *rows, ""])


def _subparsers(parser: argparse.ArgumentParser) -> list[argparse._SubParsersAction[argparse.ArgumentParser]]:
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]


def _name(action: argparse.Action) -> str:
    values = "" if action.nargs == 0 else _values(action)
    return " ".join(filter(None, [", ".join(action.option_strings), values]))


def _values(action: argparse.Action) -> str:
    value: str | tuple[str, ...]
    if action.choices and action.metavar is None:
        value = f"{{{', '.join(map(str, action.choices))}}}"
    else:
        value = action.metavar or action.dest.upper()
    several = {"+": " ...", "*": " ..."}.get(str(action.nargs), "")
    return f"{' '.join(value) if isinstance(value, tuple) else value}{several}"


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    return _cell(_escaped(text)) + (" (required)" if action.required and action.option_strings else "")


def _text(text: str | None) -> str:
    """Return a description with its indented lines, which are commands, as code."""
    blocks = re.split(r"\n\s*\n", (text or "").strip())
    return "\n\n".join(f"```text\n{block}\n```" if block.startswith(" ") else _escaped(block) for block in blocks)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _escaped(text: str) -> str:
    return re.sub(r"([<>*_\[\]])", r"\\\1", text)


def _shown(name: str) -> str:
    return name.replace("_", "-")
