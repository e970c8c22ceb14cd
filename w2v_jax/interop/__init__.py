"""Weights and configurations of other houses, read into the variables of our models."""
