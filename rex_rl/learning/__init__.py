"""From scored answers to what a learner computes: advantages and credit of tokens, micro-batches, the policy loss.

Pure functions of arrays and tensors; the network, the optimizer and the ranks are elsewhere.
Imports: rex_rl.config, rex_rl.types.
Begin with advantage.py and token_credit.py, then batch.py, then loss.py and the modules that it imports.
"""
