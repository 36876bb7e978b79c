"""Published tables, run again at the size of this machine: `make table TABLE=dpe DATA=...`.

A table is a module of this folder with these names:

    ABOUT                        one line for `--help`
    cells(request)               the units of work, each resumable, in an order in which later ones may use earlier ones
    report(request, results)     what the finished cells say: Markdown, figures for machines, a plot
    TABLE_SIZES                  the sizes that it has, where they are not small and full

`runner.py` keeps each finished cell in build/tables, so a run that is stopped goes on where it was; `results.py` writes
docs/results/TABLE.md, .json and a plot, with the command, the hardware and the time.
"""
