"""All faults, by name."""

from __future__ import annotations

from tests.faults import (
    away,
    clock,
    full_disk,
    kill_indexer,
    kill_postgres,
    kill_service,
    read_only_disk,
    slow_clients,
    truncated,
)

FAULTS = {
    fault.name: fault
    for fault in (
        kill_service.FAULT,
        kill_indexer.FAULT,
        kill_postgres.FAULT,
        full_disk.FAULT,
        read_only_disk.FAULT,
        away.STOPPED,
        away.UNREACHABLE,
        slow_clients.FAULT,
        truncated.FAULT,
        clock.FAULT,
    )
}
