"""`python -m worker_sdk module:worker`: the same as `fetchlock worker module:worker`."""

import sys

from worker_sdk._cli import main

sys.exit(main())
