"""Define the code that several stages share.

Each module contains one decision that two or more stages must agree on.
"""
