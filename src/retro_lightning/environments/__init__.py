"""Environments with text in and text out, and the checker that any of them can be run through."""

from retro_lightning.environments.check import ContractError, Report, check

__all__ = ["ContractError", "Report", "check"]
