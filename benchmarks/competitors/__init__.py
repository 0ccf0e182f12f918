"""Other people's packages, each driven as its documentation says. A package is imported only by what needs it."""
