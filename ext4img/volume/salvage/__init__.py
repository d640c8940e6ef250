"""Reading where the structures that lead to data are destroyed."""
