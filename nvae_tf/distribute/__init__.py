"""Devices, replicas and local processes."""
