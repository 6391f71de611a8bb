"""Jobs of the site's scheduler that compute a run folder."""
