"""The sites of the simulated stream."""

from simulations.flower_components import make_simulated_client_app

app = make_simulated_client_app()
