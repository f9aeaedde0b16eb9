"""What people see: questions and answers, contact sheets, progress, the state of a run.

Every module here reads what the rooms below have made (the catalog, the plan, the engine's events)
and turns it into tables, pictures and lines. Nothing here changes an output, save for the sheets
it is asked to write.
"""
