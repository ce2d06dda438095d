"""The aggregator of the simulated stream."""

from simulations.flower_components import make_server_app

app = make_server_app()
