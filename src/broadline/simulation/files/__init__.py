"""The files of simulated surveys: each archive's own layouts, and truth catalogues as its users have them."""
