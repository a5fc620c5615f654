"""A run's configuration: every key with its type, default, bounds and meaning, and the checks between keys.

Imports: rex_rl.errors and, for the names of tasks, rex_rl.language.
Begin with schema.py (model, data, SFT, GRPO), then reward.py and actors.py; load.py puts them together from a YAML
file, reference.py lists them for `rex-rl config`.
"""
