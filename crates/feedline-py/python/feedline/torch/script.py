"""The main module of processes that a script of ``python -m feedline.torch`` starts: the script again, after ``patch()``."""

from .hosts import begin_script

exec(begin_script(globals()))
