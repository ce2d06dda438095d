"""The frozen Segment Anything Model: catalogue, checkpoints, loading, `embed` and `decode`; the mini SAM and its images."""
