"""The state of what nobody looked at."""

UNKNOWN = -1
"""Stands in targets for a finding, a voxel or a whole image of which nothing is known."""
