"""The processes of a run on a Ray cluster: DeepSpeed learner ranks, vLLM rollout workers, reward workers.

Imports: ray, torch, deepspeed, vllm and the packages of rex_rl; not rex_rl.launch or rex_rl.cli.
rex_rl/launch.py is the one module of rex_rl that imports this package.
Begin with cluster/cluster.py, then rollout/pool.py and learner/rank.py.
"""
