"""What every process needs: logs, a console, a claim on its folder, a parent to die with."""
