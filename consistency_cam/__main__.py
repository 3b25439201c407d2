"""`python -m consistency_cam` is `consistency-cam`."""
import sys

from .cli import main

sys.exit(main())
