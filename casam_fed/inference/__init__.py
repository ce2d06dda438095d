"""What a bank does with images: routes, masks, and how good they are.

The metrics and the stage matrix of continual learning live here too; nothing here learns.
"""
