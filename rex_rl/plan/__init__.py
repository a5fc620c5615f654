"""`rex-rl plan`: memory of each role and seconds of a step, calculated from a model's sizes and a configuration.

Imports: rex_rl.config and errors, and the path of the shipped base from rex_rl.policy.model_folder; no torch.
Begin with plan.py, then model_costs.py (operations), memory.py (bytes of a learner rank) and gpus.py (data sheets).
"""
