"""The hospital's side: trains on its own images, and lets out a release and aggregate scores, nothing else."""
