"""Experiments: each file answers one question, on seeded or recorded data, equality asserted first."""
