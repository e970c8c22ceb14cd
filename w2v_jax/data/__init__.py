"""From audio on disk to batches: corpora -> manifest -> batch plan -> global arrays."""
