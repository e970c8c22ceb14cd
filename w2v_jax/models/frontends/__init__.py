"""Front ends: from samples to frames. Each owns its arithmetic and its module."""
