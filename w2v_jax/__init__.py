"""Self-supervised speech in JAX: pre-train on unlabelled audio, fine-tune with CTC, transcribe."""

__version__ = "0.1.0"
