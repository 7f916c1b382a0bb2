"""The rules, one file a family of operators, each with a table in alphabetical order."""
