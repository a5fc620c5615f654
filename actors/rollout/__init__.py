"""Rollout: workers with a vLLM engine each, and the pool that deals prompts to them and replaces lost ones.

Imports: actors.identity, actors.weights; rex_rl.config, data, errors, language, policy, rollout, run, types.
Begin with worker.py, then engine.py, pool.py and seat.py.
"""
