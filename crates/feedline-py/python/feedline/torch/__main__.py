"""``python -m feedline.torch [--seeds worker] SCRIPT ARGUMENTS``, or ``-m MODULE ARGUMENTS``: runs a script after ``patch()``."""

import argparse
import os
import sys

from .hosts import begin_script, start_script

parser = argparse.ArgumentParser(
    prog="python -m feedline.torch",
    description="Runs a script with Feedline's DataLoader in the place of torch's. torchrun -m feedline.torch does on many processes.",
    allow_abbrev=False,
)
parser.add_argument("--seeds", choices=["sample", "worker"], default="sample", help='"worker" is the scheme of torch')
parser.add_argument("-m", "--module", action="store_true", help="SCRIPT is the name of a module, as that of python -m")
parser.add_argument("script", metavar="SCRIPT")
parser.add_argument("arguments", metavar="ARGUMENTS", nargs=argparse.REMAINDER, help="those of the script")
given = parser.parse_args()
if not given.module and not os.path.isfile(given.script):
    parser.error(f"there is no file {given.script}. Give a module with -m: python -m feedline.torch -m package.module")
start_script(given.script, given.module, given.seeds)
sys.argv[1:] = given.arguments
exec(begin_script(globals()))
