"""What sites and aggregator say to each other: the exact form of every message, size-capped and checked. No network code.

Both ends build and parse these values, and neither trusts the other. No torch: bytes become tensors in `bank`.
"""
