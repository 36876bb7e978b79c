"""Published tables, run again at the size of this machine: `make table TABLE=dpe DATA=...`.

A table is a package of this folder whose table.py has these names:

    TABLE_SIZES                  the sizes that it has, of runner.SIZES
    cells(request)               the units of work, each resumable, in an order in which later ones may use earlier ones
    report(request, results)     what the finished cells say: Markdown, figures for machines, a plot

plans.yaml says how large each table's experiment is. `runner.py` keeps each finished cell in build/tables, so a run that
is stopped goes on where it was; `results.py` writes docs/results/TABLE.md, .json and a plot, with the command, the
hardware and the time.
"""
