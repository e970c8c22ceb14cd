"""Whether the values of a config lie in the ranges of the table, said before any work begins."""

import dataclasses
import difflib
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from w2v_jax.errors import UserError, brief, some
from w2v_jax.keys.table import DEFAULTED, KEYS, SEARCH, Key

LONGEST = 80  # letters of a value that are shown
MOST = 5  # values outside their ranges that are named at once


def flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of nested mappings."""
    for key in config:
        value = config[key]
        if hasattr(value, "keys"):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def shown(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def flag(key: str, value: Any, longest: int = LONGEST) -> str:
    """--config.KEY=VALUE as it can be pasted into a shell."""
    text = value if isinstance(value, str) else repr(value).replace(", ", ",").replace("'", '"')
    text = text if len(text) <= longest else f"{text[:longest]}..."
    return f"--config.{key}={shlex.quote(text) if text else ''}"


def must(row: Key) -> str:
    """What a value of a row must be."""
    return f"{row.range}{row.unit and f' ({row.unit})'}"


def complaint(settings: Any, path: str = "", table: Mapping[str, Key] = KEYS) -> str:
    """What is wrong with the first field of a dataclass that lies outside its range; "" if all lie
    inside. The keys of the fields are PATH.FIELD."""
    for field in dataclasses.fields(settings):
        key = f"{path}.{field.name}".lstrip(".")
        row, value = table.get(key), getattr(settings, field.name)
        if row is not None and not row.range.takes(value):
            return f"{key} is {shown(value)}; it must be {must(row)}"
    return ""


def check_values(
    config: Any, keys: Sequence[str], table: Mapping[str, Key] = KEYS
) -> dict[str, Any]:
    """The leaves of a config that has these keys, and keys of these groups, and no other, all with
    values in their ranges. Raises UserError naming keys, values and remedy."""
    try:
        values = dict(flat(config))
    except Exception as error:  # a placeholder of ml_collections that was never filled, say
        raise UserError(f"the config cannot be read: {brief(error)}") from None
    deciding = {row.only.partition("=")[0] for row in table.values()}  # which keys there are
    _check_ranges({key: table[key] for key in deciding & values.keys()}, values)
    wanted = {
        key: row
        for key, row in table.items()
        if any(key == name or key.startswith(f"{name}.") for name in keys) and _there(row, values)
    }
    groups = {key[:i]: key for key in wanted for i, letter in enumerate(key) if letter == "."}
    for key in values:
        if key in groups:
            raise UserError(
                f"config.{key} is {shown(values[key])}; it is a group of keys, {groups[key]} say"
            )
    _check_complete(config, keys, wanted, values)
    for key in values:
        if key not in wanted:
            raise UserError(_surplus(key, wanted, table, values))
    _check_ranges(wanted, values)
    return values


def _check_ranges(rows: Mapping[str, Key], values: Mapping[str, Any]) -> None:
    wrong = [
        f"{flag(key, values[key])} must be {must(row)}"
        for key, row in rows.items()
        if key in values and not row.range.takes(values[key])
    ]
    if wrong:
        raise UserError(some(wrong, MOST, "\n"))


def _there(row: Key, values: Mapping[str, Any]) -> bool:
    """Whether the key exists beside these values."""
    key, _, several = row.only.partition("=")
    return key not in values or values[key] in several.split("|")


def _check_complete(
    config: Any, keys: Sequence[str], wanted: Mapping[str, Key], values: Mapping[str, Any]
) -> None:
    missing = [key for key in wanted if key not in values and key.split(".")[0] not in DEFAULTED]
    for key in missing:
        name = wanted[key].only.partition("=")[0]
        if name in values:
            raise UserError(
                f"{flag(name, values[name])} needs {key}, which this config lacks; "
                "choose it in the config file, with its keys"
            )
    missing += [group for group in DEFAULTED if group in keys and group not in config]
    if missing:
        raise UserError(
            f"the config lacks {some(missing)}; take what configs/common.py makes, which has all "
            "keys, and change its values"
        )


def _surplus(
    key: str, wanted: Mapping[str, Key], table: Mapping[str, Key], values: Mapping[str, Any]
) -> str:
    """What is to be said of a key that is not wanted."""
    if key in table and not _there(table[key], values):
        name, _, several = table[key].only.partition("=")
        return (
            f"the config has {key}, which belongs to {name}={several.replace('|', ' or ')}; here "
            f"that is {values[name]}: "
            "choose it in the config's argument or file, which sets its keys too"
        )
    if key in table:
        kind = values.get("kind")
        return f"the config has {key}, which a training of the kind {kind} does not read; remove it"
    return f"the config has {key}, which nothing reads; remove it{meant(key, wanted)}"


def meant(key: str, known: Iterable[str]) -> str:
    """The question whether another key was meant, beginning with a semicolon; or nothing."""
    known = list(known)
    leaf = key.rpartition(".")[2]
    near = [name for name in known if name.rpartition(".")[2] == leaf]
    near = near or difflib.get_close_matches(key, known, 3)
    return f"; did you mean {' or '.join(f'--config.{name}' for name in near)}?" if near else ""


def lines(config: Any) -> list[str]:
    """A line for every key of a config, of a training or of a search: its value, what it may be,
    what it means."""
    values = dict(flat(config))
    table = KEYS if "kind" in values else SEARCH
    names = [f"{key} = {shown(value)}" for key, value in values.items()]
    width = min(max(map(len, names), default=0), 44)
    rows = [table.get(key) for key in values]
    return [
        f"{name:<{width}}  {must(row)}: {row.meaning}" if row else name
        for name, row in zip(names, rows, strict=True)
    ]
