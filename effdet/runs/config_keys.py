"""Every key of a config with its type, default and meaning, from the source of ``effdet/config/sections.py``."""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from effdet.config import ArchitectureConfig, Config, type_in_words


@dataclass(frozen=True)
class ConfigKey:
    """One key of a config.

    Attributes:
        name: With its sections, as on the command line: ``train.lr``.
        kind: What it takes, in words; empty where ``meaning`` says it.
        default: Plain value, as in YAML.
        meaning: What it does, with its unit.
    """

    name: str
    kind: str
    default: Any
    meaning: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


def config_keys(config: Config | None = None) -> list[ConfigKey]:
    """Return all keys, in the order of the sections.

    Args:
        config: Whose values stand in place of the defaults; None: the defaults.
    """
    return list(_keys(Config() if config is None else config, ""))


def keys_as_text(config: Config | None = None) -> str:
    """Return the keys for a terminal: a line with default and type, and a line with the meaning."""
    lines = []
    for key in config_keys(config):
        lines.append(f"{key.name} = {_yaml(key.default)}" + (f"  ({key.kind})" if key.kind else ""))
        lines += textwrap.wrap(key.meaning, 100, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines) + "\n"


def keys_as_yaml(config: Config | None = None) -> str:
    """Return a config file that sets every key, with its meaning as a comment; ``load_config`` reads it."""
    lines: list[str] = []
    sections: tuple[str, ...] = ()
    for key in config_keys(config):
        *above, name = key.name.split(".")
        for depth in range(len(above)):
            if tuple(above[: depth + 1]) != sections[: depth + 1]:
                lines.append(f"{'  ' * depth}{above[depth]}:")
                sections = tuple(above[: depth + 1])
        sections = tuple(above)
        lines.append(f"{'  ' * len(above)}{name}: {_yaml(key.default)}  # {key.meaning}")
    return "\n".join(lines) + "\n"


def keys_as_markdown(config: Config | None = None) -> str:
    """Return a Markdown section with a table for each section of a config."""
    parts: dict[str, list[ConfigKey]] = {}
    for key in config_keys(config):
        parts.setdefault(key.name.rpartition(".")[0], []).append(key)
    return "\n".join(_table(section, keys) for section, keys in parts.items())


def _table(section: str, keys: list[ConfigKey]) -> str:
    rows = [f"## {section}\n", "| key | default | takes | meaning |", "|---|---|---|---|"]
    for key in keys:
        cells = (f"`{key.name}`", f"`{_yaml(key.default)}`", key.kind or "see meaning", key.meaning)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _keys(section: Any, prefix: str) -> Iterator[ConfigKey]:
    """Yield the keys of a section, those of its own first: YAML and tables then name each section once."""
    comments, kinds = field_comments(type(section)), _kinds(type(section))
    values = {item.name: getattr(section, item.name) for item in fields(section)}
    for name, value in values.items():
        if not is_dataclass(value):
            yield ConfigKey(f"{prefix}{name}", kinds[name], _plain(value), comments[name])
    for name, value in values.items():
        if is_dataclass(value):
            yield from _keys(value, f"{prefix}{name}.")


def _kinds(section: type) -> dict[str, str]:
    """Return what each field takes, in words; names that an architecture can have are listed."""
    kinds = {name: "" if kind is Any else type_in_words(kind) for name, kind in get_type_hints(section).items()}
    if section is not ArchitectureConfig:
        return kinds
    for name, kind in get_type_hints(_described(section)).items():
        literal = next((part for part in (kind, *get_args(kind)) if get_origin(part) is Literal), None)
        if literal is not None:
            kinds[name] = f"one of {', '.join(get_args(literal))} or null"
    return kinds


def _described(section: type) -> type:
    """Return the dataclass whose source has the comments: ``Architecture`` for ``ArchitectureConfig``."""
    if section is not ArchitectureConfig:
        return section
    from effdet.models.architecture import Architecture

    return Architecture


def field_comments(section: type) -> dict[str, str]:
    """Return the comment behind each field of a section of a config, in the words of YAML."""
    comments = comments_in_class(inspect.getsource(_described(section)))
    return {name: _in_yaml_words(comment) for name, comment in comments.items()}


def comments_in_class(source: str) -> dict[str, str]:
    """Return the comment at the end of each annotated field in the source of a class."""
    source = textwrap.dedent(source)
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        node.target.id: comments[node.end_lineno]
        for node in body.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.end_lineno in comments
    }


def _in_yaml_words(comment: str) -> str:
    for python, plain in (("None:", "null:"), ("True:", "true:"), ("False:", "false:"), ("``", "")):
        comment = comment.replace(python, plain)
    return comment


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def _yaml(value: Any) -> str:
    """Return a value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()
