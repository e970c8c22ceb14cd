"""How good the texts are: scores, tuned weights, reports, pages."""
