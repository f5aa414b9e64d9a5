"""Every kind of process is killed or stopped at every kind of moment, through the command line."""
