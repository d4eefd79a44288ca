"""Environments as records of pure functions: floor 1, which imports core alone.

Each environment library has one adapter here, imported when it is asked for; nothing is imported with the folder.
"""
