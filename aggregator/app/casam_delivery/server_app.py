"""The aggregator's half of a delivery."""

from aggregator.server_app import make_delivery_app

app = make_delivery_app()
