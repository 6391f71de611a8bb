"""What only reads a root: lists, cards of models, status, the web page, doctor, checks of files, trials."""
