"""What is made of a model's scores after training: calibration, thresholds and sets of answers."""
