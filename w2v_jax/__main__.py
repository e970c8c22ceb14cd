"""The command `w2v`: `w2v TOOL ...` is `python -m w2v_jax.TOOL ...`."""

import ast
import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent
TOOLS = (
    "prepare", "mel_statistics", "pretrain", "finetune", "build_ngram", "train_lm", "export",
    "evaluate", "transcribe", "align", "pseudo_labels", "features", "units", "analyze", "report",
    "benchmark", "compile_check",
)  # fmt: skip


def page() -> str:
    """The tools, each with the first line of what it says of itself."""
    lines = ["w2v TOOL [FLAGS] is python -m w2v_jax.TOOL [FLAGS]; w2v TOOL --help says more."]
    for tool in TOOLS:
        said = ast.get_docstring(ast.parse((PACKAGE / f"{tool}.py").read_text(encoding="utf-8")))
        lines.append(f"  {tool:<15}{said.partition('. ')[0].partition(chr(10))[0]}")
    lines.append(f"  {'samples':<15}Prints the folder of the speech that comes with the package.")
    return "\n".join(lines)


def main() -> None:
    tool, *words = sys.argv[1:] or ["--help"]
    tool = tool.replace("-", "_") if not tool.startswith("-") else tool
    if tool in ("--help", "-h", "help"):
        print(page())
    elif tool == "--version":
        from w2v_jax import __version__

        print(__version__)
    elif tool == "samples":
        print(PACKAGE / "samples")
    elif tool in TOOLS:
        # in place of this process: signals, statuses and worker processes are then the tool's
        os.execv(sys.executable, [sys.executable, "-m", f"w2v_jax.{tool}", *words])
    else:
        print(f"error: there is no tool {tool}; there are {', '.join(TOOLS)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
