"""The commands of `casam-site`, one module per concern."""
