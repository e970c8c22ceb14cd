"""Where the config of a command is: a recipe of the package by its name, or a file by its path."""

import ast
from pathlib import Path

RECIPES = Path(__file__).parent / "configs"  # in a clone a link to the folder at its top
PARTS = ("__init__", "common")  # files there that are no recipes


def recipes() -> dict[str, str]:
    """{name: first line of what it says of itself} of the configs that come with the package."""
    names = [path.stem for path in sorted(RECIPES.glob("*.py"))]
    return {name: says(name).partition("\n")[0] for name in names if name not in PARTS}


def says(config: str) -> str:
    """What the file of a config says of itself."""
    file = located(config).partition(":")[0]
    return ast.get_docstring(ast.parse(Path(file).read_text(encoding="utf-8"))) or ""


def located(config: str) -> str:
    """The value of --config with the path of its file: `wav2vec2:base` and, in every folder,
    `configs/wav2vec2.py:base` are recipes of the package. A file that exists is meant itself."""
    file, colon, argument = config.partition(":")
    path = Path(file)
    recipe = RECIPES / f"{path.stem}.py"
    named = path.parent in (Path(), Path("configs")) and path.suffix in ("", ".py")
    if named and not path.is_file() and recipe.is_file():
        file = str(recipe)
    return f"{file}{colon}{argument}"


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
