"""Text as ids: the alphabet of a CTC model and the normalisation of transcripts."""
