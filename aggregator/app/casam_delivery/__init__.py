"""The components of a delivery, as Flower finds them."""
