"""The aggregator's side: asks sites, admits their releases into the bank, serves the bank, collects aggregate scores."""
