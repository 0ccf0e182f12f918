"""What was tried before the settings were fixed; printed in the report."""

LOOKED_AT = "TODO"
