"""Faults: processes killed, disks full, databases away, clients that misbehave; what must hold after each."""
