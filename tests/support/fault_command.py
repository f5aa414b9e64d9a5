"""`nmtasync`, with a fault in one of its processes."""

from nmtasync.machine import fork_server

fork_server._PRELOADED += ("tests.support.fault_injection",)

if __name__ == "__main__":
    from cli.entry import main
    from tests.support import fault_injection  # noqa: F401

    main()
