"""The components of the simulated stream, as Flower finds them."""
