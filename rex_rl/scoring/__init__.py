"""The reward of a configuration: built-in and user's own terms, canaries that try to cheat it, offline scores of files.

Imports: rewards, rex_rl.config, rex_rl.data, rex_rl.errors, rex_rl.language, rex_rl.types.
Begin with reward_rule.py, then custom_terms.py; canaries.py and cheats.py; score.py stands alone.
"""
