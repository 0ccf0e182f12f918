"""The published FAST world: its artefacts, exactly, with the quirks that its text brings along."""
