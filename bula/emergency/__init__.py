"""Answer emergencies with 192 or 188, before any model does.

finding.py decides, by the words of the other modules and by meaning.py. answers.py has the texts.
"""
