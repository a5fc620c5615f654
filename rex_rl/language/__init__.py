"""The language of questions and answers: tokens, tasks, the answer grammar and its coordinate grid.

Imports: rewards (geometry, records), rex_rl.errors, rex_rl.types.

Begin with tasks.py, vocabulary.py and codec.py, then grid.py with rle.py. Answers are read by answer_reader.py,
segment_shapes.py, keypoint_reader.py and decoded.py. repeats.py detects answers that loop.
"""
