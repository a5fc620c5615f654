"""The parts of `rex-rl bench` that run engines and actors: rollout, step and sync.

Imports: actors.cluster, actors.learner, actors.rollout, actors.weights; rex_rl.bench, config, data, errors, language,
learning, policy, shapes, types.
Begin with setup.py, then rollout.py.
"""
