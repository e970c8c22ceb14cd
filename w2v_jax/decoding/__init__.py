"""From letter logits to text."""
