"""The flag --config: a file with its argument, the values that flags change, and what is wrong with
them, in words of our own: those of ml_collections and of Python name too little of it."""

import ast
import inspect
import re
import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from w2v_jax.config_files import located, recipes
from w2v_jax.errors import UserError, brief, some
from w2v_jax.keys.check import flag, flat, meant, must, shown
from w2v_jax.keys.ranges import Flag, Range, Text
from w2v_jax.keys.table import KEYS, SEARCH, Key


def define(default: str, about: str) -> None:
    """Defines --config with a default file, which is read, and changed by flags, at once. What is
    wrong with them ends the process as it does in `command_line.run`, which comes too late here."""
    try:
        config_flags.DEFINE_config_file("config", default, about)
    except Exception as error:
        message = complaint(sys.argv, default) or brief(error)
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def given_config() -> ConfigDict:
    """The value of --config. Raises UserError for a file that makes no config."""
    config = flags.FLAGS.config
    # ml_collections keeps a file that it could not load to itself until the config is used
    return config if isinstance(config, ConfigDict) else load(flags.FLAGS["config"].config_filename)


def load(name: str) -> ConfigDict:
    """The config of FILE or FILE:ARGUMENT. Raises UserError for what is none."""
    name = located(name)
    file, colon, argument = name.partition(":")
    make = _function(file)
    parameters = inspect.signature(make).parameters.values()
    if colon and not parameters:
        raise UserError(f"--config={name}: {file} takes no argument; write --config={file}")
    if not colon and any(p.default is p.empty for p in parameters):
        raise UserError(f"--config={file} needs an argument; write --config={file}:ARGUMENT")
    try:
        config = make(argument) if colon else make()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"--config={name} fails: {_where(error, file)}") from None
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config={name}: get_config returns {shown(config)}; it must return an "
            "ml_collections.ConfigDict, as the files of configs/ do"
        )
    return config


def _function(file: str) -> Callable:
    path = Path(file)
    if file and path.is_dir():
        names = sorted(x.name for x in path.glob("*.py") if not x.name.startswith("_"))
        raise UserError(f"--config={file} is a folder; name a file in it" + (
            f", such as {file.rstrip('/')}/{names[-1]}" if names else ""
        ))  # fmt: skip
    if not path.is_file():
        raise UserError(
            f"--config={file} does not exist; name one of {', '.join(recipes())}, or a file"
        )
    try:
        names = runpy.run_path(file)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"--config={file} fails: {_where(error, file)}") from None
    if not callable(names.get("get_config")):
        raise UserError(
            f"--config={file} has no function get_config, which returns the config as in the files "
            "of configs/"
        )
    return names["get_config"]


def _where(error: Exception, file: str) -> str:
    """What an exception says, and the last line of the file that led to it."""
    if isinstance(error, SyntaxError):  # its words name the line
        return f"{type(error).__name__}: {brief(error)}"
    lines = [x.lineno for x in traceback.extract_tb(error.__traceback__) if x.filename == file]
    line = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {brief(error)}{line}"


def complaint(argv: list[str], default: str = "") -> str:
    """What is wrong with --config or the first --config.KEY=VALUE; "" if nothing is or there is no
    --config. The flags that ml_collections could not parse are looked through."""
    if (count := len(re.findall(r"^--?config(?:=|$)", "\n".join(argv), re.MULTILINE))) > 1:
        return f"--config is given {count} times; name one config"
    name = _named(argv) or default or _default()
    if not name:
        return ""
    try:
        config = load(name)
    except UserError as error:
        return str(error)
    known = dict(flat(config))
    table = KEYS if "kind" in known else SEARCH
    words = list(argv)
    for i, word in enumerate(words):
        found = re.match(r"--?(no)?config\.([\w.]+)(?:=(.*))?$", word, re.DOTALL)
        if not found:
            continue
        no, key, value = found.groups()
        if value is None and not no and i + 1 < len(words) and not words[i + 1].startswith("--"):
            value = words[i + 1]
        wrong = _wrong_key(key, known) or (
            _wrong_value(key, value, known[key], table.get(key)) if value is not None else ""
        )
        if wrong:
            return wrong
    return ""


def _named(argv: list[str]) -> str:
    named = re.search(r"^--?config[=\n](.*)$", "\n".join(argv), re.MULTILINE)
    return named[1] if named else ""


def _default() -> str:
    """The file that --config names by default; "" without any."""
    try:
        return flags.FLAGS["config"].config_filename or ""
    except (KeyError, flags.Error):
        return ""


def _wrong_key(key: str, known: dict[str, Any]) -> str:
    if key in known:
        return ""
    inside = [name for name in known if name.startswith(f"{key}.")]
    if f"{key}.kind" in known:
        return (
            f"--config.{key} is a group of keys; kinds of the parts of a model are chosen in "
            "the argument of the config: --config=FILE:SIZE,block=conformer"
        )
    if inside:
        names = some(f"--config.{name}" for name in inside)
        return f"--config.{key} is a group of keys; set one of {names}"
    name, _, value = KEYS[key].only.partition("=") if key in KEYS else ("", "", "")
    if name in known:
        return (
            f"--config.{key} belongs to {name}={value}; here that is {known[name]}: choose it in "
            "the argument or file of the config"
        )
    return f"the config has no key {shown(key)}{meant(key, known)}"


def _wrong_value(key: str, text: str, default: Any, row: Key | None) -> str:
    if row is None or isinstance(row.range, Text) or row.range.takes(_parsed(text, row.range)):
        return ""
    return f"{flag(key, text)} must be {must(row)}; it is {shown(default)} without this flag"


def _parsed(text: str, allowed: Range) -> Any:
    """The value that a flag gives a key."""
    if isinstance(allowed, Flag):
        return {"true": True, "false": False, "1": True, "0": False}.get(text.lower(), text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    try:
        return float(text)  # nan, inf
    except ValueError:
        return text
