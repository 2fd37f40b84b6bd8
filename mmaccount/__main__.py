"""python -m mmaccount"""

import sys

from mmaccount.cli import main

sys.exit(main())
