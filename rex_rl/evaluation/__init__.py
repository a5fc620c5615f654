"""Held-out evaluation: the figures of a model's answers, and comparisons of runs by them.

Imports: rewards (geometry, text, values), rex_rl.config, rex_rl.data, rex_rl.errors, rex_rl.interfaces,
rex_rl.language, rex_rl.run, rex_rl.types.

Begin with figures.py, then image_result.py and heldout.py; then comparison.py and credit_trials.py.
"""
