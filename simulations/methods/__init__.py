"""The methods that a stream can be learned with: CA-SAM, and the baselines that it is compared with."""
