"""Readers of datasets, patient-wise splits, checks, and the prompts that stand in for a user. No torch."""
