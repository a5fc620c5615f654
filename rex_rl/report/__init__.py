"""Pictures and pages: predictions drawn over an image, and `report.html` of a run.

Imports: rex_rl.data, rex_rl.errors, rex_rl.evaluation, rex_rl.language, rex_rl.run, rex_rl.types.

Begin with run_report.py, then page.py, draw.py and sheet.py; prediction.py is one answer as JSON and as a picture.
"""
