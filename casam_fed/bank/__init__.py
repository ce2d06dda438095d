"""What was learned, kept: releases, the bank that holds them, its snapshot, and the log from which it follows.

Everything is addressed by its SHA-256 and checked before it counts.
"""
