"""python -m mmaccount"""

import sys

from mmaccount.commands.main import main

sys.exit(main())
