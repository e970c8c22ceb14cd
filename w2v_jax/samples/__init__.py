"""Twenty-two minutes of real, transcribed speech; see ATTRIBUTION.md."""
