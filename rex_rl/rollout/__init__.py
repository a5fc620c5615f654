"""The order of prompts through rollout, without any process: the feed, dynamic sampling, states of a worker.

Imports: rex_rl.config, data, errors, interfaces, learning, types.
Begin with feed.py, then dynamic_sampling.py and worker_states.py.
"""
