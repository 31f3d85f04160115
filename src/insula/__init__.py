"""Insula: a self-hosted function platform with AWS Lambda's API and tenant isolation mode."""

__version__ = "0.1.0"
