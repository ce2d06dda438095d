"""The frozen Segment Anything Model: which ones there are, their checkpoints, `embed` and `decode`.

Nothing here is ever trained by a site; how the mini SAM was made stands in simulations/mini_sam.
"""
