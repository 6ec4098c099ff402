"""Share code between the stages.

Each module contains one decision that two or more stages must agree on.
"""
