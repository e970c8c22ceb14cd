"""The training machinery: mesh, optimizer, step, checkpoints, metrics, loop. It knows no model."""
