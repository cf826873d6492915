"""Faults that runs, results and data must survive: a module for each kind, tried by scripts/fault_campaign.py."""
