import sys

from minigrpo.run.cli import main

sys.exit(main())
