"""The learner: one DeepSpeed rank per actor, for SFT and GRPO.

Imports: actors.identity, actors.weights; rex_rl.config, data, errors, language, learning, policy, run, types.
Begin with rank.py, then deepspeed_engine.py.
"""
