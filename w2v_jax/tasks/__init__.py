"""What a model is trained for: config to first parameters, loss and optimizer."""
