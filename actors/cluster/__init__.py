"""The actors of one run on a Ray cluster: where they fit, how they start and end, what other shells see of them.

Imports: actors.identity, actors.learner, actors.rollout, actors.weights; rex_rl.config, errors, language, learning,
rollout, scoring, types.
Begin with cluster.py, then handles.py.
"""
