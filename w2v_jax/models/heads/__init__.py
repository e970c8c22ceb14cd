"""What stands on an encoder: quantizer and projections, masked prediction, letters."""
