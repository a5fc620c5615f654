"""Training data: record files and COCO files, their checks, image files, splits and the prompt stream.

A bad record is named, skipped and counted, so that what leaves this package needs no further check.
Imports: rex_rl.config, errors, language, types; rewards.geometry; for the synthetic world rex_rl.shapes, when used.
Begin with records.py, then record_checks.py and images.py; splits.py and stream.py are what a run uses.
"""
