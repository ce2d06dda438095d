"""The commands of `casam-aggregator`, one module per concern."""
