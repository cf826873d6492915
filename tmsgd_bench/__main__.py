"""The command ``tmsgd-bench``, also ``python -m tmsgd_bench``: see ``tmsgd_bench.cli``."""

from tmsgd_bench import extras

with extras.explained():
    from tmsgd_bench.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
