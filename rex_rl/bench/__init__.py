"""What `rex-rl bench` measures, and the figures it prints. actors/bench/ has the parts that start engines and actors.

Imports: rewards; rex_rl.config, data, errors, grpo, interfaces, language, plan, policy, rollout, shapes, types.
Begin with benches.py, then figure.py.
"""
