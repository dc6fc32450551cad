"""Run ``python -m toponas_fx`` as the command ``toponas-fx``."""

from toponas_fx.command.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
