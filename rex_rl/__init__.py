"""GRPO post-training of vision-language models that answer with boxes, points, polygons, key points or text.

This package owns the loops, their data, learning and figures; actors owns the processes, rewards the reward terms.
Imports: rewards; launch.py alone imports actors.
Begin with grpo.py, then interfaces.py, types.py and launch.py.
"""
