"""Drawn images with exact annotation, seeded: no picture of a patient was used. numpy and scipy only; one file a modality.

They are the data of the demo, the nine datasets in their owners' formats, and what a backbone's background is taken on.
"""
