"""`python -m rex_rl` is `rex-rl`."""

from rex_rl.cli.main import main

main()
