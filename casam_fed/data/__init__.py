"""Readers of datasets, patient-wise splits, and the prompts that stand in for a user. Imports no torch."""
