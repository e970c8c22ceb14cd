"""Texts that a model gives to speech without transcripts, and which of them teach another one."""
