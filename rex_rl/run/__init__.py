"""A run on disk and in the log: its folder, lock, checkpoints, metrics, W&B, and how it stops.

Imports: rex_rl.config, data, errors, interfaces, learning, types.
Begin with folder.py, then log.py and checkpoints.py.
"""
