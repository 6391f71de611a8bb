"""Run folders: many structures, of which nothing that was recorded is lost or computed again."""
