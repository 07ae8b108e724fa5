"""The `webdistill` program, a module or folder for each command. No stage imports this."""

from webdistill.harness.lifetime import quiet_interrupt

quiet_interrupt()
