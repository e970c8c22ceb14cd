"""Self-supervised speech in JAX: pre-train on unlabelled audio, fine-tune with CTC, transcribe."""

import importlib

__version__ = "0.1.0"


def __getattr__(name: str):
    """`w2v_jax.transcribe` without an import of its own; all else of the package stays unread, so
    that worker processes need no JAX."""
    if name == "transcribe":
        return importlib.import_module("w2v_jax.transcribe")
    raise AttributeError(f"module 'w2v_jax' has no attribute {name!r}")
