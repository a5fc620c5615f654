"""The way of the weights from the learner to the rollout workers: buckets, digests, and the receiver inside vLLM.

Imports: rex_rl.run.
Begin with sync.py, then buckets.py and receiver.py.
"""
