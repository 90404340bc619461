"""The steps of `trunkline data`: each module offers `add_arguments(parser)` and `run(args)`."""
