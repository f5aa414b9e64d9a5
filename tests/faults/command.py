"""`nmtasync`, with a fault in one of its processes."""

from nmtasync.machine import fork_server

fork_server._PRELOADED += ("tests.faults.inject",)

if __name__ == "__main__":
    from cli.entry import main
    from tests.faults import inject  # noqa: F401

    main()
