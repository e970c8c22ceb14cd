"""Self-supervised speech in JAX: pre-train on unlabelled audio, fine-tune with CTC, transcribe."""

import importlib.util
import sys

__version__ = "0.1.0"

_WRONG = ""
if sys.version_info < (3, 11, 4):
    _WRONG = f"Python 3.11.4 or later is needed, this is {sys.version.split()[0]}"
elif any(importlib.util.find_spec(name) is None for name in ("jax", "flax", "absl")):
    _WRONG = (
        f"{sys.executable} has not the packages that w2v_jax needs; source .venv/bin/activate, "
        "which launch/test.sh makes, or pip install ."
    )
if _WRONG:
    # with the name `python -m` makes one line of it instead of a trace
    raise ImportError(_WRONG, name=__name__)


# python -m w2v_jax.TOOL, not the module of another that imports this one, nor a worker process:
# nothing large is imported yet
if sys.argv[:1] == ["-m"] and " -m w2v_jax" in " ".join(sys.orig_argv):
    from w2v_jax.stopping import end_at_interrupt

    end_at_interrupt()


def __getattr__(name: str):
    """`w2v_jax.transcribe` without an import of its own; all else of the package stays unread, so
    that worker processes need no JAX."""
    if name == "transcribe":
        return importlib.import_module("w2v_jax.transcribe")
    raise AttributeError(f"module 'w2v_jax' has no attribute {name!r}")
