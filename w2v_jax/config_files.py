"""Where the config of a command is: a recipe of the package by its name, or a file by its path."""

import ast
import runpy
from pathlib import Path

from ml_collections import ConfigDict

from w2v_jax.errors import UserError

RECIPES = Path(__file__).parent / "configs"  # in a clone a link to the folder at its top


def recipes() -> dict[str, str]:
    """{name: first line of what it says of itself} of the configs that come with the package."""
    found = {}
    for path in sorted(RECIPES.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(getattr(node, "name", "") == "get_config" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def located(config: str) -> str:
    """The value of --config with the path of its file: `wav2vec2:base` and, in every folder,
    `configs/wav2vec2.py:base` are recipes of the package. A file that exists is meant itself."""
    file, colon, argument = config.partition(":")
    path = Path(file)
    recipe = RECIPES / f"{path.stem}.py"
    named = path.parent in (Path(), Path("configs")) and path.suffix in ("", ".py")
    if named and not path.is_file() and recipe.is_file():
        path = recipe
    return f"{path}{colon}{argument}"


def with_located(argv: list[str]) -> list[str]:
    """The words of a command, the file of --config by its path."""
    found = list(argv)
    for i, word in enumerate(found):
        name, equals, value = word.partition("=")
        if name not in ("--config", "-config"):
            continue
        if equals:
            found[i] = f"{name}={located(value)}"
        elif i + 1 < len(found):
            found[i + 1] = located(found[i + 1])
    return found


def loaded(config: str) -> tuple[str, ConfigDict]:
    """(what its file says of itself, the config) of a value of --config, its file by its path.
    Raises UserError where there is none."""
    file, _, argument = config.partition(":")
    try:
        module = runpy.run_path(file)
    except OSError as error:
        raise UserError(f"--config={config}: {error.strerror}: {file}") from None
    make = module["get_config"]
    return module["__doc__"] or "", make(argument) if argument else make()
