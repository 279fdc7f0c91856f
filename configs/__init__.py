"""Configurations: one file per dataset and variant."""
