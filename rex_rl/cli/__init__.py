"""The command line `rex-rl`: arguments, exit statuses, and what goes to standard output.

Imports: rex_rl.bench, config, data, errors, evaluation, launch, plan, report, scoring, shapes; most of them inside the
commands, so that `--help` is quick.
Begin with main.py, then data.py.
"""
