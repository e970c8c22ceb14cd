"""What the layers of a model know: their features, and what can be read off them."""
