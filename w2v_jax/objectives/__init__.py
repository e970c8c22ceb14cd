"""Masks and losses: pure functions of arrays that know no module. Losses return (sum, weight)."""
