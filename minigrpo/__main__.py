import sys

from minigrpo.cli import main

sys.exit(main())
