"""What starts, watches and records a stage. It decides no byte of an output, so it is no dependency of any stage."""
