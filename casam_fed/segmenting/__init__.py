"""A user's own images in, masks out: files read within limits, what is marked in them, masks where viewers find them.

Nothing here knows of a federation: a bank in a folder is enough, and nothing leaves the machine.
"""
