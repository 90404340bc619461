"""`python -m embstore.index`."""

from embstore.index import main

raise SystemExit(main())
