"""What --help prints: what a tool does, its own flags, the configs that it takes or their keys."""

import re
import shutil
import sys
import textwrap
from collections.abc import Iterator

from absl import flags

from w2v_jax import config_flag
from w2v_jax.config_files import recipes, says
from w2v_jax.keys.check import lines

HELP = {"--help", "-help", "-h", "--helpfull", "--helpshort"}


def asked_for(argv: list[str]) -> bool:
    """Whether a command asks for --help, before a -- that ends its flags."""
    words = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    return bool(HELP & set(words))


def page(argv: list[str]) -> str:
    """Of the tool that runs; with --config the keys of that config are part of it."""
    main = sys.modules["__main__"]
    lines = [(main.__doc__ or "").strip(), "", "Flags:"]
    own = _own_flags()
    lines += [line for flag in own for line in _described(flag)]
    if any(flag.name == "config" for flag in own):
        lines += ["", *_configs(argv)]
    return "\n".join(lines)


def _own_flags() -> list[flags.Flag]:
    """Without those of the libraries."""
    found = flags.FLAGS.flags_by_module_dict()
    of = [name for name in found if name == sys.argv[0] or name.startswith("w2v_jax.")]
    of.sort(key=lambda name: name.startswith("w2v_jax."))  # what several tools share comes last
    return [flag for name in of for flag in found[name]]


def _described(flag: flags.Flag) -> Iterator[str]:
    choices = getattr(flag.parser, "enum_values", None)
    if flag.boolean:
        value = f"--[no]{flag.name}"
    else:
        value = f"--{flag.name}={'|'.join(choices) if choices else flag.flag_type().upper()}"
    notes = []
    if any("other than None" in validator.message for validator in flag.validators):
        notes.append("required")
    elif flag.default not in (None, "", False, []):
        notes.append(f"default: {flag.default_as_str.strip(chr(39))}")
    if isinstance(flag, flags.MultiFlag):
        notes.append("may be given several times")
    yield f"  {value}" + (f"  ({'; '.join(notes)})" if notes else "")
    text = flag.help if not choices else flag.help.partition(">: ")[2]
    yield from _wrapped(" ".join(text.split()), 6)


def _configs(argv: list[str]) -> Iterator[str]:
    words = "\n".join(argv)
    given = re.findall(r"^--?config[=\n](.+)$", words, re.MULTILINE)
    if not given:
        found = recipes()
        yield "--config=NAME:ARGUMENT, one of these, or a file of your own by its path:"
        width = max(map(len, found)) + 2
        for name, line in found.items():
            yield f"  {name:<{width}}{line}"
        yield "With --config=NAME:ARGUMENT --help prints its arguments and all its keys."
        return
    config = config_flag.load(given[0])
    yield says(given[0]).strip()
    yield ""
    yield "Keys, each set by --config.KEY=VALUE: the value here, what it may be, what it means"
    yield from lines(config)


def _wrapped(text: str, indent: int) -> list[str]:
    width = max(60, min(shutil.get_terminal_size().columns, 100))
    space = " " * indent
    return textwrap.wrap(text, width, initial_indent=space, subsequent_indent=space)
