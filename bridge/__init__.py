"""From a checkpoint to a robot: export, safety and the control loop, which C MuJoCo and the hardware share."""
