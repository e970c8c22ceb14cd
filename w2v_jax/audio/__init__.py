"""Audio as arrays: reading, resampling and normalising waveforms."""
